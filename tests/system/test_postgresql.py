"""Real processes on PostgreSQL: moved there from SQLite, and behind a PgBouncer."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backhaul.wire.fleet import CreateSource, UpdateSource
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import (
    BackupRequest,
    BackupResult,
    JobKind,
    RestoreRequest,
    SnapshotsRequest,
)
from backhaul.wire.schedules import CreateSchedule, ScheduleKind
from tests.conftest import stop_for_missing
from tests.fakes.pgbouncer import PgbouncerMissingError, run_pgbouncer
from tests.fakes.postgresql import PostgresqlServer
from tests.house.modules import ROOT
from tools.children import BACKHAUL
from tools.local_fleet import HOST, REPOSITORY, LocalFleet
from tools.trees import compare_trees

PAGE = ROOT / "docs/postgresql.md"
READERS = 6
LIMIT_S = 60

_numbers = itertools.count()


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    name = f"system_{next(_numbers)}"
    yield postgresql_server.create_database(name)
    postgresql_server.drop_database(name)


@pytest.fixture
def pooled_url(postgresql_url: str) -> Iterator[str]:
    """Give the same through a PgBouncer in transaction mode."""
    try:
        with run_pgbouncer(postgresql_url) as url:
            yield url
    except PgbouncerMissingError:
        stop_for_missing("pgbouncer")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def _backup(tree: Path) -> BackupRequest:
    return BackupRequest(host=HOST, repository=REPOSITORY, paths=(str(tree),))


def _read_commands(data_dir: Path, url: str) -> list[list[str]]:
    """Read the commands of docs/postgresql.md, for other places."""
    [block] = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    places = {"/var/lib/backhaul": str(data_dir), "postgresql://backhaul@db.example/backhaul": url}
    lines = [shlex.split(line.removeprefix("$ backhaul ")) for line in block.splitlines()]
    return [[places.get(word, word) for word in words] for words in lines]


def test_agent_goes_on_after_its_server_has_moved_from_sqlite_to_postgresql(
    fleet: LocalFleet, tree: Path, postgresql_url: str
) -> None:
    client = fleet.client
    first = fleet.run_job(_backup(tree))
    host = client.get_host(HOST)
    assert fleet.api.stop(signal.SIGTERM) == 0

    upgrade, copy, serve = _read_commands(fleet.folder / "api", postgresql_url)
    fleet.run_cli(*upgrade)
    said = fleet.run_cli(*copy, "--json")
    fleet.api = fleet._start("api-again", *serve, "--port", client.url.rpartition(":")[2])
    fleet.api.wait_for_output(r"Backhaul API on (\S+)", limit_s=LIMIT_S)
    second = fleet.run_job(_backup(tree))

    assert json.loads(said)["tables"]["jobs"] == 2
    assert client.get_job(first.id) == first
    assert client.get_host(HOST).id == host.id
    assert second.state is JobState.SUCCEEDED
    assert isinstance(second.result, BackupResult)
    assert second.result.files_unmodified == 1
    assert len(list(client.list_snapshots())) == 2


def test_control_plane_works_behind_pgbouncer_in_transaction_mode(
    restic: str, tmp_path: Path, tree: Path, pooled_url: str
) -> None:
    fleet = LocalFleet(tmp_path)
    fleet.environment |= {
        "BACKHAUL_API_DATABASE_URL": pooled_url,
        "BACKHAUL_API_DATABASE_POOLER": "transaction",
    }
    client = None
    try:
        fleet.start_api()
        fleet.enrol_host()
        fleet.start_agent()
        fleet.create_repository()
        client = fleet.client
        source = client.create_source(CreateSource(name="tree", paths=(str(tree),)))
        schedule = client.create_schedule(
            HOST,
            CreateSchedule(
                kind=ScheduleKind.BACKUP, cron="0 3 1 1 *", repository=REPOSITORY, source="tree"
            ),
        )
        backup = fleet.run_job(_backup(tree))
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(lambda number: _read_all(fleet, number), range(10 * READERS)))
        client.update_source("tree", UpdateSource(tags=("other",)))
        listed = fleet.run_job(SnapshotsRequest(host=HOST, repository=REPOSITORY))
        [snapshot] = client.list_snapshots()
        files = client.list_snapshot_files(REPOSITORY, snapshot.id, str(tree))
        restored = fleet.run_job(
            RestoreRequest(
                host=HOST, repository=REPOSITORY, snapshot="latest", target=str(tmp_path / "back")
            )
        )
        client.delete_schedule(schedule.id)

        assert [job.state for job in (backup, listed, restored)] == [JobState.SUCCEEDED] * 3
        assert [entry.name for entry in files.entries] == ["file"]
        assert compare_trees(tree, Path(f"{tmp_path}/back{tree}")).files == 1
        assert source.id == client.get_source("tree").id
        assert list(client.get_job_log(backup.id)) == list(client.follow_job_log(backup.id))
        assert '"level":"error"' not in fleet.api.error_file.read_text()
    finally:
        fleet.stop()


def _read_all(fleet: LocalFleet, number: int) -> None:
    client = fleet.client
    match number % 5:
        case 0:
            assert [host.name for host in client.list_hosts()] == [HOST]
        case 1:
            assert [one.name for one in client.list_repositories()] == [REPOSITORY]
        case 2:
            kinds = {job.kind for job in client.list_jobs(states=[JobState.SUCCEEDED])}
            assert kinds >= {JobKind.INIT, JobKind.BACKUP}
        case 3:
            assert len(list(client.list_schedules())) == 1
        case _:
            assert any(event.kind == "job.succeeded" for event in client.list_events())


def test_server_that_does_not_know_of_its_pooler_says_which_setting_to_set(
    tmp_path: Path, pooled_url: str
) -> None:
    command = [str(BACKHAUL), "serve", "--data-dir", str(tmp_path), "--port", "0"]

    run = subprocess.run(
        [*command, "--database-url", pooled_url],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert run.returncode == 2
    assert "database_pooler" in run.stderr.splitlines()[-1]
