"""The main job, and what happens to it when something ends that should not have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from backhaul.errors import ConflictError
from backhaul.wire.jobs import FailureClass, Job, JobState
from backhaul.wire.kinds import (
    BackupRequest,
    BackupResult,
    InitRequest,
    RestoreRequest,
)
from tools.children import BACKHAUL
from tools.local_fleet import HOST, REPOSITORY, LocalFleet
from tools.trees import compare_trees

UNREADABLE = "/proc/self/mem"
"""Can be opened and not be read from its beginning, by root neither."""

STOP_LIMIT_S = 10.0
"""Many times what it takes (0.3 s); far less than the hold of the poll that is in the way."""

SLOW_BYTES = 1 << 40
"""A file of holes: restic reads it for minutes, and it takes no space."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def _backup(*paths: Path | str) -> BackupRequest:
    return BackupRequest(host=HOST, repository=REPOSITORY, paths=tuple(map(str, paths)))


def _start_slow_backup(fleet: LocalFleet, tree: Path) -> Job:
    """Start a backup that takes long, and wait until restic is at it."""
    with (tree / "slow").open("wb") as file:
        file.truncate(SLOW_BYTES)
    job = fleet.client.create_job(_backup(tree))
    for change in fleet.client.follow_job(job.id, timeout=60):
        if change.progress is not None and change.progress.bytes_done > 0:
            return change
    raise AssertionError("the slow backup ended")


def _locks(fleet: LocalFleet) -> list[str]:
    return fleet.restic("list", "locks").split()


def test_a_backup_is_restored_byte_for_byte(fleet: LocalFleet, tree: Path, tmp_path: Path) -> None:
    (tree / "link").symlink_to("file")
    (tree / "file").chmod(0o640)
    job = fleet.run_job(_backup(tree))
    assert isinstance(job.result, BackupResult)

    (listed,) = fleet.client.list_snapshots(repository=REPOSITORY)
    (in_repository,) = json.loads(fleet.restic("snapshots", "--json"))
    target = tmp_path / "restored"
    restored = fleet.run_job(
        RestoreRequest(host=HOST, repository=REPOSITORY, snapshot=listed.id, target=str(target))
    )

    assert (job.state, restored.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert listed.id == in_repository["id"]
    assert (listed.hostname, listed.job_id) == (HOST, job.id)
    assert compare_trees(tree, target / tree.relative_to("/")).files == 1
    assert fleet.look_for_leaks() > 3


def test_a_file_that_cannot_be_read_makes_the_backup_incomplete(
    fleet: LocalFleet, tree: Path
) -> None:
    job = fleet.run_job(_backup(tree, UNREADABLE))

    assert (job.state, job.exit_code) == (JobState.INCOMPLETE, 3)
    assert isinstance(job.result, BackupResult)
    assert job.result.unreadable == 1
    assert len(list(fleet.client.list_snapshots())) == 1
    log = "\n".join(line.text for line in fleet.client.get_job_log(job.id))
    assert UNREADABLE in log


def test_the_command_line_tells_how_a_job_ended_by_its_exit_code(
    fleet: LocalFleet, tree: Path
) -> None:
    def run(*paths: str) -> int:
        options = [option for path in paths for option in ("--path", path)]
        command = [str(BACKHAUL), "jobs", "run", HOST, "backup", *options, "--wait"]
        return subprocess.run(
            command, env=fleet.environment, capture_output=True, check=False
        ).returncode

    assert run(str(tree)) == 0
    assert run(str(tree), UNREADABLE) == 3
    assert run(str(tree / "is not there")) == 1
    assert run("not absolute") == 2


def test_a_repository_is_created_only_once(fleet: LocalFleet) -> None:
    config = fleet.repository / "config"
    before = config.read_bytes()

    with pytest.raises(ConflictError, match="initiali"):
        fleet.client.create_job(InitRequest(host=HOST, repository=REPOSITORY))

    assert config.read_bytes() == before


def test_the_server_stops_at_once_though_a_poll_is_held(fleet: LocalFleet) -> None:
    # Once this is over, the agent has nothing to do but to hold its next poll.
    fleet.run_job(_backup("/nowhere"))
    begun = time.monotonic()

    code = fleet.api.stop(signal.SIGTERM)

    assert time.monotonic() - begun < STOP_LIMIT_S
    assert code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_agent_that_is_stopped_during_a_backup_leaves_no_lock(
    fleet: LocalFleet, tree: Path, number: signal.Signals
) -> None:
    job = _start_slow_backup(fleet, tree)
    assert len(_locks(fleet)) == 1

    code = fleet.agent.stop(number)

    assert code == 0
    assert _locks(fleet) == []
    ended = fleet.client.get_job(job.id)
    assert (ended.state, ended.failure_class) == (JobState.FAILED, FailureClass.INTERRUPTED)


def test_a_job_of_an_agent_that_was_killed_ends_when_the_agent_is_back(
    fleet: LocalFleet, tree: Path
) -> None:
    job = _start_slow_backup(fleet, tree)

    os.kill(fleet.agent.pid, signal.SIGKILL)
    fleet.agent.process.wait()
    fleet.start_agent()
    ended = fleet.client.wait_for_job(job.id, timeout=90)

    assert (ended.state, ended.failure_class) == (JobState.FAILED, FailureClass.INTERRUPTED)
    (tree / "slow").unlink()
    assert fleet.run_job(_backup(tree)).state is JobState.SUCCEEDED
