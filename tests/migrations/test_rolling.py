"""Two versions over one database: what a newer one has expanded, this one serves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from backhaul_api.db import migrate, revisions
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import hosts, needed_revisions
from backhaul_api.services import Services
from tests.system.next_version import REVISION, write_migrations


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """Give the migrations of the next version."""
    folder = tmp_path / "migrations-of-next"
    write_migrations(folder)
    return folder


@pytest.fixture
async def database_url(empty_database_url: str) -> str:
    """Give a database of its own: what is tested here changes the tables."""
    await migrate.upgrade(empty_database_url)
    return empty_database_url


@contextmanager
def as_next_version(folder: Path) -> Iterator[None]:
    """Have the code find these migrations for the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revisions, "find_migrations", lambda: folder)
        _forget()
        try:
            yield
        finally:
            _forget()


def _forget() -> None:
    revisions.head_revision.cache_clear()
    revisions.known_revisions.cache_clear()


async def need(url: str, revision: str) -> None:
    """Note what a revision that contracts would note."""
    database = Database(url)
    async with database.writing() as connection:
        await connection.execute(sa.insert(needed_revisions).values(revision=revision))
    await database.close()


async def test_database_that_a_newer_version_has_expanded_is_served_as_it_is(
    database_url: str, newer: Path
) -> None:
    await need(database_url, revisions.head_revision())
    with as_next_version(newer):
        await migrate.upgrade(database_url)

    await migrate.upgrade(database_url)

    assert await migrate.is_database_fit(database_url)
    assert await migrate.current_revision(database_url) == REVISION


async def test_database_that_has_lost_what_this_version_needs_is_refused(
    database_url: str, newer: Path
) -> None:
    with as_next_version(newer):
        await migrate.upgrade(database_url)
    await need(database_url, REVISION)

    assert not await migrate.is_database_fit(database_url)
    with pytest.raises(migrate.UnknownRevisionError, match="newer version"):
        await migrate.upgrade(database_url)


async def test_newer_database_is_not_taken_back_by_code_that_does_not_know_how(
    database_url: str, newer: Path
) -> None:
    with as_next_version(newer):
        await migrate.upgrade(database_url)

    with pytest.raises(migrate.UnknownRevisionError, match="newer version"):
        await migrate.downgrade(database_url, revisions.head_revision())


async def test_older_database_is_not_fit(database_url: str, newer: Path) -> None:
    with as_next_version(newer):
        assert not await migrate.is_database_fit(database_url)


async def test_instance_stays_ready_while_others_expand_its_database(
    services: Services, api: httpx.AsyncClient, newer: Path
) -> None:
    url = services.settings.effective_database_url
    with as_next_version(newer):
        await migrate.upgrade(url)
    expanded = await api.get("/health/ready")
    await need(url, REVISION)
    contracted = await api.get("/health/ready")

    assert (expanded.status_code, contracted.status_code) == (200, 503)


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
async def test_change_of_a_table_that_is_in_use_lets_others_through_until_it_has_its_turn(
    database_url: str, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_PATIENCE_S", 0.05)
    monkeypatch.setattr(migrate, "LOCK_PAUSE_S", 0.05)
    monkeypatch.setattr(migrate, "LOCK_TRIES", 10_000)
    tried = _Tries(monkeypatch)
    database = Database(database_url)
    with as_next_version(newer):
        async with database.writing() as slow:
            await slow.execute(sa.select(hosts.c.id))
            upgrading = asyncio.create_task(migrate.upgrade(database_url))
            await tried.wait_for(2)
            async with asyncio.timeout(10), database.reading() as quick:
                await quick.execute(sa.select(hosts.c.id))
            was_waiting = not upgrading.done()
        async with asyncio.timeout(10):
            await upgrading
    await database.close()

    assert was_waiting
    assert await migrate.current_revision(database_url) == REVISION


class _Tries:
    """Counts how often an upgrade began to change something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        self._one_more = asyncio.Event()
        original = migrate._try

        async def count(*arguments: object, **options: object) -> None:
            self._count += 1
            self._one_more.set()
            await original(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(migrate, "_try", count)

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self._count < count:
                self._one_more.clear()
                await self._one_more.wait()


def test_each_revision_says_whether_it_expands_or_contracts() -> None:
    scripts = ScriptDirectory.from_config(migrate.build_config()).walk_revisions()

    assert all(re.match(r"(Expand|Contract): ", script.doc) for script in scripts)


async def test_revision_that_contracts_tells_what_code_must_know(database_url: str) -> None:
    """The newest database asks for each revision from which on code does without something."""
    database = Database(database_url)
    async with database.reading() as connection:
        needed = set(await connection.scalars(sa.select(needed_revisions.c.revision)))
    await database.close()

    scripts = ScriptDirectory.from_config(migrate.build_config()).walk_revisions()
    contracting = [script for script in scripts if script.doc.startswith("Contract: ")]
    assert len(needed) == len(contracting)
    assert needed <= revisions.known_revisions()
