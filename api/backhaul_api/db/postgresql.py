"""PostgreSQL: connections that are kept, transactions, and errors by SQLAlchemy's names.

A statement's way to the database and back is what it costs, so there are few besides those that are
asked for: connections are lent as they are, their transactions begin and end with one statement
each, and a block that only reads has none. SQLAlchemy builds the connections, and runs what is not
`constant`.

PostgreSQL may be reached through a pooler that lends another of its connections to each
transaction, as PgBouncer does. So nothing that the app does lives longer than a transaction: no
lock, no setting, and where `database_pooler` says so, no prepared statement. What reads is in a
transaction then, too: else, a statement could be prepared on one connection and run on another.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from typing import Any, Self, TypeVar

import asyncpg  # type: ignore[import-untyped]
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from backhaul_api.db.block import Executing, group, only_adds
from backhaul_api.db.statements import Changed, Ready, Statements, wrap
from backhaul_api.settings import Settings

T = TypeVar("T")

PINGED_AFTER_S = 30.0
"""A connection that nobody has used for so long may be gone without a word, as in a firewall."""

_ANSWER_MARGIN_S = 5.0  # after PostgreSQL itself should have given up
_CLOSING_LIMIT_S = 5.0

_LOST = (asyncpg.PostgresConnectionError, asyncpg.InternalClientError)
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, *_LOST)


class PostgresqlConnection(Executing):
    """A connection for one block, with those methods of SQLAlchemy's `AsyncConnection` that are
    used here."""

    def __init__(self, link: _Link, statements: Statements) -> None:
        super().__init__(statements)
        self._link = link
        self.info: dict[Any, Any] = {}
        self.on_commit: Callable[[], None] = lambda: None
        """Called once it is committed, before others may have the connection."""

    @property
    def dialect(self) -> sa.Dialect:
        return self._link.connection.dialect

    async def execute(self, statement: sa.Executable, parameters: Any = None) -> Any:
        if self.has_changes:
            await self.write_changes()
        ready = self._statements.find(statement, parameters)
        if ready is None:
            return await self._link.connection.execute(statement, parameters)
        driver = self._link.driver
        if isinstance(parameters, list):
            return await self.execute_many(ready, ready.bind_all(parameters))
        values = ready.bind(parameters or {})
        with self._link.running(ready.text, values):
            if ready.gives_rows:
                return ready.build_result(await driver.fetch(ready.text, *values))
            return Changed(_count(await driver.execute(ready.text, *values)))

    async def execute_many(self, ready: Ready, many: list[tuple[Any, ...]]) -> Any:
        driver = self._link.driver
        with self._link.running(ready.text, many):
            if ready.gives_rows:
                return ready.build_result(await driver.fetchmany(ready.text, many))
            await driver.executemany(ready.text, many)
        return Changed(-1)  # it does not tell

    async def execute_long(self, statement: sa.Executable, parameters: Any) -> Any:
        return await self.execute(statement, parameters)

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> Any:
        return await self._link.connection.exec_driver_sql(statement, parameters)

    async def run_sync(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._link.connection.run_sync(work, *arguments)

    async def get_raw_connection(self) -> Any:
        return await self._link.connection.get_raw_connection()

    def begin_nested(self) -> _Savepoint:
        return _Savepoint(self, self._link)

    async def execute_last(self, statement: sa.Executable, parameters: Any) -> Any:
        """Execute the last statement of a transaction, a constant one that gives rows, and on the
        same way to the database what could wait until then."""
        ready = self._statements.find(statement, parameters)
        assert ready is not None  # noqa: S101 (it is constant)
        texts, values = await self._write_what_is_many()
        text = _join((*texts, ready.text))
        values += ready.bind(parameters)
        with self._link.running(text, tuple(values)):
            return ready.build_result(await self._link.driver.fetch(text, *values))

    async def write_postponed(self) -> None:
        """Write what can wait no longer."""
        texts, values = await self._write_what_is_many()
        if texts:
            await self._execute_joined(texts, values)

    async def _write_what_is_many(self) -> tuple[tuple[str, ...], list[Any]]:
        """Write what waits, but for single rows, which one statement can insert together; gives
        their texts and values."""
        await self.write_changes()
        texts: list[str] = []
        joined: list[Any] = []
        postponed, self.postponed = self.postponed, []
        for text, many in group(postponed).items():
            # Two changes of one row in one statement would be one.
            if len(many) == 1 and only_adds(text):
                texts.append(text)
                joined += many[0]
                continue
            if texts:
                # In their order: a row may refer to one that was added before.
                await self._execute_joined(texts, joined)
                texts, joined = [], []
            if not only_adds(text):
                # In one order, so that two who change several rows cannot wait for each other.
                many.sort(key=repr)
            with self._link.running(text, many):
                await self._link.driver.executemany(text, many)
        return tuple(texts), joined

    async def _execute_joined(self, texts: Sequence[str], values: Sequence[Any]) -> None:
        text = _join(tuple(texts))
        with self._link.running(text, tuple(values)):
            await self._link.driver.execute(text, *values)


class Postgresql:
    """The connections to one database."""

    def __init__(self, url: str, settings: Settings, **options: Any) -> None:
        self._engine = create_async_engine(
            url,
            poolclass=sa.NullPool,
            # Transactions are begun and ended here.
            isolation_level="AUTOCOMMIT",
            connect_args=_build_connect_arguments(settings),
            **options,
        )
        self.engine = self._engine.sync_engine
        self._statements = Statements(self.engine.dialect)
        self._is_pooled = settings.database_pooler == "transaction"
        self._kept = settings.database_pool_size
        self._most = settings.database_pool_size + settings.database_pool_overflow
        self._patience_s = settings.database_pool_patience
        self._free = asyncio.Semaphore(self._most)
        self._idle: list[_Link] = []
        self._lent: set[_Link] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[PostgresqlConnection]:
        """Lend a connection. Each statement sees what was there when it began."""
        async with self._lend(in_transaction=self._is_pooled) as link:
            yield PostgresqlConnection(link, self._statements)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[PostgresqlConnection]:
        """Lend a connection in a transaction, committed at the end of the block."""
        async with self._lend(in_transaction=True) as link:
            connection = PostgresqlConnection(link, self._statements)
            yield connection
            await connection.write_postponed()
            await link.commit()
            connection.on_commit()

    @asynccontextmanager
    async def borrowing(self) -> AsyncIterator[Any]:
        """Lend the driver's own connection, outside of any transaction. It is used for nothing
        else, before or after."""
        async with self._place():
            link = await self._connect()
            self._lent.add(link)
            try:
                yield link.driver
            finally:
                self._lent.discard(link)
                await link.close()

    async def close(self) -> None:
        """Close all connections, when the blocks that have one are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_LIMIT_S):
                for _ in range(self._most):
                    await self._free.acquire()
        if self._connecting:
            await asyncio.wait(self._connecting)
        idle, self._idle = self._idle, []
        for link in [*idle, *self._lent]:
            await link.close()
        await self._engine.dispose()
        self._free = asyncio.Semaphore(self._most)

    @asynccontextmanager
    async def _lend(self, *, in_transaction: bool) -> AsyncIterator[_Link]:
        async with self._place() as free:
            link = await self._take(in_transaction=in_transaction)
            self._lent.add(link)
            is_good = False
            try:
                yield link
                is_good = True
            except OSError:
                raise  # no answer in time, say: it may come yet, and would be taken for another one
            except sa.exc.DBAPIError as error:
                is_good = not error.connection_invalidated
                raise
            except Exception:
                is_good = True  # the block failed, and not the connection
                raise
            finally:
                self._lent.discard(link)
                is_kept = False
                try:
                    is_kept = is_good and await link.rest() and self._may_keep(free)
                finally:
                    if is_kept:
                        self._idle.append(link)
                    else:
                        await link.close()

    def _may_keep(self, free: asyncio.Semaphore) -> bool:
        # After `close`, the places are others.
        return free is self._free and len(self._idle) < self._kept

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[asyncio.Semaphore]:
        """Wait for one of the places that connections have; gives whose it is."""
        free = self._free
        if free.locked():
            try:
                async with asyncio.timeout(self._patience_s):
                    await free.acquire()
            except TimeoutError as error:
                raise sa.exc.TimeoutError("no connection came free") from error
        else:
            await free.acquire()
        try:
            yield free
        finally:
            free.release()

    async def _take(self, *, in_transaction: bool) -> _Link:
        """Take a connection that lives, and begin."""
        while self._idle:
            link = self._idle.pop()
            try:
                if link.driver.is_closed():
                    await link.close()
                    continue
                if in_transaction:
                    await link.run("BEGIN")
                elif link.has_rested_for(PINGED_AFTER_S):
                    await link.run("SELECT 1")  # of an empty query, asyncpg makes an error
            except BaseException as error:
                await link.close()
                if not isinstance(error, (sa.exc.DBAPIError, OSError)):
                    raise
            else:
                return link
        link = await self._connect()
        if in_transaction:
            try:
                await link.run("BEGIN")
            except BaseException:
                await link.close()
                raise
        return link

    async def _connect(self) -> _Link:
        """Open a connection. Whoever is cancelled meanwhile leaves it to others."""
        connecting = asyncio.create_task(_Link.open(self._engine.connect()))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            keeping = asyncio.create_task(self._keep(connecting, self._free))
            self._connecting.add(keeping)
            keeping.add_done_callback(self._connecting.discard)
            raise
        except _DRIVER_ERRORS as error:
            # As it was set up, where SQLAlchemy leaves errors as they are.
            raise ConnectionError("the connection is gone") from error

    async def _keep(self, connecting: asyncio.Task[_Link], free: asyncio.Semaphore) -> None:
        with suppress(Exception):
            link = await connecting
            if self._may_keep(free):
                self._idle.append(link)
            else:
                await link.close()


