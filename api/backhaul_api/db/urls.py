"""Which databases Backhaul speaks to, and by which driver."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import sqlalchemy as sa

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_PARAMETERS = frozenset(
    {
        *("host", "port", "user", "password", "ssl", "sslmode", "target_session_attrs"),
        *("passfile", "service", "servicefile", "krbsrvname", "gsslib"),
    }
)
"""What may follow the ? of a URL for PostgreSQL: what asyncpg 0.31 takes as text, and sslmode."""

_INSTEAD = {
    "connect_timeout": "the setting is database_connect_timeout",
    "command_timeout": "the setting is database_statement_timeout",
    "statement_cache_size": "the settings are database_statement_cache and database_pooler",
    "prepared_statement_cache_size": "the settings are database_statement_cache and "
    "database_pooler",
    "channel_binding": "the driver has none; leave it out",
    **{
        name: f"name the file in the environment variable PG{name.upper()}"
        for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl")
    },
}

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


class DatabaseUrlError(Exception):
    """The database URL cannot be used; the message says why, without its password."""


def check_database_url(text: str) -> str:
    """Build the URL with its driver: `postgresql://…` becomes `postgresql+asyncpg://…`.

    Raises:
        DatabaseUrlError: not a URL, not a database that Backhaul knows, its driver is missing, or
            it has a parameter that Backhaul does not know.
    """
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        # Its own message shows the whole text, and with it a password.
        raise DatabaseUrlError(f"the database URL is not a URL; write {_FORMS}") from error
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise DatabaseUrlError(f"the database {url.drivername!r} is not known; write {_FORMS}")
    if driver.startswith("sqlite") and url.database in {None, "", ":memory:"}:
        raise DatabaseUrlError("SQLite needs a file: write sqlite:////path/to/backhaul.sqlite3")
    if driver.endswith("asyncpg") and importlib.util.find_spec("asyncpg") is None:
        raise DatabaseUrlError(
            "the driver for PostgreSQL is missing; run: pip install 'backhaul[postgresql]'"
        )
    url = _check_parameters(url.set(drivername=driver))
    return url.render_as_string(hide_password=False)


def _check_parameters(url: sa.URL) -> sa.URL:
    """Refuse what the driver does not take, and say `sslmode` in its words."""
    known = frozenset[str]() if url.get_backend_name() == "sqlite" else _PARAMETERS
    for name, value in url.query.items():
        if name not in known:
            remedy = _INSTEAD.get(name, "leave it out")
            raise DatabaseUrlError(f"the database URL has an unknown parameter {name!r}: {remedy}")
        if isinstance(value, tuple) and name not in {"host", "port"}:
            raise DatabaseUrlError(f"the database URL has the parameter {name!r} more than once")
    url = _place_password(_translate_ssl_mode(url))
    _check_address(url)
    return url


def _translate_ssl_mode(url: sa.URL) -> sa.URL:
    named = [name for name in ("sslmode", "ssl") if name in url.query]
    if not named:
        return url
    if len(named) > 1:
        raise DatabaseUrlError("the database URL has both sslmode and ssl: leave ssl out")
    mode = str(url.query[named[0]])
    if mode not in _SSL_MODES:
        raise DatabaseUrlError(
            f"{named[0]} in the database URL must be one of {', '.join(_SSL_MODES)}"
        )
    return url.difference_update_query(named).update_query_dict({"ssl": mode})


def _place_password(url: sa.URL) -> sa.URL:
    """Put user and password where a password is hidden when the URL is shown."""
    user = str(url.query.get("user", url.username or ""))
    password = str(url.query.get("password", url.password or ""))
    if password and not user:
        raise DatabaseUrlError("the database URL has a password and no user: add ?user=NAME")
    placed = url.set(username=user or None, password=password or None)
    return placed.difference_update_query(["user", "password"])


def _check_address(url: sa.URL) -> None:
    """Refuse hosts and ports that SQLAlchemy would refuse in words of its own."""
    try:
        url.get_dialect()().create_connect_args(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise DatabaseUrlError(
            "the hosts and ports in the database URL do not fit: a port is a number, and of "
            "several hosts each has one"
        ) from error


def sqlite_file(url: str) -> Path | None:
    """Give the file of an SQLite database; None for another database."""
    parsed = sa.make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return Path(parsed.database) if is_sqlite and parsed.database else None


_FORMS = "sqlite:////path/to/file or postgresql://user:password@host/database"
