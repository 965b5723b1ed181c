"""What both databases promise: times in UTC, references that hold, and SQLite set up for it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, StatementError

from backhaul_api.db.engine import Database
from backhaul_api.db.sqlite import BUSY_TIMEOUT_MS
from backhaul_api.db.tables import metadata, sessions, users
from backhaul_api.services import Services

SUMMER = timezone(timedelta(hours=2))


def _user(created_at: datetime) -> dict[str, object]:
    id_ = uuid.uuid4()
    return {"id": id_, "username": str(id_), "password_hash": "-", "created_at": created_at}


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 7, 1, 12, 0, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, 0, 123456, tzinfo=SUMMER),
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    ],
    ids=["utc", "first 2:30 of the autumn night", "second 2:30 of the autumn night"],
)
async def test_a_time_comes_back_as_the_same_moment_in_utc(
    services: Services, moment: datetime
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(users.insert().values(_user(moment)))
    async with services.database.reading() as connection:
        stored = (await connection.execute(sa.select(users.c.created_at))).scalar_one()

    assert stored == moment
    assert stored.utcoffset() == timedelta(0)


async def test_a_time_without_a_zone_is_refused(services: Services) -> None:
    naive = datetime(2026, 7, 1, 12, 0, tzinfo=UTC).replace(tzinfo=None)

    with pytest.raises(StatementError, match="naive datetime"):
        async with services.database.writing() as connection:
            await connection.execute(users.insert().values(_user(naive)))


async def test_times_sort_as_moments(services: Services) -> None:
    early = datetime(2026, 10, 25, 2, 30, tzinfo=SUMMER)
    late = datetime(2026, 10, 25, 1, 0, tzinfo=UTC)
    async with services.database.writing() as connection:
        await connection.execute(users.insert(), [_user(late), _user(early)])
    async with services.database.reading() as connection:
        query = sa.select(users.c.created_at).order_by(users.c.created_at)
        stored = (await connection.execute(query)).scalars().all()

    assert list(stored) == [early, late]


async def test_a_reference_to_nothing_is_refused(services: Services) -> None:
    now = services.clock.now()
    row = {"id": uuid.uuid4(), "user_id": uuid.uuid4(), "token_hash": bytes(32)}

    with pytest.raises(IntegrityError):
        async with services.database.writing() as connection:
            await connection.execute(
                sessions.insert().values(**row, created_at=now, expires_at=now)
            )


async def test_what_belongs_to_a_row_goes_with_it(services: Services) -> None:
    now = services.clock.now()
    user = _user(now)
    row = {"id": uuid.uuid4(), "user_id": user["id"], "token_hash": bytes(32)}
    async with services.database.writing() as connection:
        await connection.execute(users.insert().values(user))
        await connection.execute(sessions.insert().values(**row, created_at=now, expires_at=now))
        await connection.execute(users.delete())
    async with services.database.reading() as connection:
        left = (await connection.execute(sa.select(sa.func.count()).select_from(sessions))).scalar()

    assert left == 0


async def test_an_exception_undoes_the_whole_block(services: Services) -> None:
    async def insert_and_fail() -> None:
        async with services.database.writing() as connection:
            await connection.execute(users.insert().values(_user(services.clock.now())))
            raise LookupError

    with pytest.raises(LookupError):
        await insert_and_fail()
    async with services.database.reading() as connection:
        left = (await connection.execute(sa.select(sa.func.count()).select_from(users))).scalar()

    assert left == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_sqlite_connections_are_set_up_for_safety(database_url: str) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": BUSY_TIMEOUT_MS,
    }
    database = Database(database_url)

    for lend in (database.reading, database.writing):
        async with lend() as connection:
            found = {
                name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in expected
            }
        assert found == expected
    await database.close()


def test_every_table_has_a_primary_key_and_named_constraints() -> None:
    """SQLite can only rebuild a table around a constraint that has a name."""
    for table in metadata.sorted_tables:
        assert table.primary_key.columns, table.name
        assert all(constraint.name for constraint in table.constraints), table.name
