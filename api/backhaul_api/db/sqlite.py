"""SQLite for one process: statements run in the event loop, what waits for the disk does not.

A look-up by key takes SQLite a few microseconds, and the way into a thread and back many times
that. So statements run at once, in the loop. A thread gets what can take long: a commit, many rows
at a time, and a read that has run for `READ_LIMIT_S` in vain, which is begun again there.

Writers take turns at one connection, and what has queued up while a commit waited for the disk is
committed together: one fsync for all of it (`synchronous=FULL`: a commit means that the row is on
disk). Each but the first is a savepoint of its own, so one that fails undoes nothing of its
neighbours, and none goes on before the disk has its rows. The first one that fails undoes the
transaction, in which there is nothing else yet.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from backhaul_api.db.block import Executing, Postponed, group
from backhaul_api.db.statements import Changed, Ready, Statements, wrap
from backhaul_api.errors import NotReadyError

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_LIMIT_S = 0.05
MANY_ROWS = 200
MAX_TOGETHER = 256
"""Blocks in one transaction: the first one waits for the last."""

CHECKPOINT_EVERY = 50
"""Commits; as many pages of the log as SQLite would let come together."""

BUSY_TIMEOUT_MS = 250
"""Of what runs in the loop. Nobody but a backup of the file ever makes us wait."""

_BUSY_STEP_S = 0.01
_THREADS = 4

_HEAD_START = 3
"""Turns of the loop that those have who are woken by a commit, before whoever made it goes on: a
poll takes two to begin its look, and the answer to an operator can wait that long."""

_LOOK_EVERY = 10_000
"""Steps of SQLite's machine between two looks at the clock; some hundred microseconds."""


class SqliteConnection(Executing):
    """A connection for one block, with those methods of SQLAlchemy's `AsyncConnection` that are
    used here."""

    def __init__(self, sync: sa.Connection, statements: Statements, threads: Executor) -> None:
        super().__init__(statements)
        self._sync = sync
        self._driver = _driver_of(sync)
        self._threads = threads
        self.info: dict[Any, Any] = {}

    @property
    def dialect(self) -> sa.Dialect:
        return self._sync.dialect

    async def execute(self, statement: sa.Executable, parameters: Any = None) -> Any:
        if self.has_changes:
            await self.write_changes()
        ready = self._statements.find(statement, parameters)
        if ready is None:
            work = partial(self._sync.execute, statement, parameters)
        else:
            work = partial(self._execute, ready, parameters)
        if isinstance(parameters, list) and len(parameters) >= MANY_ROWS:
            return await self._run(work)
        if not self._driver.is_reader:
            return work()
        try:
            with self._driver.watched():
                return work()
        except sa.exc.OperationalError as error:
            if not _is_interrupted(error):
                raise
        return await self._run(work)

    async def execute_many(self, ready: Ready, many: list[tuple[Any, ...]]) -> Any:
        work = partial(self._execute_bound, ready, many)
        return await self._run(work) if len(many) >= MANY_ROWS else work()

    async def execute_long(self, statement: sa.Executable, parameters: Any) -> Any:
        await self.write_changes()
        ready = self._find_constant(statement, parameters)
        return await self._run(partial(self._execute, ready, parameters))

    def _execute(self, ready: Ready, parameters: Any) -> Any:
        """Execute a constant statement."""
        if isinstance(parameters, list):
            return self._execute_bound(ready, ready.bind_all(parameters))
        return self._execute_bound(ready, ready.bind(parameters or {}))

    def _execute_bound(self, ready: Ready, values: tuple[Any, ...] | list[tuple[Any, ...]]) -> Any:
        cursor = _run(self._sync, self._driver, ready.text, values)
        return ready.build_result(cursor.rows) if ready.gives_rows else Changed(cursor.rowcount)

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> Any:
        return self._sync.exec_driver_sql(statement, parameters)

    async def run_sync(self, work: Callable[..., T], *arguments: Any) -> T:
        return work(self._sync, *arguments)

    def begin_nested(self) -> _Savepoint:
        return _Savepoint(self, self._driver)

    async def finish(self) -> None:
        """Write at the end of the block what waits and may be read by the next block of the same
        transaction."""
        await self.write_changes()
        due = [one for one in self.postponed if not one.outlasts_block]
        if due:
            self.postponed[:] = [one for one in self.postponed if one.outlasts_block]
            await self.write_postponed(due)

    async def write_postponed(self, postponed: Iterable[Postponed]) -> None:
        """Write what can wait no longer."""
        for text, values in group(postponed).items():
            work = partial(_run, self._sync, self._driver, text, values)
            if len(values) >= MANY_ROWS:
                await self._run(work)
            else:
                work()

    async def _run(self, work: Callable[[], T]) -> T:
        """Work in a thread. Who is cancelled meanwhile waits all the same: the connection is the
        thread's until it is done, and a block that went on would not be one any more."""
        working = self._threads.submit(work)
        try:
            return await asyncio.shield(asyncio.wrap_future(working))
        except asyncio.CancelledError:
            while not (working.cancel() or working.done()):
                if self._driver.is_reader:
                    # Of a writer's, SQLite would undo the whole transaction, neighbours and all.
                    self._driver.interrupt()
                with suppress(asyncio.CancelledError):  # once more changes nothing
                    await asyncio.sleep(_BUSY_STEP_S)
            raise


