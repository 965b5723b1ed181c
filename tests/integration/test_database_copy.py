"""`backhaul db copy`: all of it comes over or none of it, and what does not fit is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner

from backhaul_api import cli, copying
from backhaul_api.db import migrate
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import events, job_log, jobs, metadata, snapshots, sources
from backhaul_api.preparation import hold_database
from backhaul_api.settings import Settings
from tests.fakes.postgresql import PostgresqlServer
from tests.migrations.rows import fill_every_table
from tools.children import BACKHAUL, Child, build_environment

APP = typer.Typer()
APP.add_typer(cli.db, name="db")
APP.add_typer(cli.admin, name="admin")

AUTUMN = datetime(2026, 10, 25, 1, 30, 0, 123456, tzinfo=UTC)
MANY_LINES = 3 * copying.BATCH_ROWS

_numbers = itertools.count()


@pytest.fixture
def old(_sqlite_template: Path, tmp_path: Path) -> str:
    """Give the URL of an SQLite database with a row in each table."""
    file = tmp_path / "old" / "backhaul.sqlite3"
    file.parent.mkdir(mode=0o700)
    shutil.copyfile(_sqlite_template, file)
    url = f"sqlite+aiosqlite:///{file}"
    asyncio.run(fill_every_table(url))
    return url


@pytest.fixture
def new(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """Give the URL of a database without a single table."""
    name = f"copy_{next(_numbers)}"
    yield postgresql_server.create_database(name)
    postgresql_server.drop_database(name)


def _copy(source: str, target: str, *options: str) -> tuple[int, str, str]:
    run = CliRunner().invoke(
        APP, ["db", "copy", "--from", source, "--to", target, *options], env={"COLUMNS": "200"}
    )
    return run.exit_code, run.stdout, run.stderr


async def _execute(url: str, *statements: Any) -> Any:
    database = Database(url)
    try:
        async with database.writing() as connection:
            for statement in statements:
                result = await connection.execute(statement)
            return result.all() if result.returns_rows else None
    finally:
        await database.close()


def _count(url: str) -> dict[str, int]:
    async def count() -> dict[str, int]:
        return {
            table.name: (await _execute(url, sa.select(sa.func.count()).select_from(table)))[0][0]
            for table in metadata.sorted_tables
        }

    return asyncio.run(count())


def _add_oddities(url: str) -> None:
    """Add what either database keeps in its own way, and more than one batch of something."""
    [(job_id,)] = asyncio.run(_execute(url, sa.select(jobs.c.id)))
    [(repository_id,)] = asyncio.run(_execute(url, sa.select(jobs.c.repository_id)))
    lines = [
        {
            "job_id": job_id,
            "attempt": 2,
            "seq": number,
            "at": AUTUMN + timedelta(microseconds=number),
            "stream": "stdout",
            "text": f"line {number} ''\\ ” \N{SNOWMAN}",
        }
        for number in range(MANY_LINES)
    ]
    listed = [
        {
            "repository_id": repository_id,
            "id": name,
            "time": AUTUMN,
            "hostname": "h",
            "username": "",
            "paths": ["/a b", "/ü"],
            "tags": [],
            "tree": "t",
            "reported_at": datetime(1, 1, 1, tzinfo=UTC),
        }
        # That a language would sort otherwise.
        for name in ("a", "B", "ä", "Z", "_")
    ]
    odd = {
        "id": uuid4(),
        "name": "odd",
        "paths": [],
        "excludes": [None, True, 1, 1.5, 1e-7, 0.1 + 0.2, 2**63, {"ü": {"": []}}],
        "tags": {},
        "one_file_system": False,
        "retention": None,
        "created_at": AUTUMN,
        "updated_at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    }
    asyncio.run(
        _execute(
            url,
            *(sa.insert(job_log).values(lines[at : at + 100]) for at in range(0, len(lines), 100)),
            sa.insert(snapshots).values(listed),
            sa.insert(sources).values(odd),
        )
    )


def test_every_row_of_every_table_comes_over(old: str, new: str) -> None:
    _add_oddities(old)
    before = _count(old)

    code, said, told = _copy(old, new, "--json")

    assert code == 0, told
    assert json.loads(said)["tables"] == before == _count(new)
    assert min(before.values()) >= 1
    assert f"compare job_log: {MANY_LINES + 1:,} of {MANY_LINES + 1:,}" in told
    for table in metadata.sorted_tables:
        query = sa.select(table)
        rows = [asyncio.run(_execute(url, query)) for url in (old, new)]
        assert len({frozenset(map(repr, found)) for found in rows}) == 1, table.name


def test_numbers_go_on_where_they_were(old: str, new: str) -> None:
    gone = [sa.insert(events).values(id=77, at=AUTUMN, kind="job.queued"), sa.delete(events)]
    asyncio.run(_execute(old, *gone))

    assert _copy(old, new)[0] == 0

    added = sa.insert(events).values(at=AUTUMN, kind="job.queued").returning(events.c.id)
    assert asyncio.run(_execute(new, added)) == [(78,)]


def test_empty_tables_of_this_revision_are_a_fine_target(old: str, new: str) -> None:
    asyncio.run(migrate.upgrade(new))

    code, said, _ = _copy(old, new)

    assert code == 0
    assert f"same keys as before: {Path('backhaul-data/secret.key').resolve()}" in said


def test_copy_that_is_killed_leaves_nothing_and_can_be_run_again(
    old: str, new: str, tmp_path: Path
) -> None:
    _add_oddities(old)
    command = [str(BACKHAUL), "db", "copy", "--from", old, "--to", new]
    child = Child("copy", command, logs=tmp_path, environment=build_environment(tmp_path))
    child.wait_for_error("(copy jobs)")

    child.process.send_signal(signal.SIGKILL)
    child.process.wait()

    # The tables are locked until PostgreSQL has noticed.
    assert set(_count(new).values()) == {0}
    assert _copy(old, new)[0] == 0
    assert _count(new) == _count(old)


def test_row_that_is_not_the_same_undoes_all(old: str, new: str) -> None:
    asyncio.run(migrate.upgrade(new))
    asyncio.run(
        _execute(
            new,
            sa.text(
                "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN NEW.message := NEW.message || ' '; RETURN NEW; END $$"
            ),
            sa.text(
                "CREATE TRIGGER spoil BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION spoil()"
            ),
        )
    )

    code, said, told = _copy(old, new)

    assert (code, said) == (1, "")
    assert "table jobs: row (" in told.splitlines()[-1]
    assert told.endswith(") is not the same in message\n")
    assert set(_count(new).values()) == {0}


def test_value_that_postgresql_cannot_hold_undoes_all(old: str, new: str) -> None:
    file = old.partition(":///")[2]
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE jobs SET message = 'hunter2 ' || char(0)")

    code, _, told = _copy(old, new)

    assert code == 1
    assert "table jobs: invalid byte sequence" in told.splitlines()[-1]
    assert "hunter2" not in told
    assert set(_count(new).values()) == {0}


def test_target_that_holds_something_is_refused(old: str, new: str) -> None:
    assert _copy(old, new)[0] == 0

    code, _, told = _copy(old, new)

    assert code == 2
    assert " is not empty: " in told


def test_source_at_another_revision_is_refused(old: str, new: str, tmp_path: Path) -> None:
    older = f"sqlite+aiosqlite:///{tmp_path}/older.sqlite3"
    asyncio.run(migrate.upgrade(older, "0009"))

    code, _, told = _copy(older, new)

    assert code == 2
    assert "is at revision 0009" in told
    assert "backhaul db upgrade" in told
    assert asyncio.run(migrate.current_revision(new)) is None


def test_source_that_a_server_has_is_refused(old: str, new: str) -> None:
    with hold_database(Settings(database_url=old)):
        code, _, told = _copy(old, new)

    assert code == 2
    assert "another backhaul" in told
    assert asyncio.run(migrate.current_revision(new)) is None


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("sqlite:////nowhere/x.sqlite3", "postgresql://ada:hunter2@h/d", "there is no database"),
        ("postgresql://ada:hunter2@h/d", "sqlite:////nowhere/x", "from SQLite to PostgreSQL, and"),
        ("sqlite:////nowhere/x", "sqlite:////nowhere/y", "from SQLite to PostgreSQL, and"),
        ("sqlite:////nowhere/x", "ada:hunter2@h", "the database URL is not a URL"),
    ],
    ids=["no source", "the other way", "to itself", "no URL"],
)
def test_what_cannot_be_copied_is_refused_in_one_line(source: str, target: str, said: str) -> None:
    code, _, told = _copy(source, target)

    assert code == 2
    assert said in told
    assert len(told.splitlines()) == 1
    assert "hunter2" not in told


def test_target_that_does_not_answer_is_told_without_its_password(old: str) -> None:
    code, _, told = _copy(old, "postgresql://ada:hunter2@127.0.0.1:1/nothing")

    assert code == 2
    assert "ada:***@127.0.0.1:1/nothing" in told
    assert "hunter2" not in told


def test_target_may_be_a_setting(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKHAUL_API_DATABASE_URL", new)
    monkeypatch.setenv("BACKHAUL_API_KEY_FILE", str(tmp_path / "kept.key"))

    run = CliRunner().invoke(APP, ["db", "copy", "--data-dir", str(tmp_path / "old")])

    assert run.exit_code == 0, run.stderr
    assert str(tmp_path / "kept.key") in run.stdout
    assert _count(new) == _count(old)
