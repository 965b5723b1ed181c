"""Connections: one way to read, one way to write, on SQLite and PostgreSQL alike.

SQLite is given to one process. Its writers queue for one connection and begin with BEGIN IMMEDIATE,
so a transaction that reads and then writes can never fail half-way for a lock; `synchronous=FULL`
makes a commit mean that the row is on disk. A connection is held for one short block and never
across a wait: a parked poll holds none.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backhaul_api.db import changes
from backhaul_api.errors import NotReadyError
from backhaul_api.logs import facts

SQLITE_BUSY_TIMEOUT_MS = 10_000
SQLITE_READERS = 4
POSTGRESQL_POOL_SIZE = 10
POSTGRESQL_MAX_OVERFLOW = 10
POOL_PATIENCE_S = 10.0

# PostgreSQL 18 manual, Appendix A: no connection, a deadlock or another transaction that was first,
# too many connections, a server that starts or stops.
_PASSING_STATES = ("08", "40001", "40P01", "53", "57P")

# An instance of a newer version has widened a column; the statement is prepared anew next time.
_OUTDATED_STATEMENT = AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError

log = logging.getLogger(__name__)


class Database:
    """The database of one process."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.on_changes: Callable[[tuple[UUID, ...]], None] = lambda _: None
        """Called after each commit with whom it touched: see `changes.touch`."""
        self.feed = changes.Feed()
        """What other processes on the same database have touched."""
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._reader = _build_sqlite_engine(url, begin="BEGIN", pool_size=SQLITE_READERS)
            self._writer = _build_sqlite_engine(url, begin="BEGIN IMMEDIATE", pool_size=1)
        else:
            self._reader = self._writer = create_async_engine(
                url,
                pool_size=POSTGRESQL_POOL_SIZE,
                max_overflow=POSTGRESQL_MAX_OVERFLOW,
                pool_timeout=POOL_PATIENCE_S,
                pool_pre_ping=True,
                **_OPTIONS,
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
        exception. Whoever it touched is told of it afterwards.

        Raises:
            NotReadyError: the database does not answer now, or gave way to another transaction.
        """
        with _explaining():
            async with self._writer.connect() as connection:
                # The connection comes from a pool, and may be the one of a block that was undone.
                changes.take_touched(connection)
                async with connection.begin():
                    yield connection
                    touched = changes.take_touched(connection)
                    row_id = await self._write_down(connection, touched)
        if row_id is not None:
            self.feed.note_own(row_id)
        if touched:
            self.on_changes(touched)

    async def _write_down(
        self, connection: AsyncConnection, touched: tuple[UUID, ...]
    ) -> int | None:
        # SQLite has no other process that could read it.
        return await changes.write(connection, touched) if touched and not self.is_sqlite else None

    @asynccontextmanager
    async def borrowing(self) -> AsyncIterator[Any]:
        """Lend the driver's own connection for the block, outside of any transaction."""
        with _explaining():
            async with self._writer.connect() as connection:
                yield (await connection.get_raw_connection()).driver_connection

    async def close(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()


@contextmanager
def _explaining() -> Iterator[None]:
    """Tell what passes by itself from a fault of the code. Only the database raises in there."""
    reason: Exception
    try:
        yield
    except (sa.exc.TimeoutError, OSError) as error:
        reason = error
    except sa.exc.DBAPIError as error:
        if not _is_passing(error):
            raise
        reason = error
    else:
        return
    log.warning("database.unreachable", extra=facts(reason=_name(reason)))
    raise NotReadyError("The database does not answer now. Try again in a few seconds.") from reason


def _is_passing(error: sa.exc.DBAPIError) -> bool:
    if error.connection_invalidated or isinstance(error.orig, _OUTDATED_STATEMENT):
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return str(getattr(error.orig, "sqlstate", None) or "").startswith(_PASSING_STATES)


def _name(error: Exception) -> str:
    """Name an error without its text, which may show a statement."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or type(error).__name__)


def _encode_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_OPTIONS: dict[str, Any] = {
    "json_serializer": _encode_json,
    "json_deserializer": msgspec.json.decode,
    # An error's text would show what was to be stored.
    "hide_parameters": True,
}


def _build_sqlite_engine(url: str, *, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=sa.AsyncAdaptedQueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_PATIENCE_S,
        **_OPTIONS,
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
