"""Connections: one way to read, one way to write, on SQLite and PostgreSQL alike.

A connection is held for one short block and never across a wait: a parked poll holds none. See
`sqlite`, which is given to one process, and `postgresql`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backhaul_api.db import changes
from backhaul_api.db.sqlite import Sqlite, SqliteConnection
from backhaul_api.errors import NotReadyError
from backhaul_api.logs import facts
from backhaul_api.settings import Settings

if TYPE_CHECKING:
    from backhaul_api.db.postgresql import Postgresql

# PostgreSQL 18 manual, Appendix A: no connection, a transaction that idled for too long, a deadlock
# or another transaction that was first, too many connections, a statement that took too long, a
# server that starts or stops.
_PASSING_STATES = ("08", "25P03", "40001", "40P01", "53", "57014", "57P")

_FULL_STATE = "53100"

_SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SQLITE_OUT_OF_ORDER = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
"""No room, a disk that fails, a file system that is gone or that nobody may write on any more."""

# Of a prepared statement that is another client's, or on another of the pooler's connections.
_POOLED_STATES = frozenset({"26000", "42P05"})

_MARKS = 2**31

_DEFAULTS = Settings()

# An instance of a newer version has widened a column; the statement is prepared anew next time.
_OUTDATED_STATEMENT = AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError

log = logging.getLogger(__name__)


def open_database(settings: Settings) -> Database:
    """Build the database that the settings name. Nothing connects yet."""
    return Database(settings.effective_database_url, settings)


class Database:
    """The database of one process; the settings say how it is used."""

    def __init__(self, url: str, settings: Settings = _DEFAULTS) -> None:
        self.url = sa.make_url(url)
        self.on_changes: Callable[[changes.Touched], None] = lambda _: None
        """Called after each commit with whom it touched: see `changes.touch`."""
        self.on_committing: Callable[[list[object]], Callable[[], None] | None] = lambda _: None
        """Called before a commit with the news that whom it touches is to be told: see
        `changes.touch_with_news`. Gives what can be done while it is under way, if anything."""
        self.feed = changes.Feed()
        """What other processes on the same database have touched."""
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._backend: Sqlite | Postgresql
        if self.is_sqlite:
            patience_s = settings.database_pool_patience
            self._backend = Sqlite(self.url, patience_s=patience_s, **OPTIONS)
            self._backend.on_committing = self._prepare
            self._backend.on_commit = self._tell
        else:
            # Only here, for its driver is an extra.
            from backhaul_api.db.postgresql import Postgresql

            self._backend = Postgresql(url, settings, **OPTIONS)

    @property
    def sync_engine(self) -> sa.Engine:
        """SQLAlchemy's engine, whose events tell of every statement."""
        return self._backend.engine

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection to read with.

        Raises:
            NotReadyError: the database does not answer now.
        """
        with _explaining():
            async with self._backend.reading() as connection:
                yield cast("AsyncConnection", connection)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction: committed at the end of the block, undone by any
        exception. Whoever it touched is told of it afterwards.

        Raises:
            NotReadyError: the database does not answer now, or gave way to another transaction.
        """
        with _explaining():
            async with self._backend.writing() as lent:
                yield cast("AsyncConnection", lent)
                if isinstance(lent, SqliteConnection):
                    return
                meanwhile = self._prepare([lent])
                if touched := changes.take_touched(lent):
                    row = await changes.write(lent, touched)
                    lent.on_commit = partial(self._tell_of, row, touched)
                if meanwhile is not None:
                    # In the next turn of the loop, when the COMMIT is on its way.
                    asyncio.get_running_loop().call_soon(meanwhile)

    def _tell_of(self, row: changes.Row, touched: changes.Touched) -> None:
        self.feed.note_own(row)
        self.on_changes(touched)

    def _prepare(self, committing: Iterable[changes.HasInfo]) -> Callable[[], None] | None:
        news = [one for connection in committing for one in changes.list_news(connection)]
        return self.on_committing(news) if news else None

    def _tell(self, committed: Iterable[SqliteConnection]) -> None:
        touched = [changes.take_touched(connection) for connection in committed]
        if any(touched):
            self.on_changes(changes.join(touched))

    def read_mark(self) -> int | None:
        """Read what is another number once another program has left its mark.

        None if nobody can tell now. On PostgreSQL `changes` tells instead.
        """
        return self._backend.read_mark() if isinstance(self._backend, Sqlite) else 0

    async def leave_mark(self, connection: AsyncConnection) -> None:
        """Leave a mark, in the transaction of a change that is made past the process that serves.

        On SQLite nothing else tells it.
        """
        if self.is_sqlite:
            mark = (await connection.exec_driver_sql("PRAGMA user_version")).scalar() or 0
            # The pragma takes no parameters; it is a 32-bit number of the file's header.
            following = (mark + 1) % _MARKS
            await connection.exec_driver_sql(f"PRAGMA user_version = {following}")

    @asynccontextmanager
    async def borrowing(self) -> AsyncIterator[Any]:
        """Lend the driver's own connection for the block, outside of any transaction. PostgreSQL
        only."""
        assert not isinstance(self._backend, Sqlite)  # noqa: S101
        with _explaining():
            async with self._backend.borrowing() as driver:
                yield driver

    async def close(self) -> None:
        await self._backend.close()


