"""What a database that does not answer for a while means to callers: come back, not a fault."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from litestar import get
from sqlalchemy.ext.asyncio import create_async_engine

from backhaul_api.app import create_app
from backhaul_api.auth import NOBODY
from backhaul_api.db import migrate
from backhaul_api.db.engine import Database
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import jobs, setup_tokens
from backhaul_api.errors import NotReadyError
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from tests.conftest import build_client

ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def small_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """Give a database with one connection to write, and little patience."""
    settings = Settings(
        database_pool_size=1,
        database_pool_overflow=0,
        database_pool_patience=0.05,
        database_statement_timeout=0.2,
        database_idle_timeout=0.3,
    )
    database = Database(database_url, settings)
    yield database
    await database.close()


async def _run(database: Database, statement: str) -> None:
    async with database.writing() as connection:
        await connection.execute(sa.text(statement))


async def test_busy_pool_is_not_a_fault(small_database: Database) -> None:
    async with small_database.writing():
        with pytest.raises(NotReadyError):
            async with small_database.writing():
                pass


@ON_POSTGRESQL
@pytest.mark.parametrize("state", ["40P01", "40001", "53100", "53300", "57P03", "08006"])
async def test_passing_state_of_postgresql_is_not_a_fault(
    small_database: Database, state: str
) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"

    with pytest.raises(NotReadyError):
        await _run(small_database, raising)


@ON_POSTGRESQL
async def test_connection_that_breaks_is_not_a_fault_and_the_next_one_is_new(
    small_database: Database,
) -> None:
    with pytest.raises(NotReadyError):
        await _run(small_database, "SELECT pg_terminate_backend(pg_backend_pid())")

    await _run(small_database, "SELECT 1")


@ON_POSTGRESQL
async def test_connection_that_has_rested_is_asked_whether_it_lives(
    small_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backhaul_api.db.postgresql.PINGED_AFTER_S", 0.0)

    async def read_pid() -> int:
        async with small_database.reading() as connection:
            pid = await connection.scalar(sa.text("SELECT pg_backend_pid()"))
        return int(pid or 0)

    first = await read_pid()
    assert await read_pid() == first

    asked = create_async_engine(small_database.url)
    async with asked.connect() as connection:
        await connection.execute(sa.text(f"SELECT pg_terminate_backend({first}, 5000)"))
    await asked.dispose()
    assert await read_pid() != first


@ON_POSTGRESQL
async def test_connection_that_breaks_as_it_is_opened_is_not_a_fault(
    small_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect: Any = small_database.sync_engine.dialect
    set_up = dialect.setup_asyncpg_json_codec

    async def cut(connection: Any) -> None:
        connection.driver_connection.terminate()
        await set_up(connection)

    with monkeypatch.context() as patched:
        patched.setattr(dialect, "setup_asyncpg_json_codec", cut)
        with pytest.raises(NotReadyError):
            await _run(small_database, "SELECT 1")

    await _run(small_database, "SELECT 1")


@ON_POSTGRESQL
async def test_statement_that_takes_too_long_is_not_a_fault(small_database: Database) -> None:
    with pytest.raises(NotReadyError):
        await _run(small_database, "SELECT pg_sleep(20)")


@ON_POSTGRESQL
async def test_transaction_that_hangs_is_ended_and_is_not_a_fault(
    small_database: Database,
) -> None:
    with pytest.raises(NotReadyError):
        await _hang(small_database)

    await _run(small_database, "SELECT 1")


async def _hang(database: Database) -> None:
    """Do nothing in a transaction until PostgreSQL has had enough of it."""
    async with database.writing() as connection:
        await connection.execute(sa.text("SELECT 1"))
        driver: Any = (await connection.get_raw_connection()).driver_connection
        async with asyncio.timeout(20):
            while not driver.is_closed():
                await asyncio.sleep(0.01)
        await connection.execute(sa.text("SELECT 1"))


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
async def test_column_that_a_newer_version_has_widened_is_not_a_fault(
    empty_database_url: str,
) -> None:
    """PostgreSQL refuses what was prepared before, once."""
    await migrate.upgrade(empty_database_url)
    database = Database(empty_database_url)

    async def look() -> None:
        async with database.reading() as connection:
            await connection.execute(sa.select(jobs.c.missed))

    await look()
    engine = create_async_engine(database.url)
    async with engine.begin() as newer:
        await newer.execute(sa.text("ALTER TABLE jobs ALTER missed TYPE bigint"))
    await engine.dispose()

    with pytest.raises(NotReadyError):
        await look()
    await look()
    await database.close()


@ON_SQLITE
async def test_locked_sqlite_is_not_a_fault(small_database: Database) -> None:
    await _run(small_database, "SELECT 1")
    other = sqlite3.connect(str(small_database.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(NotReadyError):
            await _run(small_database, "SELECT 1")
    finally:
        other.close()


@contextmanager
def _full_disk(services: Services) -> Iterator[None]:
    """Let the file of the database grow no more."""
    backend: Any = services.database._backend
    open_one = backend._open
    pages = 2**30

    def limit(connection: sqlite3.Connection, most: int) -> sqlite3.Connection:
        connection.execute(f"PRAGMA max_page_count = {most}")
        return connection

    def open_limited() -> sqlite3.Connection:
        return limit(open_one(), pages)

    def limit_all() -> None:
        for lent in backend._idle:
            limit(lent.connection.driver_connection, pages)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backend.engine.pool, "_creator", open_limited)
        with closing(open_one()) as probe:
            pages = probe.execute("PRAGMA page_count").fetchone()[0]
        limit_all()
        yield
        pages = 2**30
        limit_all()


@ON_SQLITE
async def test_full_disk_is_no_fault_and_undoes_all_that_was_not_answered(
    services: Services, operator: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    def build(number: int) -> dict[str, Any]:
        return {"name": f"s{number}", "paths": [f"/{'x' * 3000}"]}

    async def create(number: int) -> httpx.Response:
        return await operator.post("/v1/sources", json=build(number))

    with _full_disk(services):
        answers = await asyncio.gather(*map(create, range(50)))
        read = await operator.get("/v1/sources", params={"limit": 500})
    later = await create(50)

    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused
    assert {answer.status_code for answer in refused} == {503}
    assert any("disk is full" in answer.json()["detail"] for answer in refused)
    kept = {one["name"] for one in read.json()["items"]}
    assert kept == {one.json()["name"] for one in answers if one.status_code == 201}
    assert later.status_code == 201
    assert "Traceback" not in caplog.text


@ON_SQLITE
async def test_operator_can_look_where_nothing_can_be_written(
    services: Services, operator: httpx.AsyncClient
) -> None:
    """That an API token is in use is to be noted, but is no reason to refuse it."""
    made = await operator.post("/v1/api-tokens", json={"name": "ci"})
    operator.headers["Authorization"] = f"Bearer {made.json()['token']}"
    backend: Any = services.database._backend
    backend._patience_s = 0.05
    with closing(sqlite3.connect(backend._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        read = await operator.get("/v1/sources")
        written = await operator.post("/v1/sources", json={"name": "etc", "paths": ["/etc"]})

    assert (read.status_code, written.status_code) == (200, 503)


async def test_wrong_statement_is_a_fault(small_database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        await _run(small_database, "SELECT nothing FROM nowhere")


BY_HASH = constant(
    sa.select(setup_tokens.c.created_at).where(setup_tokens.c.token_hash == sa.bindparam("hash"))
)


@ON_POSTGRESQL
async def test_value_that_the_driver_refuses_is_a_fault(small_database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        async with small_database.writing() as connection:
            await connection.execute(BY_HASH, {"hash": "no bytes"})


@ON_POSTGRESQL
async def test_connection_of_an_answer_that_did_not_come_is_not_used_again(
    small_database: Database,
) -> None:
    async def find_process() -> Any:
        async with small_database.reading() as connection:
            return await connection.scalar(sa.text("SELECT pg_backend_pid()"))

    before = await find_process()
    kept = await find_process()
    with pytest.raises(NotReadyError):
        async with small_database.reading():
            raise TimeoutError

    assert kept == before
    assert await find_process() != before


@ON_SQLITE
async def test_caller_is_told_to_come_back(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = Database("postgresql+asyncpg://ada:hunter2@127.0.0.1:1/nothing")

    @get("/ask", opt=NOBODY)
    async def ask() -> None:
        async with nowhere.reading():
            pass

    app = create_app(services)
    app.register(ask)
    async with build_client(app) as client:
        answer: httpx.Response = await client.get("/ask")
    await nowhere.close()

    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:backhaul:problem:not-ready"
    assert int(answer.headers["Retry-After"]) > 0
    assert "hunter2" not in answer.text
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
