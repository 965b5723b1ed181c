"""Constant statements mean what SQLAlchemy makes of them, on both databases."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from backhaul_api.db.changes import touch
from backhaul_api.db.engine import Database
from backhaul_api.db.statements import constant, postpone
from backhaul_api.db.tables import events, jobs, setup_tokens
from backhaul_api.db.types import Moment
from backhaul_api.services import Services

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
        setup_tokens.c.token_hash.in_([b"a", b"b"]),
        setup_tokens.c.created_at == sa.bindparam("at", type_=setup_tokens.c.created_at.type),
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
    await fill(database, b"a", b"b", b"c")

    async with database.reading() as connection:
        assert await connection.scalar(WITH_FIXED_LIST, {"at": MOMENT}) == 2


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

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        seen.append((statement, parameters))

    sa.event.listen(database.sync_engine, "before_cursor_execute", note)
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