def build_single_engine(url: str) -> AsyncEngine:
    """Build what lends single connections to a command that may take its time: without a pool,
    limits, or names that a pooler would confuse."""
    arguments: dict[str, Any] = {}
    if sa.make_url(url).get_backend_name() == "postgresql":
        from backhaul_api.db.postgresql import UNNAMED_STATEMENTS

        arguments = UNNAMED_STATEMENTS
    return create_async_engine(url, poolclass=sa.NullPool, connect_args=arguments, **OPTIONS)


@contextmanager
def _explaining() -> Iterator[None]:
    """Tell what passes by itself from a fault of the code. Only the database raises in there."""
    reason: Exception
    try:
        yield
    except (sa.exc.TimeoutError, OSError) as error:
        reason = error
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        if _shows_pooler(error):
            raise NotReadyError(_POOLER_HINT) from error
        if (ailment := _find_ailment(error)) is not None:
            log.error("database.out_of_order", extra=facts(reason=ailment))
            raise NotReadyError(_OUT_OF_ORDER.format(ailment)) from error
        if not _is_passing(error):
            raise
        reason = error
    else:
        return
    log.warning("database.unreachable", extra=facts(reason=_name(reason)))
    raise NotReadyError("The database does not answer now. Try again in a few seconds.") from reason


def _find_ailment(error: Exception) -> str | None:
    """Tell what keeps the database from working until a person does something about it."""
    cause = _cause_of(error)
    if _sqlite_code_of(cause) in _SQLITE_OUT_OF_ORDER:
        return str(cause)  # SQLite's own words, which show nothing of the statement
    return "its disk is full" if getattr(cause, "sqlstate", None) == _FULL_STATE else None


def _is_passing(error: Exception) -> bool:
    cause = _cause_of(error)
    if getattr(error, "connection_invalidated", False) or isinstance(cause, _OUTDATED_STATEMENT):
        return True
    if isinstance(cause, sqlite3.Error):
        return _sqlite_code_of(cause) in _SQLITE_BUSY
    return str(getattr(cause, "sqlstate", None) or "").startswith(_PASSING_STATES)


def _shows_pooler(error: Exception) -> bool:
    """Tell whether a pooler is in the way that the settings do not know of."""
    cause = _cause_of(error)
    state = getattr(cause, "sqlstate", None)
    # PgBouncer takes few parameters of a connection, and none of those that set timeouts.
    return state in _POOLED_STATES or "unsupported startup parameter" in str(cause)


def _cause_of(error: Exception) -> Any:
    """Give the driver's own error."""
    return getattr(error, "orig", error)


def _sqlite_code_of(cause: object) -> int | None:
    code = getattr(cause, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _name(error: Exception) -> str:
    """Name an error without its text, which may show a statement."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or type(error).__name__)


def _encode_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_OUT_OF_ORDER = (
    "The database cannot be used now: {}. Whoever runs this server has to see to that; nothing was "
    "changed."
)

_POOLER_HINT = (
    "There is a pooler like PgBouncer before the database. Set database_pooler to transaction "
    "(BACKHAUL_API_DATABASE_POOLER=transaction)."
)

OPTIONS: dict[str, Any] = {
    "json_serializer": _encode_json,
    "json_deserializer": msgspec.json.decode,
    # An error's text would show what was to be stored.
    "hide_parameters": True,
}
