"""What tests of every kind share: fresh databases, a fake clock, the API and a way to ask it.

Each test has a database of its own: with SQLite a copy of a file that was upgraded once, with
PostgreSQL one that is emptied before it. A part that is missing on this machine (restic,
PostgreSQL) skips the tests that need it, but fails them when CI is set.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import argon2
import httpx
import pytest
from litestar import Litestar

from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.db import migrate
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import setup_tokens
from backhaul_api.keys import KeyRing
from backhaul_api.passwords import PasswordHasher
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.postgresql import (
    EmptiedDatabase,
    PostgresqlMissingError,
    PostgresqlServer,
    run_postgresql,
)
from tools.local_fleet import name_restic

if TYPE_CHECKING:
    from backhaul_api.access_log import Api

FAST_ARGON2 = argon2.Parameters(
    type=argon2.Type.ID,
    version=19,
    salt_len=16,
    hash_len=16,
    time_cost=1,
    memory_cost=8,
    parallelism=1,
)
"""Hashes in microseconds. The real parameters have a test of their own."""

ADA_PASSWORD = "correct horse battery"

_database_numbers = itertools.count()
_lent: list[Api] = []
"""The one app of this process, once there is one: see `lend_app`."""


def pytest_configure() -> None:
    # A run in the background of a script begins with SIGINT ignored, and whatever it starts would
    # inherit that; Ctrl-C is part of what is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # What was imported stays: the garbage collector need not walk through it in each test.
    gc.collect()
    gc.freeze()


def stop_for_missing(part: str) -> NoReturn:
    """Skip on a laptop, fail where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{part} is missing, and CI is set: everything must be tested here")
    pytest.skip(f"{part} is missing")


@pytest.fixture(scope="session")
def restic() -> str:
    """Give the path of the real restic, or of the one that BACKHAUL_TEST_RESTIC names."""
    return shutil.which(name_restic()) or stop_for_missing("restic")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """Run one PostgreSQL server for all tests."""
    with tempfile.TemporaryDirectory(prefix="bh-pg-", ignore_cleanup_errors=True) as folder:
        try:
            server = run_postgresql(Path(folder))
            with server as running:
                yield running
        except PostgresqlMissingError as error:
            stop_for_missing(f"PostgreSQL ({error})")


@pytest.fixture(scope="session")
def _postgresql_database(postgresql_server: PostgresqlServer) -> Iterator[EmptiedDatabase]:
    url = postgresql_server.create_database("emptied")
    asyncio.run(migrate.upgrade(url))
    with EmptiedDatabase(url) as database:
        yield database


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "template.sqlite3"
    asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{file}"))
    # All of it into the one file that is copied.
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a fresh database at the newest revision, on each backend in turn."""
    if request.param == "sqlite":
        file = tmp_path / "backhaul.sqlite3"
        shutil.copyfile(request.getfixturevalue("_sqlite_template"), file)
        yield f"sqlite+aiosqlite:///{file}"
        return
    database: EmptiedDatabase = request.getfixturevalue("_postgresql_database")
    database.empty()
    yield database.url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a database without a single table, on each backend in turn."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/empty.sqlite3"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    name = f"empty_{next(_database_numbers)}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def services(database_url: str, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Services]:
    """Put an instance together over a fresh database; its `clock` is the fixture of that name."""
    database = Database(database_url)
    yield Services(
        settings=Settings(data_dir=tmp_path, database_url=database_url),
        clock=clock,
        database=database,
        keys=KeyRing([bytes(range(32))]),
        passwords=PasswordHasher(FAST_ARGON2),
        wakeups=Wakeups(),
    )
    await database.close()


@pytest.fixture
def app(services: Services) -> Litestar:
    """Give the app. Its lifespan does not run; `services` closes what it opened.

    It is the same for all tests, and only what it works with is their own: 100 routes take longer
    to build than most tests to run. Who changes it takes `create_app`.
    """
    return lend_app(services)


def lend_app(services: Services) -> Litestar:
    """Give the one app of this process, which from now on works with these services."""
    # Imported here: tests of the SDK and of the agent do without all the routes.
    from backhaul_api.app import create_app, put_into

    if not _lent:
        _lent.append(create_app(services))
    put_into(_lent[0], services)
    return _lent[0]


@pytest.fixture
async def api(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client that nobody has signed in."""
    async with build_client(app) as client:
        yield client


@pytest.fixture
async def operator(app: Litestar, services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client in which the first operator, ada, has signed in through the setup token."""
    setup_token = build_token(TokenKind.SETUP)
    now = services.clock.now()
    async with services.database.writing() as connection:
        await connection.execute(
            setup_tokens.insert().values(
                token_hash=hash_token(setup_token),
                created_at=now,
                expires_at=now + timedelta(hours=1),
            )
        )
    body = {"setup_token": setup_token, "username": "ada", "password": ADA_PASSWORD}
    async with build_client(app) as client:
        answer = await client.post("/v1/bootstrap", json=body)
        assert answer.status_code == 201, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        yield client


def build_client(app: Litestar) -> httpx.AsyncClient:
    """Build a client of the app, without a socket between."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=cast("Any", app)), base_url="http://api"
    )