class _Link:
    """One connection, as SQLAlchemy has it and as the driver has it."""

    def __init__(self, connection: AsyncConnection, driver: Any) -> None:
        self.connection = connection
        self.driver = driver
        self._loop = asyncio.get_running_loop()
        self._rests_since = self._loop.time()

    @classmethod
    async def open(cls, connection: AsyncConnection) -> Self:
        await connection.start()
        return cls(connection, (await connection.get_raw_connection()).driver_connection)

    async def run(self, text: str) -> None:
        """Run a statement without parameters."""
        with self.running(text, ()):
            await self.driver.execute(text)

    async def commit(self) -> None:
        """Commit the transaction.

        Raises:
            sa.exc.InvalidRequestError: it was undone, which PostgreSQL calls no error, because a
                statement in it had failed.
        """
        with self.running("COMMIT", ()):
            answer = await self.driver.execute("COMMIT")
        if answer != "COMMIT":
            raise sa.exc.InvalidRequestError(f"PostgreSQL answered {answer} to COMMIT")

    @contextmanager
    def running(self, text: str, values: Any) -> Iterator[None]:
        """Tell of what is run in the block as SQLAlchemy's engine does, and of its errors."""
        sync = self.connection.sync_engine
        for tell in sync.dispatch.before_cursor_execute:
            tell(self.connection.sync_connection, None, text, values, None, type(values) is list)
        try:
            yield
        except _DRIVER_ERRORS as error:
            raise _wrap(error, text, self) from error

    async def rest(self) -> bool:
        """Undo what was not committed; false if the connection is of no use any more."""
        driver = self.driver
        try:
            if self.connection.in_transaction():
                # SQLAlchemy's own idea of one, in which it has run its statements.
                await self.connection.rollback()
            if driver.is_closed():
                return False
            if driver.is_in_transaction():
                await driver.execute("ROLLBACK")
        except (*_DRIVER_ERRORS, sa.exc.SQLAlchemyError, OSError):
            return False
        self._rests_since = self._loop.time()
        return True

    def has_rested_for(self, seconds: float) -> bool:
        return self._loop.time() - self._rests_since > seconds

    async def close(self) -> None:
        """Close without a word to the database, which undoes what was not committed."""
        self.driver.terminate()
        await self.connection.close()


