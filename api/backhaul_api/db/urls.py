"""Which databases Backhaul speaks to, and by which driver."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import sqlalchemy as sa

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
        DatabaseUrlError: not a URL, not a database that Backhaul knows, or its driver is missing.
    """
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
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
    return url.set(drivername=driver).render_as_string(hide_password=False)


def sqlite_file(url: str) -> Path | None:
    """Give the file of an SQLite database; None for another database."""
    parsed = sa.make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return Path(parsed.database) if is_sqlite and parsed.database else None


_FORMS = "sqlite:////path/to/file or postgresql://user:password@host/database"
