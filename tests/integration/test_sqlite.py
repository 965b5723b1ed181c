"""Blocks that write to SQLite together: each stands alone, none goes on before it is on disk."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backhaul_api.db import sqlite
from backhaul_api.db.block import postpone
from backhaul_api.db.changes import Touched, touch
from backhaul_api.db.engine import Database
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import setup_tokens
from backhaul_api.errors import NotReadyError
from backhaul_api.settings import Settings
from tests.fakes.clock import START
from tests.fakes.statements import fail_at, watch_statements

LATER = START + timedelta(hours=1)
CHANGE = constant(
    sa.update(setup_tokens)
    .where(setup_tokens.c.token_hash == sa.bindparam("which"))
    .values(expires_at=sa.bindparam("at"))
)
ADD = constant(sa.insert(setup_tokens))
ADD_TEXT = "INSERT INTO setup_tokens"

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


async def write(database: Database, name: str, *, fails: bool = False) -> None:
    async with database.writing() as connection:
        await connection.execute(
            sa.insert(setup_tokens).values(
                token_hash=name.encode(), created_at=START, expires_at=START
            )
        )
        if fails:
            raise LookupError(name)


async def change(database: Database, *, at: datetime | None = LATER) -> None:
    """Change the row of a, as what can wait."""
    async with database.writing() as connection:
        await postpone(connection, CHANGE, [{"which": b"a", "at": at}])


async def read(database: Database) -> set[str]:
    async with database.reading() as connection:
        found = await connection.scalars(sa.select(setup_tokens.c.token_hash))
        return {bytes(name).decode() for name in found}


def count_in_file(database: Database) -> int:
    """Count the rows in SQLite's file, without its log."""
    uri = f"file:{database.url.database}?immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM setup_tokens").fetchone()
    return int(count)


async def wait_for_checkpoint(database: Database) -> Any:
    """Wait until the log is written into the file; gives the connection that does that."""
    backend: Any = database._backend
    async with asyncio.timeout(10):
        await backend._tidying
    return backend._tidier


async def test_blocks_that_queue_up_are_committed_together(database: Database) -> None:
    with watch_statements(database) as statements:
        await asyncio.gather(*(write(database, str(number)) for number in range(20)))

    assert statements.count("COMMIT") <= 2
    assert await read(database) == {str(number) for number in range(20)}


async def test_what_was_committed_is_written_into_the_file_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_EVERY", 3)

    for number in range(2):
        await write(database, str(number))
    before = count_in_file(database)
    await write(database, "last")
    await wait_for_checkpoint(database)

    assert before == 0
    assert count_in_file(database) == 3


async def test_checkpoint_that_failed_is_made_by_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_EVERY", 1)
    await write(database, "a")
    tidier = await wait_for_checkpoint(database)
    tidier.close()

    for name in ("b", "c"):
        await write(database, name)
        await wait_for_checkpoint(database)

    assert [record.message for record in caplog.records] == ["database.checkpoint_failed"]
    assert count_in_file(database) == 3


async def test_block_goes_on_only_when_its_rows_are_there(database: Database) -> None:
    seen: list[bool] = []

    async def write_and_look(name: str) -> None:
        await write(database, name)
        seen.append(name in await read(database))

    await asyncio.gather(*(write_and_look(str(number)) for number in range(10)))

    assert seen == [True] * 10


async def test_block_finds_what_the_one_before_has_changed_though_it_could_wait(
    database: Database,
) -> None:
    await write(database, "a")
    seen: list[datetime] = []

    async def look() -> None:
        async with database.writing() as connection:
            seen.extend(await connection.scalars(sa.select(setup_tokens.c.expires_at)))

    with watch_statements(database) as statements:
        await asyncio.gather(change(database), look())

    assert statements.count("COMMIT") == 1
    assert seen == [LATER]


async def test_block_finds_what_the_one_before_has_added_if_that_must_not_outlast_it(
    database: Database,
) -> None:
    seen: list[bytes] = []

    async def add(name: bytes, *, outlasts_block: bool) -> None:
        row = {"token_hash": name, "created_at": START, "expires_at": START}
        async with database.writing() as connection:
            await postpone(connection, ADD, [row], outlasts_block=outlasts_block)

    async def look() -> None:
        async with database.writing() as connection:
            seen.extend(await connection.scalars(sa.select(setup_tokens.c.token_hash)))

    with watch_statements(database) as statements:
        await asyncio.gather(
            add(b"a", outlasts_block=False), add(b"b", outlasts_block=True), look()
        )

    assert statements.count("COMMIT") == 1
    assert seen == [b"a"]
    assert await read(database) == {"a", "b"}


