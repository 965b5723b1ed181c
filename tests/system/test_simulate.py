"""`backhaul simulate` against a real server, which dies and comes back meanwhile."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.house.modules import ROOT
from tests.system.scheduled_fleet import Patience, ScheduledFleet
from tools.children import BACKHAUL, Child

pytestmark = pytest.mark.timeout(300)

AGENTS = 20
LIMIT_S = 120.0
BUSY = ("--backups-per-day", "96", "--speed", "60", "--ramp", "1s")
"""Four schedules a host, each of every minute: with twenty hosts a fire comes every 0.75 s."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ScheduledFleet]:
    """Give a running API, and nothing else."""
    fleet = ScheduledFleet(tmp_path / "fleet", Patience())
    try:
        fleet.start_api()
        yield fleet
    finally:
        fleet.stop()


def _start(fleet: ScheduledFleet, name: str, *options: str) -> Child:
    command = [str(BACKHAUL), "simulate", "--json", "--prefix", name, *BUSY, *options]
    return Child(name, command, logs=fleet.logs, environment=fleet.environment)


def _simulate(fleet: ScheduledFleet, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BACKHAUL), "simulate", *options],
        env=fleet.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )


def _wait_for_jobs(fleet: ScheduledFleet, count: int) -> None:
    fleet.patience.wait_for(
        lambda: len(list(fleet.client.list_jobs(limit=count))) >= count or None,
        limit_s=LIMIT_S,
        what=f"{count} jobs",
    )


def _read(child: Child, code: int) -> dict[str, Any]:
    assert child.process.wait(LIMIT_S) == code, child.error_file.read_text()
    report: dict[str, Any] = json.loads(child.output_file.read_text())
    return report


def test_a_fleet_loses_nothing_when_its_server_is_killed(fleet: ScheduledFleet) -> None:
    child = _start(fleet, "sim", "--agents", str(AGENTS), "--duration", "12s")
    _wait_for_jobs(fleet, 5)
    fleet.kill_api()
    fleet.restart_api()

    report = _read(child, 0)

    assert (report["lost"], report["doubled"], report["stuck"]) == ([], [], [])
    assert report["connected"] == AGENTS
    assert report["fires"] >= 5
    assert sum(report["jobs"].values()) >= report["fires"]
    assert report["jobs"]["succeeded"] >= 5
    assert report["latencies"]["fire to command"]["p50_ms"] > 0
    assert [kind for kind in report["errors"] if kind.startswith("poll: ")]
    jobs = list(fleet.client.list_jobs())
    assert {str(job.state) for job in jobs} == report["jobs"].keys()

    removed = _simulate(fleet, "--clean")

    assert removed.stdout == f"{AGENTS} simulated hosts removed.\n"
    assert list(fleet.client.list_hosts()) == []
    assert list(fleet.client.list_repositories()) == []
    assert list(fleet.client.list_sources()) == []


def test_a_simulation_that_is_interrupted_says_how_it_stands(fleet: ScheduledFleet) -> None:
    child = _start(fleet, "other", "--agents", "5", "--duration", "1h")
    _wait_for_jobs(fleet, 1)

    child.process.send_signal(signal.SIGINT)

    report = _read(child, 130)
    assert report["was_interrupted"]
    assert (report["lost"], report["doubled"], report["stuck"]) == ([], [], [])
    again = _simulate(fleet, "--prefix", "other")
    assert again.returncode == 2
    assert "backhaul simulate --clean --prefix other" in again.stderr


def test_a_server_that_is_used_is_left_alone(fleet: ScheduledFleet) -> None:
    fleet.enrol("web-1")

    refused = _simulate(fleet, "--agents", "1")

    assert refused.returncode == 2
    assert "1 host that no simulation made" in refused.stderr
    assert [host.name for host in fleet.client.list_hosts()] == ["web-1"]


def test_the_commands_of_the_page_work(fleet: ScheduledFleet) -> None:
    page = (ROOT / "docs" / "sizing.md").read_text()
    commands = re.findall(r"^\$ backhaul simulate (.*)$", page, re.MULTILINE)
    fleet.enrol("web-1")
    small = {"1000": "2", "5m": "1s"}

    done = [
        _simulate(fleet, "--yes", *(small.get(word, word) for word in command.split()))
        for command in commands
    ]

    assert [one.returncode for one in done] == [0] * 4, [one.stderr for one in done]
    assert "lost=0\ndoubled=0\nstuck=0\n" in done[0].stdout
    assert "Fire" in done[0].stdout
    assert json.loads(done[2].stdout)["connected"] == 2
    assert [host.name for host in fleet.client.list_hosts()] == ["web-1"]
