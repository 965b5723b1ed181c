"""A real agent on a real file system that is full: it waits for room, and goes on."""

from __future__ import annotations

import contextlib
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backhaul.objects.fleet import Fleet
from backhaul.wire.jobs import JobState
from tests.conftest import stop_for_missing
from tests.system.conftest import give_repository
from tools.local_fleet import HOST, LocalFleet

LIMIT_S = 60.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 6 MiB where the agent's state will be."""
    folder = tmp_path / "agent"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        stop_for_missing("the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def full_fleet(restic: str, tmp_path: Path, small_disk: Path) -> Iterator[LocalFleet]:
    fleet = LocalFleet(tmp_path)
    fleet.environment["BACKHAUL_AGENT_CACHE_DIR"] = str(tmp_path / "cache")
    try:
        fleet.start_api()
        fleet.enrol_host()
        fleet.start_agent()
        give_repository(fleet)
        yield fleet
    finally:
        fleet.stop()


def _fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def _wait_for_complaint(fleet: LocalFleet, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while fleet.agent.error_file.read_text().count("journal.full") < count:
        assert time.monotonic() < deadline, fleet.agent.error_file.read_text()
        assert fleet.agent.process.poll() is None
        time.sleep(0.1)


def test_job_waits_for_room_before_it_begins_and_before_it_ends(
    full_fleet: LocalFleet, small_disk: Path
) -> None:
    host = Fleet(full_fleet.client).hosts[HOST]
    filler = _fill(small_disk)
    waiting = host.backup(["/etc/hostname"])
    _wait_for_complaint(full_fleet, 1)
    assert waiting.refresh().state is JobState.QUEUED
    filler.unlink()
    waiting.wait(LIMIT_S)

    # Some seconds of work.
    running = host.backup([sysconfig.get_path("stdlib")])
    for seen in running.follow(LIMIT_S):
        if seen.state is JobState.RUNNING:
            break
    before = full_fleet.agent.error_file.read_text().count("journal.full")
    filler = _fill(small_disk)
    _wait_for_complaint(full_fleet, before + 1)
    filler.unlink()
    running.wait(LIMIT_S)

    assert waiting.state is JobState.SUCCEEDED
    assert running.state is JobState.SUCCEEDED
    assert full_fleet.restic("list", "locks").split() == []


def test_agent_that_was_killed_on_a_full_disk_comes_back_and_waits_for_room(
    full_fleet: LocalFleet, small_disk: Path
) -> None:
    host = Fleet(full_fleet.client).hosts[HOST]
    full_fleet.agent.process.kill()
    full_fleet.agent.process.wait()
    filler = _fill(small_disk)

    full_fleet.start_agent()
    _wait_for_complaint(full_fleet, 1)
    filler.unlink()
    job = host.backup(["/etc/hostname"]).wait(LIMIT_S)

    assert job.state is JobState.SUCCEEDED
