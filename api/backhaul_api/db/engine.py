"""Connections: one way to read, one way to write, on SQLite and PostgreSQL alike.

SQLite is given to one process. Its writers queue for one connection and begin with BEGIN IMMEDIATE,
so a transaction that reads and then writes can never fail half-way for a lock; `synchronous=FULL`
makes a commit mean that the row is on disk. A connection is held for one short block and never
across a wait: a parked poll holds none.

PostgreSQL may be reached through a pooler that lends another of its connections to each
transaction, as PgBouncer does. So nothing that the app does lives longer than a transaction: no
lock, no setting, and where `database_pooler` says so, no prepared statement.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backhaul_api.errors import NotReadyError
from backhaul_api.logs import facts
from backhaul_api.settings import Settings

SQLITE_BUSY_TIMEOUT_MS = 10_000
SQLITE_READERS = 4

# PostgreSQL 18 manual, Appendix A: no connection, a transaction that idled for too long, a deadlock
# or another transaction that was first, too many connections, a statement that took too long, a
# server that starts or stops.
_PASSING_STATES = ("08", "25P03", "40001", "40P01", "53", "57014", "57P")

# Of a prepared statement that is another client's, or on another of the pooler's connections.
_POOLED_STATES = frozenset({"26000", "42P05"})

_ANSWER_MARGIN_S = 5.0  # after PostgreSQL itself should have given up

_HAS_EVENTS = "backhaul.has_events"

_DEFAULTS = Settings()

log = logging.getLogger(__name__)


def open_database(settings: Settings) -> Database:
    """Build the database that the settings name. Nothing connects yet."""
    return Database(settings.effective_database_url, settings)


class Database:
    """The database of one process; the settings say how it is used."""

    def __init__(self, url: str, settings: Settings = _DEFAULTS) -> None:
        self.url = sa.make_url(url)
        self.on_events: Callable[[], None] = lambda: None
        """Called after each commit that wrote events."""
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            patience_s = settings.database_pool_patience
            self._reader = _build_sqlite_engine(url, "BEGIN", SQLITE_READERS, patience_s)
            self._writer = _build_sqlite_engine(url, "BEGIN IMMEDIATE", 1, patience_s)
        else:
            self._reader = self._writer = create_async_engine(
                url,
                pool_size=settings.database_pool_size,
                max_overflow=settings.database_pool_overflow,
                pool_timeout=settings.database_pool_patience,
                pool_pre_ping=True,
                connect_args=_build_connect_arguments(settings),
                **OPTIONS,
            )

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection that sees one consistent state. Nothing written in it stays.

        Raises:
            NotReadyError: the database does not answer now.
        """
        with _explaining():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction: committed at the end of the block, undone by any
        exception. Wake waiters only after the block.

        Raises:
            NotReadyError: the database does not answer now, or gave way to another transaction.
        """
        with _explaining():
            async with self._writer.connect() as connection:
                # The connection comes from a pool, and may be the one of a block that was undone.
                connection.info.pop(_HAS_EVENTS, None)
                async with connection.begin():
                    yield connection
                has_events = connection.info.pop(_HAS_EVENTS, False)
        if has_events:
            self.on_events()

    async def close(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()


def build_single_engine(url: str) -> AsyncEngine:
    """Build what lends single connections to a command that may take its time: without a pool,
    limits, or names that a pooler would confuse."""
    is_sqlite = sa.make_url(url).get_backend_name() == "sqlite"
    arguments = {} if is_sqlite else UNNAMED_STATEMENTS
    return create_async_engine(url, poolclass=sa.NullPool, connect_args=arguments, **OPTIONS)


def note_events(connection: AsyncConnection) -> None:
    """Note that this transaction tells followers something, if it commits."""
    connection.info[_HAS_EVENTS] = True


@contextmanager
def _explaining() -> Iterator[None]:
    """Tell what passes by itself from a fault of the code. Only the database raises in there."""
    reason: Exception
    try:
        yield
    except (sa.exc.TimeoutError, OSError) as error:
        reason = error
    except sa.exc.DBAPIError as error:
        if _shows_pooler(error):
            raise NotReadyError(_POOLER_HINT) from error
        if not _is_passing(error):
            raise
        reason = error
    else:
        return
    log.warning("database.unreachable", extra=facts(reason=_name(reason)))
    raise NotReadyError("The database does not answer now. Try again in a few seconds.") from reason


def _is_passing(error: sa.exc.DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return str(getattr(error.orig, "sqlstate", None) or "").startswith(_PASSING_STATES)


def _shows_pooler(error: sa.exc.DBAPIError) -> bool:
    """Tell whether a pooler is in the way that the settings do not know of."""
    state = getattr(error.orig, "sqlstate", None)
    # PgBouncer takes few parameters of a connection, and none of those that set timeouts.
    return state in _POOLED_STATES or "unsupported startup parameter" in str(error.orig)


def _name(error: Exception) -> str:
    """Name an error without its text, which may show a statement."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or type(error).__name__)


def _encode_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_POOLER_HINT = (
    "There is a pooler like PgBouncer before the database. Set database_pooler to transaction "
    "(BACKHAUL_API_DATABASE_POOLER=transaction)."
)

UNNAMED_STATEMENTS: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,
}
"""For asyncpg: prepare each statement anew and without a name, so that it needs no more than the
transaction in which it runs."""

OPTIONS: dict[str, Any] = {
    "json_serializer": _encode_json,
    "json_deserializer": msgspec.json.decode,
    # An error's text would show what was to be stored.
    "hide_parameters": True,
}


def _build_connect_arguments(settings: Settings) -> dict[str, Any]:
    limit_s = settings.database_statement_timeout
    limits = {
        "statement_timeout": limit_s,
        "idle_in_transaction_session_timeout": settings.database_idle_timeout,
    }
    in_ms = {name: str(round(seconds * 1000)) for name, seconds in limits.items()}
    common = {
        "timeout": settings.database_connect_timeout,
        # For a server that says nothing more, not even that it gives up.
        "command_timeout": limit_s + _ANSWER_MARGIN_S if limit_s else None,
    }
    if settings.database_pooler == "transaction":
        return {**common, **UNNAMED_STATEMENTS}
    return {
        **common,
        "prepared_statement_cache_size": settings.database_statement_cache,
        "server_settings": {"application_name": "backhaul", **in_ms},
    }


def _build_sqlite_engine(url: str, begin: str, pool_size: int, patience_s: float) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=sa.AsyncAdaptedQueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=patience_s,
        **OPTIONS,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # The driver's own idea of when to begin would put BEGIN after the first SELECT.
        connection.isolation_level = None
        configure_sqlite(connection)

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def configure_sqlite(connection: sqlite3.Connection) -> None:
    """Set what every connection to SQLite needs."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