class _Savepoint:
    """A savepoint for one block. PostgreSQL finds the innermost one of a name."""

    def __init__(self, connection: PostgresqlConnection, link: _Link) -> None:
        self._connection = connection
        self._link = link
        self._kept = len(connection.postponed)

    async def __aenter__(self) -> Self:
        await self._connection.write_changes()
        await self._link.run("SAVEPOINT block")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            await self._undo(kind)
            return
        try:
            await self._connection.write_changes()
        except BaseException as error:
            await self._undo(type(error))
            raise
        await self._link.run("RELEASE block")

    async def _undo(self, kind: type[BaseException]) -> None:
        self._connection.forget_changes()
        del self._connection.postponed[self._kept :]
        if issubclass(kind, Exception) and not self._link.driver.is_closed():
            await self._link.run("ROLLBACK TO block; RELEASE block")


def _wrap(error: Exception, text: str, link: _Link) -> Exception:
    """Wrap an error of the driver as SQLAlchemy does."""
    dbapi: Any = link.connection.dialect.loaded_dbapi
    kind = dbapi.Error
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        kind = dbapi.IntegrityError
    elif isinstance(error, asyncpg.InvalidCachedStatementError):
        kind = dbapi.InvalidCachedStatementError
    # Its own text, without the details, which show what was to be stored.
    told = kind(error.args[0] if error.args else "", error)
    is_lost = isinstance(error, _LOST) or link.driver.is_closed()
    return wrap(told, text, link.connection.dialect, is_lost=is_lost)


@cache
def _join(texts: tuple[str, ...]) -> str:
    """Join statements to one that executes them all, and gives the rows of the last one. Their
    parameters follow one another."""
    renumbered: list[str] = []
    before = 0
    for text in texts:
        numbers = [int(number) for number in _PARAMETER.findall(text)]
        renumbered.append(_PARAMETER.sub(lambda found: f"${int(found[1]) + before}", text))  # noqa: B023
        before += max(numbers, default=0)
    *others, last = renumbered
    if not others:
        return last
    parts = ", ".join(f"part_{number} AS ({text})" for number, text in enumerate(others))
    return f"WITH {parts} {last}"


_PARAMETER = re.compile(r"\$(\d+)")


def _count(status: str) -> int:
    """Read how many rows a statement has changed from what PostgreSQL says: `UPDATE 3`."""
    return int(status.rpartition(" ")[2])


UNNAMED_STATEMENTS: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,
}
"""For asyncpg: prepare each statement anew and without a name, so that it needs no more than the
transaction in which it runs."""


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
        # Of the driver, which runs the constant statements, and of SQLAlchemy, for the rest.
        "statement_cache_size": settings.database_statement_cache,
        "prepared_statement_cache_size": settings.database_statement_cache,
        "server_settings": {"application_name": "backhaul", **in_ms},
    }