async def test_first_block_that_fails_undoes_nothing_of_those_that_come_after(
    database: Database,
) -> None:
    results = await asyncio.gather(
        write(database, "a", fails=True),
        write(database, "b", fails=True),
        write(database, "c"),
        write(database, "d", fails=True),
        write(database, "e"),
        return_exceptions=True,
    )

    told = [type(result) for result in results]
    assert told == [LookupError, LookupError, type(None), LookupError, type(None)]
    assert await read(database) == {"c", "e"}


async def test_change_that_could_wait_fails_for_its_own_block_only(database: Database) -> None:
    await write(database, "a")
    results = await asyncio.gather(
        write(database, "b"),
        change(database, at=None),
        write(database, "c"),
        return_exceptions=True,
    )

    assert [type(one) for one in results] == [type(None), sa.exc.IntegrityError, type(None)]
    assert await read(database) == {"a", "b", "c"}


async def test_block_that_fails_undoes_nothing_of_its_neighbours(database: Database) -> None:
    results = await asyncio.gather(
        write(database, "a"),
        write(database, "b", fails=True),
        write(database, "c"),
        # The same key again, which the database refuses.
        write(database, "a"),
        write(database, "d"),
        return_exceptions=True,
    )

    assert [type(result) for result in results] == [
        type(None),
        LookupError,
        type(None),
        sa.exc.IntegrityError,
        type(None),
    ]
    assert await read(database) == {"a", "c", "d"}


async def test_commit_that_fails_fails_for_all_and_leaves_nothing(database: Database) -> None:
    with watch_statements(database, fail_at("COMMIT", sqlite3.OperationalError)):
        results = await asyncio.gather(
            write(database, "a"), write(database, "b"), return_exceptions=True
        )
    before = await read(database)
    await write(database, "c")

    assert all(isinstance(result, Exception) for result in results)
    assert before == set()
    assert await read(database) == {"c"}


@pytest.mark.parametrize("rows", [1, sqlite.MANY_ROWS])
async def test_rows_that_waited_and_cannot_be_written_fail_for_all_and_leave_nothing(
    database: Database, rows: int
) -> None:
    async def postpone_some() -> None:
        async with database.writing() as connection:
            names = [f"late {number}".encode() for number in range(rows)]
            moments = {"created_at": START, "expires_at": START}
            await postpone(connection, ADD, [{"token_hash": name, **moments} for name in names])

    await write(database, "a")
    with watch_statements(database, fail_at(ADD_TEXT, sqlite3.OperationalError)):
        results = await asyncio.gather(change(database), postpone_some(), return_exceptions=True)
    async with database.reading() as connection:
        expires_at = await connection.scalar(sa.select(setup_tokens.c.expires_at))
    await postpone_some()

    assert all(isinstance(result, Exception) for result in results)
    assert expires_at == START
    assert len(await read(database)) == 1 + rows


async def test_rows_that_the_database_refuses_at_the_end_keep_nobody_from_writing(
    database: Database,
) -> None:
    """The statement that failed has the lock for as long as somebody has its cursor."""
    row = {"token_hash": b"a", "created_at": START, "expires_at": START}

    async def add() -> None:
        async with database.writing() as connection:
            await postpone(connection, ADD, [row])

    await write(database, "a")
    with pytest.raises(sa.exc.IntegrityError):
        await add()
    async with asyncio.timeout(5):
        await write(database, "b")

    assert await read(database) == {"a", "b"}


async def test_transaction_that_the_database_undid_fails_for_all_of_it(database: Database) -> None:
    """SQLite does that by itself when the disk is full."""

    async def lose() -> None:
        async with database.writing() as connection:
            await connection.exec_driver_sql("ROLLBACK")
            raise LookupError

    results = await asyncio.gather(
        write(database, "a"), lose(), write(database, "b"), return_exceptions=True
    )

    assert isinstance(results[0], NotReadyError)
    assert isinstance(results[1], LookupError)
    assert results[2] is None
    assert await read(database) == {"b"}


async def test_whoever_gives_up_waiting_keeps_nobody_from_writing(database: Database) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.writing():
            begun.set()
            await go_on.wait()

    holding = asyncio.create_task(hold())
    await begun.wait()
    waiting = asyncio.create_task(write(database, "impatient"))
    last = asyncio.create_task(write(database, "patient"))
    await asyncio.sleep(0)
    waiting.cancel()
    go_on.set()
    await asyncio.gather(holding, last)

    assert waiting.cancelled()
    assert await read(database) == {"patient"}


async def test_failure_is_told_to_nobody_who_has_given_up(database_url: str) -> None:
    """Python's log has a traceback for an error that nobody asks for."""
    untold: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context))
    database = Database(database_url, Settings(database_pool_patience=0.05))
    with closing(sqlite3.connect(str(database.url.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotReadyError):
            await write(database, "late")
        await database.close()
    gc.collect()

    assert untold == []


async def test_block_whose_owner_is_cancelled_is_undone_alone(database: Database) -> None:
    inside = asyncio.Event()

    async def linger() -> None:
        async with database.writing() as connection:
            await connection.execute(
                sa.insert(setup_tokens).values(
                    token_hash=b"half", created_at=START, expires_at=START
                )
            )
            inside.set()
            await asyncio.Event().wait()

    first = asyncio.create_task(write(database, "whole"))
    lingering = asyncio.create_task(linger())
    await inside.wait()
    lingering.cancel()
    await first

    assert await read(database) == {"whole"}


async def test_change_is_told_of_after_its_commit_though_its_maker_is_gone(
    database: Database,
) -> None:
    topic, told = uuid4(), list[UUID]()
    seen: list[set[str]] = []
    done = asyncio.Event()

    def tell(topics: Touched) -> None:
        told.extend(topics)
        done.set()

    database.on_changes = tell

    async def change() -> None:
        async with database.writing() as connection:
            touch(connection, topic)
            await connection.execute(
                sa.insert(setup_tokens).values(
                    token_hash=b"made", created_at=START, expires_at=START
                )
            )

    def cancel(statement: str, _: object) -> None:
        if statement == "COMMIT":
            loop.call_soon_threadsafe(changing.cancel)

    loop = asyncio.get_running_loop()
    with watch_statements(database, cancel):
        changing = asyncio.create_task(change())
        await done.wait()
        seen.append(await read(database))
        await asyncio.wait([changing])

    assert told == [topic]
    assert seen == [{"made"}]


async def test_slow_read_leaves_the_loop_and_gives_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "READ_LIMIT_S", -1.0)
    counting = sa.text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
        " SELECT max(i) FROM n"
    )
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    async with database.reading() as connection:
        found = await connection.scalar(counting)
        again = await connection.scalar(sa.text("SELECT 7"))
    turning.cancel()

    assert (found, again) == (200_000, 7)
    assert turns > 1


async def test_read_that_is_never_slow_is_never_interrupted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite counts the steps of a statement, and of BEGIN, through all its runs."""
    monkeypatch.setattr(sqlite, "READ_LIMIT_S", -1.0)

    for _ in range(4000):
        async with database.reading():
            pass


async def test_block_that_is_cancelled_in_a_thread_is_undone_alone(database: Database) -> None:
    rows = [
        {"token_hash": str(number).encode(), "created_at": START, "expires_at": START}
        for number in range(20_000)
    ]
    begun = asyncio.Event()

    async def write_many() -> None:
        async with database.writing() as connection:
            begun.set()
            await connection.execute(sa.insert(setup_tokens), rows)

    writing = asyncio.create_task(write_many())
    await begun.wait()
    neighbour = asyncio.create_task(write(database, "neighbour"))
    await asyncio.sleep(0)
    writing.cancel()
    await neighbour

    assert writing.cancelled()
    assert await read(database) == {"neighbour"}


async def test_slow_reads_keep_no_commit_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "READ_LIMIT_S", -1.0)
    endless = sa.text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
    )

    async def read_endlessly() -> None:
        async with database.reading() as connection:
            await connection.execute(endless)

    reading = [asyncio.create_task(read_endlessly()) for _ in range(6)]
    for _ in range(10):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await write(database, "quick")
    for one in reading:
        one.cancel()
    await asyncio.wait(reading)

    assert await read(database) == {"quick"}


async def test_listener_that_fails_leaves_no_writer_waiting(database: Database) -> None:
    def fail(_: object) -> None:
        raise LookupError

    database.on_changes = fail

    async def change(name: str) -> None:
        async with database.writing() as connection:
            touch(connection, uuid4())
            await connection.execute(
                sa.insert(setup_tokens).values(
                    token_hash=name.encode(), created_at=START, expires_at=START
                )
            )

    async with asyncio.timeout(10):
        await asyncio.gather(change("a"), change("b"))

    assert await read(database) == {"a", "b"}


async def test_many_rows_at_once_leave_the_loop(database: Database) -> None:
    rows = [
        {"token_hash": str(number).encode(), "created_at": START, "expires_at": START}
        for number in range(sqlite.MANY_ROWS + 1)
    ]

    async with database.writing() as connection:
        await connection.execute(sa.insert(setup_tokens), rows)

    assert len(await read(database)) == len(rows)


async def test_reader_sees_one_state_while_others_write(database: Database) -> None:
    await write(database, "a")
    query = sa.select(sa.func.count()).select_from(setup_tokens)
    async with database.reading() as connection:
        before = await connection.scalar(query)
        await write(database, "b")
        after = await connection.scalar(query)

    assert (before, after) == (1, 1)
    assert await read(database) == {"a", "b"}