class Sqlite:
    """The connections to one file."""

    def __init__(self, url: sa.URL, *, patience_s: float, **options: Any) -> None:
        self._path = str(url.database)
        self._patience_s = patience_s
        self.engine = sa.create_engine(
            "sqlite://", creator=self._open, poolclass=sa.NullPool, **options
        )
        self.on_committing: Callable[[list[SqliteConnection]], Callable[[], None] | None] = (
            lambda _: None
        )
        """Called before each commit with the blocks that are in it; gives what the loop is to do
        while the commit waits for the disk, if anything."""
        self.on_commit: Callable[[list[SqliteConnection]], None] = lambda _: None
        """Called after each commit with the blocks that were in it."""
        self._statements = Statements(self.engine.dialect)
        self._threads = ThreadPoolExecutor(_THREADS, "backhaul-sqlite")
        self._writing_thread = ThreadPoolExecutor(1, "backhaul-sqlite-writer")
        """Of its own: slow reads must keep no commit waiting."""
        self._idle: list[sa.Connection] = []
        """The one that was used last is at the end. Its pages are the newest: whoever comes to a
        connection after another one's commit reads all of them anew."""
        self._queue: deque[_Turn] = deque()
        self._running: asyncio.Task[None] | None = None
        self._commits = 0
        self._tidying: asyncio.Future[None] | None = None
        self._tidier: _Driver | None = None
        """A connection of its own, and kept: to open one takes as long as to write what is due."""

    def _open(self) -> _Driver:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, factory=_Driver
        )
        configure_sqlite(connection, busy_timeout_ms=BUSY_TIMEOUT_MS)
        # See `_tidy`.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        # A savepoint keeps a copy of each page that is changed after it. Those of many blocks would
        # go into a temporary file, and take longer than all the rest of a block. What readers sort
        # is little: lists come in the order of an index.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.watch()
        return connection

    def _take(self, *, to_read: bool) -> sa.Connection:
        sync = self._idle.pop() if self._idle else self.engine.connect()
        _driver_of(sync).is_reader = to_read
        return sync

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[SqliteConnection]:
        """Lend a connection that sees one consistent state."""
        sync = self._take(to_read=True)
        driver = _driver_of(sync)
        try:
            driver.execute("BEGIN")
            yield SqliteConnection(sync, self._statements, self._threads)
        finally:
            # Whatever ended the block, a "not found" most often, says nothing of the connection.
            try:
                driver.rollback()
            except sqlite3.Error:
                _close(sync)
                raise
            self._idle.append(sync)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[SqliteConnection]:
        """Lend the connection that writes; the block's end waits for the commit."""
        loop = asyncio.get_running_loop()
        turn = _Turn(loop)
        self._queue.append(turn)
        if self._running is None:
            self._running = loop.create_task(self._run())
        try:
            # Much less than a task's timeout, which this need not be.
            timer = loop.call_later(self._patience_s, turn.give_up)
            try:
                connection = await turn.granted
            finally:
                timer.cancel()
            yield connection
            await connection.finish()
            turn.end(is_good=True)
        finally:
            turn.end(is_good=False)
        await turn.committed

    def read_mark(self) -> int | None:
        """Read the mark that other programs leave; None where it cannot be read."""
        sync = self._take(to_read=True)
        try:
            mark: int = _driver_of(sync).execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error:
            _close(sync)
            return None
        self._idle.append(sync)
        return mark

    async def close(self) -> None:
        if self._running is not None:
            await asyncio.wait([self._running])
        if self._tidying is not None:
            await asyncio.wait([self._tidying])
        idle, self._idle = self._idle, []
        for sync in idle:
            _close(sync)
        self._threads.shutdown(wait=True)
        self._writing_thread.shutdown(wait=True)
        self._drop_tidier()

    async def _run(self) -> None:
        """Give turns for as long as anybody waits for one."""
        try:
            while self._queue:
                await self._run_transaction()
        finally:
            self._running = None

    async def _run_transaction(self) -> None:
        try:
            sync = await self._begin()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the waiting one's)
            self._queue.popleft().fail(error)
            return
        done: list[_Turn] = []
        try:
            while self._queue and len(done) < MAX_TOGETHER:
                if not await self._give_turn(sync, self._queue.popleft(), done):
                    break
            if done:
                await self._write_postponed(sync, done)
                await self._commit(sync, self.on_committing([turn.connection for turn in done]))
            else:
                _driver_of(sync).rollback()
        except BaseException as error:
            _close(sync)
            for turn in done:
                turn.fail(error)
            if not isinstance(error, Exception):
                raise
            return
        self._idle.append(sync)
        self._tidy()
        try:
            self.on_commit([turn.connection for turn in done])
            for _ in range(_HEAD_START):
                await asyncio.sleep(0)
        finally:
            for turn in done:
                turn.succeed()

    async def _begin(self) -> sa.Connection:
        sync = self._take(to_read=False)
        ends_at = time.monotonic() + self._patience_s
        try:
            while not _try_to_begin(sync, is_last=time.monotonic() > ends_at):  # noqa: ASYNC110
                # Another process has its turn: the wait is the loop's, not SQLite's.
                await asyncio.sleep(_BUSY_STEP_S)
        except BaseException:
            _close(sync)
            raise
        return sync

    async def _give_turn(self, sync: sa.Connection, turn: _Turn, done: list[_Turn]) -> bool:
        """Let one block write; false if the transaction is of no use for others after it."""
        driver = _driver_of(sync)
        connection = SqliteConnection(sync, self._statements, self._writing_thread)
        savepoint = connection.begin_nested() if done else None
        if not turn.grant(connection):
            return True
        try:
            if savepoint is not None:
                savepoint.begin()
        except BaseException as error:
            turn.fail(error)
            raise
        is_good = await turn.ended
        if is_good:
            # It waits for its commit from here on, or for what goes wrong before that.
            done.append(turn)
        if not driver.in_transaction:
            # A full disk, say, undoes the whole transaction by itself.
            raise NotReadyError(
                "The database has undone the transaction. Try again in a few seconds."
            )
        if savepoint is None:
            return is_good
        if is_good:
            savepoint.release()
        else:
            savepoint.undo()
        return True

    async def _write_postponed(self, sync: sa.Connection, done: Iterable[_Turn]) -> None:
        """Write what the blocks of a transaction have left to its end."""
        connection = SqliteConnection(sync, self._statements, self._writing_thread)
        await connection.write_postponed(one for turn in done for one in turn.connection.postponed)

    def _tidy(self) -> None:
        """Have a thread write now and then what was committed from SQLite's log into its file.

        By itself SQLite does so within a commit, and whoever waits for that waits longer.
        """
        self._commits += 1
        is_busy = self._tidying is not None and not self._tidying.done()
        if self._commits >= CHECKPOINT_EVERY and not is_busy:
            self._commits = 0
            loop = asyncio.get_running_loop()
            self._tidying = loop.run_in_executor(self._threads, self._checkpoint)

    def _checkpoint(self) -> None:
        try:
            if self._tidier is None:
                self._tidier = self._open()
            self._tidier.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            # The log only grows; a full disk, say, stops the commits as well.
            log.warning("database.checkpoint_failed", exc_info=error)
            # It may have been opened while nobody might write to the file, and would stay so.
            self._drop_tidier()

    def _drop_tidier(self) -> None:
        tidier, self._tidier = self._tidier, None
        if tidier is not None:
            with suppress(sqlite3.Error):
                tidier.close()

    async def _commit(self, sync: sa.Connection, meanwhile: Callable[[], None] | None) -> None:
        loop = asyncio.get_running_loop()

        def commit() -> None:
            if meanwhile is not None:
                # Only now: before, the loop's thread would keep this one from beginning.
                loop.call_soon_threadsafe(meanwhile)
            _run(sync, _driver_of(sync), "COMMIT")

        await loop.run_in_executor(self._writing_thread, commit)


