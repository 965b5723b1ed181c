"""Every revision goes up and down over full tables, and ends where the code says it does."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from backhaul_api.db import migrate
from backhaul_api.db.revisions import head_revision
from backhaul_api.db.tables import metadata
from tests.migrations.rows import count_rows, fill_every_table, find_broken_references


def _revisions() -> list[str]:
    """Give all revisions, oldest first."""
    scripts = ScriptDirectory.from_config(migrate.build_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


REVISIONS = _revisions()


def test_the_history_is_one_line() -> None:
    scripts = ScriptDirectory.from_config(migrate.build_config())

    assert scripts.get_heads() == [head_revision()]
    assert [f"{number:04}" for number in range(1, len(REVISIONS) + 1)] == REVISIONS


@pytest.mark.parametrize("revision", REVISIONS)
async def test_each_revision_goes_down_and_up_again_over_full_tables(
    empty_database_url: str, revision: str
) -> None:
    before = REVISIONS[: REVISIONS.index(revision)]
    await migrate.upgrade(empty_database_url, revision)
    await fill_every_table(empty_database_url)

    await migrate.downgrade(empty_database_url, before[-1] if before else "base")
    assert await migrate.current_revision(empty_database_url) == (before[-1] if before else None)
    assert await find_broken_references(empty_database_url) == []

    await migrate.upgrade(empty_database_url, revision)
    assert await migrate.current_revision(empty_database_url) == revision
    assert await find_broken_references(empty_database_url) == []


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_upgrade_to_the_newest_revision_keeps_every_row(
    empty_database_url: str, revision: str
) -> None:
    await migrate.upgrade(empty_database_url, revision)
    rows = await fill_every_table(empty_database_url)
    assert set(rows.values()) == {1}

    await migrate.upgrade(empty_database_url)

    kept = await count_rows(empty_database_url)
    assert {table: kept.get(table) for table in rows} == rows
    assert await find_broken_references(empty_database_url) == []


async def test_going_down_to_base_leaves_no_table(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)
    await fill_every_table(empty_database_url)

    await migrate.downgrade(empty_database_url, "base")

    assert await count_rows(empty_database_url) == {}


async def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    rows = await fill_every_table(database_url)

    await migrate.upgrade(database_url)

    assert await count_rows(database_url) == rows
    assert await migrate.current_revision(database_url) == head_revision()


async def test_the_newest_revision_holds_exactly_the_tables_of_the_code(database_url: str) -> None:
    engine = create_async_engine(database_url, poolclass=sa.NullPool)
    async with engine.connect() as connection:
        differences = await connection.run_sync(_compare)
    await engine.dispose()

    assert differences == []


def _compare(connection: sa.Connection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))
