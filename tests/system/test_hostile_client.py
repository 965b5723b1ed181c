"""A client that holds what opens the repository, and writes snapshots to push the honest ones out.

With the real API, agent and restic.
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backhaul.wire.fleet import CreateSource, UpdateSource
from backhaul.wire.honesty import Doubt
from backhaul.wire.jobs import Job, JobState
from backhaul.wire.kinds import BackupRequest, ForgetRequest, ForgetResult, Retention
from tools.local_fleet import HOST, REPOSITORY, LocalFleet

pytestmark = pytest.mark.timeout(300)

HONEST = 3
HOSTILE = 100


def test_snapshots_from_the_future_push_no_honest_one_out(fleet: LocalFleet, tree: Path) -> None:
    client = fleet.client
    source = CreateSource(name="etc", paths=(str(tree),), retention=Retention(keep_last=7))
    client.create_source(source)
    for number in range(HONEST):
        (tree / "file").write_text(f"content {number}\n")
        backup = fleet.run_job(BackupRequest(host=HOST, repository=REPOSITORY, source="etc"))
        assert backup.state is JobState.SUCCEEDED
    honest = _list_ids(fleet)

    _write_hostile(fleet, tree)
    tried = _forget(fleet, dry_run=True)
    forgotten = _forget(fleet)

    by_restic = ("forget", "--tag=etc", "--group-by=host", "--keep-last=7", "--dry-run", "--json")
    [group] = json.loads(fleet.restic(*by_restic))
    assert {one["id"] for one in group["remove"]} > set(honest), "restic alone would remove them"
    assert _get_counts(tried) == (HONEST, 0, HOSTILE)
    assert _get_counts(forgotten) == (HONEST, 0, HOSTILE)
    assert f"{HOSTILE} snapshots were set aside" in (forgotten.message or "")
    assert f"({HOSTILE}: {Doubt.FUTURE})" in (forgotten.message or "")
    assert len(_list_ids(fleet)) == HONEST + HOSTILE

    # The rules still do their work, among the honest ones.
    client.update_source("etc", UpdateSource(retention=Retention(keep_last=1)))
    told = fleet.run_cli("jobs", "run", HOST, "forget", "--source=etc", "--dry-run", "--wait")
    forgotten = _forget(fleet)

    assert "1 snapshot would be kept, 2 removed" in told
    assert _get_counts(forgotten) == (1, 2, HOSTILE)
    assert set(_list_ids(fleet)) & set(honest) == {honest[-1]}
    doubts = {snapshot.id: snapshot.doubt for snapshot in client.list_snapshots()}
    assert doubts.pop(honest[-1]) is None
    assert list(doubts.values()) == [Doubt.FUTURE] * HOSTILE
    assert fleet.look_for_leaks() > 3


def test_repository_that_exists_is_adopted(fleet: LocalFleet, tree: Path) -> None:
    _back_up_by_hand(fleet, tree, "2020-02-02 02:02:02")
    _back_up_by_hand(fleet, tree, "2099-02-02 02:02:02")
    fleet.client.create_source(
        CreateSource(name="etc", paths=(str(tree),), retention=Retention(keep_last=1))
    )
    fleet.run_job(BackupRequest(host=HOST, repository=REPOSITORY, source="etc"))
    before = _forget(fleet)

    told = fleet.run_cli("repositories", "adopt", REPOSITORY, "--host", HOST, "--yes")
    after = _forget(fleet)

    assert _get_counts(before) == (1, 0, 2)
    assert "vouched for 1 snapshot. Still doubted: 1" in told
    assert _get_counts(after) == (1, 1, 1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def _write_hostile(fleet: LocalFleet, tree: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        times = (f"2099-01-01 00:{number // 60:02}:{number % 60:02}" for number in range(HOSTILE))
        list(pool.map(lambda time: _back_up_by_hand(fleet, tree, time), times))


def _back_up_by_hand(fleet: LocalFleet, tree: Path, time: str) -> None:
    environment: dict[str, Any] = os.environ | {
        "RESTIC_REPOSITORY": str(fleet.repository),
        "RESTIC_PASSWORD": fleet.secrets["repository password"],
        "RESTIC_CACHE_DIR": str(fleet.folder / "hostile-cache"),
    }
    line = ["restic", "backup", "--tag=etc", f"--host={HOST}", f"--time={time}", str(tree)]
    subprocess.run(line, env=environment, check=True, capture_output=True)


def _forget(fleet: LocalFleet, *, dry_run: bool = False) -> Job:
    request = ForgetRequest(host=HOST, repository=REPOSITORY, source="etc", dry_run=dry_run)
    job = fleet.run_job(request)
    assert job.state is JobState.SUCCEEDED, job.message
    return job


def _get_counts(job: Job) -> tuple[int, int, int]:
    """Give how many were kept, removed and set aside."""
    assert isinstance(job.result, ForgetResult)
    return job.result.kept, job.result.removed, job.result.set_aside


def _list_ids(fleet: LocalFleet) -> list[str]:
    """List what is in the repository, oldest first."""
    found = json.loads(fleet.restic("snapshots", "--json"))
    return [one["id"] for one in sorted(found, key=lambda one: one["time"])]