class _Turn:
    """Whoever waits to write, through the stages of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.granted: asyncio.Future[SqliteConnection] = loop.create_future()
        self.ended: asyncio.Future[bool] = loop.create_future()
        self.committed: asyncio.Future[None] = loop.create_future()
        self.connection: SqliteConnection

    def grant(self, connection: SqliteConnection) -> bool:
        """Give it its turn; False when it does not wait any more."""
        if self.granted.done() or self.ended.done():
            return False
        self.connection = connection
        self.granted.set_result(connection)
        return True

    def give_up(self) -> None:
        """Wait no more."""
        if not self.granted.done():
            self.granted.set_exception(sa.exc.TimeoutError("the turn to write did not come"))

    def end(self, *, is_good: bool) -> None:
        if not self.ended.done():
            self.ended.set_result(is_good)

    def succeed(self) -> None:
        if not self.committed.done():
            self.committed.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)
        elif not (self._is_over() or self.committed.done()):
            self.committed.set_exception(error)

    def _is_over(self) -> bool:
        """Tell whether nobody will ask what became of it."""
        if self.granted.cancelled() or self.granted.exception() is not None:
            return True
        return self.ended.done() and not self.ended.result()


class _Savepoint:
    """A savepoint for one block. SQLite finds the innermost one of a name."""

    def __init__(self, connection: SqliteConnection, driver: _Driver) -> None:
        self._connection = connection
        self._driver = driver
        self._kept = len(connection.postponed)

    def begin(self) -> None:
        self._driver.execute("SAVEPOINT block")

    def release(self) -> None:
        self._driver.execute("RELEASE block")

    def undo(self) -> None:
        self._connection.forget_changes()
        del self._connection.postponed[self._kept :]
        if self._driver.in_transaction:
            self._driver.execute("ROLLBACK TO block")
            self.release()

    async def __aenter__(self) -> Self:
        await self._connection.write_changes()
        self.begin()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.undo()
            return
        try:
            await self._connection.write_changes()
        except BaseException:
            self.undo()
            raise
        self.release()


class _Cursor(sqlite3.Cursor):
    """A cursor that has all rows once it was executed, so that reading them never steps."""

    rows: deque[Any]

    def execute(self, statement: str, parameters: Any = ()) -> Self:
        super().execute(statement, parameters)
        self.rows = deque() if self.description is None else deque(super().fetchall())
        return self

    def executemany(self, statement: str, parameters: Any) -> Self:
        self.rows = deque()
        super().executemany(statement, parameters)
        return self

    def fetchone(self) -> Any:
        return self.rows.popleft() if self.rows else None

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return [self.rows.popleft() for _ in range(min(size or 1, len(self.rows)))]

    def fetchall(self) -> list[Any]:
        rows = list(self.rows)
        self.rows.clear()
        return rows


class _Driver(sqlite3.Connection):
    """The driver's connection, which interrupts a read that takes too long for the loop."""

    _ends_at = math.inf
    """By the monotonic clock."""
    is_reader = False

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def watch(self) -> None:
        """Interrupt, from now on, what runs for too long within `watched`."""
        self.set_progress_handler(self._is_late, _LOOK_EVERY)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Give what runs in the block only so much time."""
        self._ends_at = time.monotonic() + READ_LIMIT_S
        try:
            yield
        finally:
            # Nothing else may be interrupted, not even a BEGIN after a long silence: SQLite counts
            # the steps of a statement through all its runs.
            self._ends_at = math.inf

    def _is_late(self) -> bool:
        return time.monotonic() > self._ends_at


def configure_sqlite(connection: sqlite3.Connection, *, busy_timeout_ms: int) -> None:
    """Set what every connection to SQLite needs."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _run(
    sync: sa.Connection,
    driver: _Driver,
    text: str,
    values: tuple[Any, ...] | list[tuple[Any, ...]] = (),
) -> _Cursor:
    """Run a statement past SQLAlchemy, whose engine tells of it all the same."""
    is_many = isinstance(values, list)
    cursor: _Cursor = driver.cursor()
    try:
        for tell in sync.engine.dispatch.before_cursor_execute:
            tell(sync, cursor, text, values, None, is_many)
        return (cursor.executemany if is_many else cursor.execute)(text, values)
    except sqlite3.Error as error:
        raise wrap(error, text, sync.dialect) from error


def _try_to_begin(sync: sa.Connection, *, is_last: bool) -> bool:
    """Begin to write; false if another process does. The last try raises its error."""
    try:
        _run(sync, _driver_of(sync), "BEGIN IMMEDIATE")
    except sa.exc.OperationalError as error:
        if is_last or not _is_busy(error):
            raise
        return False
    return True


def _driver_of(sync: sa.Connection) -> _Driver:
    driver = sync.connection.driver_connection
    assert isinstance(driver, _Driver)  # noqa: S101 (`Sqlite` opens no other)
    return driver


def _close(sync: sa.Connection) -> None:
    """Close: whatever was not committed is undone by that."""
    with suppress(sqlite3.Error):
        # Else a statement that failed would keep the connection, and its lock, until nobody has its
        # cursor any more.
        _driver_of(sync).rollback()
    _driver_of(sync).close()
    sync.invalidate()
    sync.close()


def _is_busy(error: sa.exc.OperationalError) -> bool:
    return _code_of(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _is_interrupted(error: sa.exc.OperationalError) -> bool:
    return _code_of(error) == sqlite3.SQLITE_INTERRUPT


def _code_of(error: sa.exc.OperationalError) -> int:
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF
