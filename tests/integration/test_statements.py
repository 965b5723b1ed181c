"""Constant statements mean what SQLAlchemy makes of them, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.block import Change, change, execute_soon, postpone
from backhaul_api.db.changes import touch
from backhaul_api.db.engine import Database
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import events, hosts, job_log, jobs, setup_tokens
from backhaul_api.db.types import Moment
from backhaul_api.errors import LostRaceError
from backhaul_api.services import Services
from tests.fakes.statements import watch_statements

MOMENT = datetime(2026, 7, 1, 12, 30, 15, 250, tzinfo=timezone(timedelta(hours=2)))

INSERT = constant(sa.insert(setup_tokens))
BY_HASHES = constant(
    sa.select(setup_tokens.c.token_hash, setup_tokens.c.created_at)
    .where(setup_tokens.c.token_hash.in_(sa.bindparam("hashes", expanding=True)))
    .order_by(setup_tokens.c.token_hash)
)
MOVE = constant(
    sa.update(setup_tokens)
    .where(setup_tokens.c.token_hash.in_(sa.bindparam("hashes", expanding=True)))
    .values(expires_at=sa.bindparam("moment", type_=setup_tokens.c.expires_at.type))
)
WITH_FIXED_LIST = constant(
    sa.select(sa.func.count()).where(
        sa.func.length(setup_tokens.c.token_hash).in_([1, 2]),
        setup_tokens.c.created_at == sa.bindparam("at", type_=setup_tokens.c.created_at.type),
    )
)
FIXED_TEXT = "it's 100 %, $x, :x, ? and \\"
WITH_FIXED_TEXT = constant(
    sa.select(
        sa.bindparam("id", type_=jobs.c.id.type).label("id"), sa.literal(FIXED_TEXT).label("text")
    )
)
TYPES = constant(
    sa.select(
        sa.bindparam("id", type_=jobs.c.id.type).label("id"),
        sa.bindparam("arguments", type_=jobs.c.arguments.type).label("arguments"),
        sa.bindparam("retry_delay", type_=jobs.c.retry_delay.type).label("retry_delay"),
        sa.bindparam("ran_offline", type_=jobs.c.ran_offline.type).label("ran_offline"),
        sa.bindparam("retry_at", type_=jobs.c.retry_at.type).label("retry_at"),
        sa.bindparam("message", type_=jobs.c.message.type).label("message"),
    )
)
VALUES: list[dict[str, Any]] = [
    {
        "id": UUID(int=1),
        "arguments": {"paths": ["/etc"], "n": 1.5},
        "retry_delay": 2.5,
        "ran_offline": True,
        "retry_at": MOMENT,
        "message": "ä",
    },
    {
        "id": uuid4(),
        "arguments": [],
        "retry_delay": None,
        "ran_offline": False,
        "retry_at": None,
        "message": None,
    },
]


@pytest.fixture
def database(services: Services) -> Database:
    return services.database


async def fill(database: Database, *hashes: bytes) -> None:
    rows = [{"token_hash": one, "created_at": MOMENT, "expires_at": MOMENT} for one in hashes]
    async with database.writing() as connection:
        await connection.execute(INSERT, rows)


@pytest.mark.parametrize("values", VALUES)
async def test_values_come_back_as_they_do_from_sqlalchemy(
    database: Database, values: dict[str, Any]
) -> None:
    other = TYPES.where(sa.true())

    async with database.reading() as connection:
        ours = (await connection.execute(TYPES, values)).mappings().one()
        theirs = (await connection.execute(other, values)).mappings().one()

    assert dict(ours) == dict(theirs) == values


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9])
async def test_list_of_any_length_finds_each_row_once(database: Database, count: int) -> None:
    hashes = [str(number).encode() for number in range(count)]
    await fill(database, *hashes, b"other")

    async with database.reading() as connection:
        found = (await connection.execute(BY_HASHES, {"hashes": hashes})).all()

    assert [(bytes(row.token_hash), row.created_at) for row in found] == [
        (one, MOMENT) for one in hashes
    ]
    assert all(row.created_at.tzinfo is UTC for row in found)


async def test_list_that_stands_in_the_statement_is_kept(database: Database) -> None:
    await fill(database, b"a", b"bb", b"ccc")

    async with database.reading() as connection:
        assert await connection.scalar(WITH_FIXED_LIST, {"at": MOMENT}) == 2


async def test_text_that_stands_in_the_statement_is_kept(database: Database) -> None:
    async with database.reading() as connection:
        row = (await connection.execute(WITH_FIXED_TEXT, {"id": UUID(int=1)})).one()

    assert tuple(row) == (UUID(int=1), FIXED_TEXT)


@pytest.mark.parametrize("value", [b"a", 1.5, MOMENT, "costs $1", "a %(id)s", "__[POSTCOMPILE_id]"])
async def test_value_of_its_own_that_a_statement_cannot_show_is_refused(
    database: Database, value: object
) -> None:
    statement = constant(sa.select(sa.literal(value)))

    async with database.reading() as connection:
        with pytest.raises(TypeError, match="make it a parameter"):
            await connection.execute(statement)


@pytest.mark.parametrize("value", ["x", 2, -1, True, None])
async def test_value_of_its_own_comes_back(database: Database, value: object) -> None:
    statement = constant(sa.select(sa.literal(value)))

    async with database.reading() as connection:
        assert await connection.scalar(statement) == value


async def test_each_moment_of_an_hour_that_comes_twice_is_kept(database: Database) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    moments = [datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    rows = [
        {"token_hash": bytes([fold]), "created_at": moment, "expires_at": moment}
        for fold, moment in enumerate(moments)
    ]
    async with database.writing() as connection:
        await connection.execute(INSERT, rows)

    async with database.reading() as connection:
        found = (await connection.execute(BY_HASHES, {"hashes": [b"\0", b"\1"]})).all()

    assert [row.created_at for row in found] == [moment.astimezone(UTC) for moment in moments]


async def test_change_tells_how_many_rows_it_changed(database: Database) -> None:
    await fill(database, b"a", b"b", b"c")

    async with database.writing() as connection:
        hashes = [b"a", b"c", b"none"]
        changed = await connection.execute(MOVE, {"hashes": hashes, "moment": MOMENT})

    assert changed.rowcount == 2


async def test_row_that_is_there_is_refused_by_sqlalchemys_name(database: Database) -> None:
    await fill(database, b"a")

    with pytest.raises(sa.exc.IntegrityError):
        await fill(database, b"a")


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"hashes": [b"a"], "moment": MOMENT.replace(tzinfo=None)}, ValueError),
        ({"hashes": [b"a"], "moment": datetime.min.replace(tzinfo=MOMENT.tzinfo)}, OverflowError),
    ],
)
async def test_value_that_cannot_be_passed_is_told_with_its_cause(
    database: Database, values: dict[str, Any], cause: type[Exception]
) -> None:
    with pytest.raises(sa.exc.StatementError) as raised:
        async with database.writing() as connection:
            await connection.execute(MOVE, values)

    assert isinstance(raised.value.orig, cause)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_transaction_in_which_a_statement_failed_is_not_taken_for_committed(
    database: Database,
) -> None:
    await fill(database, b"a")

    async def write_and_go_on() -> None:
        async with database.writing() as connection:
            row = {"created_at": MOMENT, "expires_at": MOMENT}
            await connection.execute(INSERT, {**row, "token_hash": b"b"})
            with suppress(sa.exc.IntegrityError):
                await connection.execute(INSERT, {**row, "token_hash": b"a"})

    with pytest.raises(sa.exc.InvalidRequestError, match="answered ROLLBACK"):
        await write_and_go_on()
    async with database.reading() as connection:
        rows = (await connection.execute(BY_HASHES, {"hashes": [b"a", b"b"]})).all()
    assert [row.token_hash for row in rows] == [b"a"]


async def test_error_does_not_show_what_was_to_be_stored(database: Database) -> None:
    await fill(database, b"secret")

    with pytest.raises(sa.exc.IntegrityError) as raised:
        await fill(database, b"secret")

    text = str(raised.value)
    assert "secret" not in text
    assert b"secret".hex() not in text


async def test_engine_tells_of_each_statement(database: Database) -> None:
    seen: list[tuple[str, Any]] = []

    with watch_statements(database, lambda *told: seen.append(told)):
        async with database.reading() as connection:
            await connection.execute(BY_HASHES, {"hashes": [b"a"]})

    ((statement, parameters),) = (one for one in seen if "setup_tokens" in one[0])
    assert statement.startswith("SELECT")
    assert tuple(parameters) == (b"a",)


async def test_default_that_python_fills_in_is_refused(database: Database) -> None:
    column = sa.Column("name", sa.Text, default=str)
    statement = constant(sa.insert(sa.Table("some", sa.MetaData(), column)))

    with pytest.raises(TypeError):
        async with database.writing() as connection:
            await connection.execute(statement, {})


async def test_what_can_wait_is_written_with_the_transaction(database: Database) -> None:
    row = {"created_at": MOMENT, "expires_at": MOMENT}
    async with database.writing() as connection:
        await postpone(connection, INSERT, [{**row, "token_hash": b"a"}])
        await postpone(connection, INSERT, [{**row, "token_hash": one} for one in (b"b", b"c")])
        seen_before = (await connection.execute(BY_HASHES, {"hashes": [b"a", b"b", b"c"]})).all()
    async with database.reading() as connection:
        found = (await connection.execute(BY_HASHES, {"hashes": [b"a", b"b", b"c"]})).all()

    assert seen_before == []
    assert [tuple(one) for one in found] == [
        (one, MOMENT.astimezone(UTC)) for one in (b"a", b"b", b"c")
    ]


async def test_single_rows_of_several_kinds_are_written_with_their_own_values(
    database: Database,
) -> None:
    """PostgreSQL takes them as one statement, in which their parameters have other numbers."""
    at = sa.bindparam("at", type_=Moment())
    token_hash = sa.bindparam("hash", type_=setup_tokens.c.token_hash.type)
    values = {"token_hash": token_hash, "created_at": at, "expires_at": at}
    twice = constant(sa.insert(setup_tokens).values(values))
    later = MOMENT + timedelta(hours=1)
    async with database.writing() as connection:
        await postpone(connection, twice, [{"hash": b"a", "at": MOMENT}])
        row = {"token_hash": b"b", "created_at": MOMENT, "expires_at": later}
        await postpone(connection, INSERT, [row])
        told_of = {"kind": "host.update", "at": MOMENT, "actor": "ada", "message": None}
        await postpone(connection, constant(sa.insert(events).inline()), [told_of])
        touch(connection, uuid4())
    async with database.reading() as connection:
        found = (await connection.execute(sa.select(setup_tokens))).all()
        told = (await connection.execute(sa.select(events))).one()

    utc = MOMENT.astimezone(UTC)
    assert sorted((one.token_hash, one.created_at, one.expires_at) for one in found) == [
        (b"a", utc, utc),
        (b"b", utc, later.astimezone(UTC)),
    ]
    assert (told.kind, told.at, told.message, told.actor) == ("host.update", utc, None, "ada")


async def test_what_can_wait_is_undone_with_its_block(database: Database) -> None:
    row = {"created_at": MOMENT, "expires_at": MOMENT}
    with suppress(LookupError):
        async with database.writing() as connection:
            await postpone(connection, INSERT, [{**row, "token_hash": b"a"}])
            raise LookupError
    async with database.writing() as connection:
        await postpone(connection, INSERT, [{**row, "token_hash": b"b"}])
        with suppress(LookupError):
            async with connection.begin_nested():
                await postpone(connection, INSERT, [{**row, "token_hash": b"c"}])
                raise LookupError
        async with connection.begin_nested():
            await postpone(connection, INSERT, [{**row, "token_hash": b"d"}])
    async with database.reading() as connection:
        query = sa.select(setup_tokens.c.token_hash).order_by(setup_tokens.c.token_hash)
        kept = list(await connection.scalars(query))

    assert kept == [b"b", b"d"]


async def test_value_that_cannot_wait_is_its_own_blocks_trouble(database: Database) -> None:
    async def write(token_hash: bytes, at: datetime) -> None:
        row = {"token_hash": token_hash, "created_at": at, "expires_at": at}
        async with database.writing() as connection:
            await postpone(connection, INSERT, [row])

    naive = MOMENT.replace(tzinfo=None)
    results = await asyncio.gather(
        write(b"a", MOMENT), write(b"b", naive), write(b"c", MOMENT), return_exceptions=True
    )

    assert [type(one) for one in results] == [type(None), sa.exc.StatementError, type(None)]
    async with database.reading() as connection:
        found = (await connection.execute(BY_HASHES, {"hashes": [b"a", b"b", b"c"]})).all()
    assert [one.token_hash for one in found] == [b"a", b"c"]


@cache
def build_update(dialect: str, names: tuple[str, ...]) -> sa.Update:
    """Build what changes a host; its schedule version stands for a revision."""
    columns = hosts.c
    values: dict[str, Any] = {name: sa.bindparam(name, type_=columns[name].type) for name in names}
    times = sa.bindparam("times", type_=sa.Integer)
    statement = (
        sa.update(hosts)
        .where(
            columns.id == sa.bindparam("which"),
            columns.schedule_version == sa.bindparam("was_revision"),
        )
        .values({**values, "schedule_version": columns.schedule_version + times})
    )
    return constant(statement.returning(columns.id) if dialect == "postgresql" else statement)


def build_lost(ids: Sequence[UUID]) -> LostRaceError:
    return LostRaceError(f"lost {sorted(id_.int for id_ in ids)}")


def change_of(number: int, *, was: int = 0, **values: Any) -> Change:
    return Change(build_update, UUID(int=number), was, values, build_lost)


async def change_all(connection: AsyncConnection, *changes: Change) -> None:
    for one in changes:
        await change(connection, one)


SET_NAME = constant(
    sa.update(hosts).where(hosts.c.id == sa.bindparam("which")).values(name=sa.bindparam("to"))
)


@pytest.fixture
async def three(database: Database) -> list[int]:
    """Three hosts, by their numbers."""
    numbers = [1, 2, 3]
    async with database.writing() as connection:
        await connection.execute(
            sa.insert(hosts),
            [
                {
                    "id": UUID(int=number),
                    "name": f"host-{number}",
                    "labels": {},
                    "facts": {},
                    "public_key": bytes(32),
                    "token_hash": bytes([number]),
                    "enrolled_at": MOMENT,
                }
                for number in numbers
            ],
        )
    return numbers


async def read_hosts(connection: AsyncConnection) -> dict[int, tuple[str, int]]:
    """Read the names and revisions."""
    rows = await connection.execute(sa.select(hosts))
    return {row.id.int: (row.name, row.schedule_version) for row in rows}


async def read(database: Database) -> dict[int, tuple[str, int]]:
    async with database.reading() as connection:
        return await read_hosts(connection)


UNCHANGED = {number: (f"host-{number}", 0) for number in (1, 2, 3)}


async def test_changes_are_written_together_before_anything_is_asked(
    database: Database, three: list[int]
) -> None:
    async with database.writing() as connection:
        with watch_statements(database) as told:
            await change_all(connection, *(change_of(one, name=f"new-{one}") for one in three))
            seen = await read_hosts(connection)

    assert seen == {number: (f"new-{number}", 1) for number in three}
    assert [text.split()[0] for text in told] == ["UPDATE", "SELECT"]


async def test_row_that_is_changed_twice_is_written_once_with_all_of_it(
    database: Database, three: list[int]
) -> None:
    async with database.writing() as connection:
        await change(connection, change_of(1, name="a", last_seen_at=MOMENT))
        # What it is now stands nowhere but in what is yet to be written.
        await change(connection, change_of(1, was=1, name="b"))
        await change(connection, change_of(1, was=2, last_backup_at=MOMENT))
    async with database.reading() as connection:
        row = (await connection.execute(sa.select(hosts).where(hosts.c.id == UUID(int=1)))).one()

    utc = MOMENT.astimezone(UTC)
    assert (row.name, row.schedule_version) == ("b", 3)
    assert (row.last_seen_at, row.last_backup_at) == (utc, utc)


@pytest.mark.parametrize("others", [[], [2, 3]])
async def test_change_of_a_row_that_is_not_as_it_was_read_undoes_the_block(
    database: Database, three: list[int], others: list[int]
) -> None:
    changes = [change_of(one, name=f"new-{one}") for one in others]
    with pytest.raises(LostRaceError, match=r"lost \[1"):
        async with database.writing() as connection:
            await change_all(connection, change_of(1, was=7, name="new"), *changes)

    assert await read(database) == UNCHANGED


async def test_second_change_of_what_a_row_was_before_the_first_is_lost(
    database: Database, three: list[int]
) -> None:
    with pytest.raises(LostRaceError):
        async with database.writing() as connection:
            await change_all(connection, change_of(1, name="a"), change_of(1, name="b"))

    assert await read(database) == UNCHANGED


async def test_value_that_cannot_be_changed_to_is_told_to_whoever_gave_it(
    database: Database, three: list[int]
) -> None:
    naive = MOMENT.replace(tzinfo=None)
    async with database.writing() as connection:
        await change(connection, change_of(1, last_seen_at=MOMENT))
        with pytest.raises(sa.exc.StatementError):
            await change(connection, change_of(2, last_seen_at=naive))
        await change(connection, change_of(3, name="new"))

    assert await read(database) == {1: ("host-1", 1), 2: ("host-2", 0), 3: ("new", 1)}


async def test_changes_are_undone_with_their_savepoint_and_kept_without(
    database: Database, three: list[int]
) -> None:
    lost = change_of(3, name="lost"), change_of(4, name="lost")
    async with database.writing() as connection:
        await change(connection, change_of(1, name="kept"))
        with suppress(LookupError):
            async with connection.begin_nested():
                await change(connection, change_of(2, name="undone"))
                await execute_soon(connection, SET_NAME, {"which": UUID(int=2), "to": "undone"})
                raise LookupError
        with pytest.raises(LostRaceError):
            async with connection.begin_nested():
                await change_all(connection, *lost)
        async with connection.begin_nested():
            await execute_soon(connection, SET_NAME, {"which": UUID(int=3), "to": "soon"})

    assert await read(database) == {1: ("kept", 1), 2: ("host-2", 0), 3: ("soon", 0)}


async def test_what_is_executed_soon_comes_after_the_changes_and_before_the_rest(
    database: Database, three: list[int]
) -> None:
    async with database.writing() as connection:
        for number in (1, 2):
            row = {"which": UUID(int=number), "to": f"soon-{number}"}
            await execute_soon(connection, SET_NAME, row)
        await change(connection, change_of(1, name="changed"))
        seen = await read_hosts(connection)

    assert seen == {1: ("soon-1", 1), 2: ("soon-2", 0), 3: ("host-3", 0)}


async def test_row_may_refer_to_one_that_was_postponed_before(
    database: Database, three: list[int]
) -> None:
    """One row, and then two: PostgreSQL is given them in different ways."""
    job_id = UUID(int=1)
    job = {
        "id": job_id,
        "host_id": UUID(int=1),
        "kind": "backup",
        "state": "queued",
        "arguments": {},
        "actor_kind": "system",
        "created_at": MOMENT,
    }
    lines = [
        {"job_id": job_id, "attempt": 1, "seq": seq, "at": MOMENT, "stream": "stdout", "text": "a"}
        for seq in range(2)
    ]
    async with database.writing() as connection:
        await postpone(connection, ADD_JOB, [job], outlasts_block=False)
        await postpone(connection, ADD_LINES, lines, outlasts_block=False)
    async with database.reading() as connection:
        count = await connection.scalar(sa.select(sa.func.count()).select_from(job_log))

    assert count == 2


ADD_JOB = constant(sa.insert(jobs))
ADD_LINES = constant(sa.insert(job_log))


@given(moment=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-11))])))
def test_sqlites_moments_are_as_sqlalchemy_writes_them(moment: datetime) -> None:
    """What was stored before is found again, and sorts as before."""
    dialect = sqlite.dialect()
    ours = Moment().dialect_impl(dialect)
    theirs = sa.DateTime().dialect_impl(dialect)
    write, read = ours.bind_processor(dialect), ours.result_processor(dialect, None)
    write_theirs = theirs.bind_processor(dialect)
    assert write is not None
    assert read is not None
    assert write_theirs is not None
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        return  # nobody can store it

    assert write(moment) == write_theirs(utc.replace(tzinfo=None))
    assert read(write(moment)) == moment
