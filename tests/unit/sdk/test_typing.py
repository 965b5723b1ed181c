"""A user's script passes `mypy --strict`, and completion finds what the objects have."""

from __future__ import annotations

import sys
from pathlib import Path

import mypy.api
import pytest

from tests.house.modules import ROOT

SCRIPT = """
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import assert_type
from uuid import UUID

import backhaul
from backhaul.objects.jobs import Jobs
from backhaul.wire.jobs import NumberedLogLine, Progress
from backhaul.wire.schedules import SchedulePreview


def work() -> None:
    with backhaul.connect("http://127.0.0.1:8440", timeout=10) as fleet:
        assert_type(fleet, backhaul.Fleet)
        host = fleet.hosts["web-1"]
        assert_type(host, backhaul.Host)
        assert_type(host.name, str)
        assert_type(host.state, backhaul.HostState)
        assert_type(host.last_backup_at, datetime | None)
        assert_type("web-1" in fleet.hosts, bool)
        assert_type([one.name for one in fleet.hosts.list(labels={"env": "prod"})], list[str])
        source = fleet.sources.create("etc", ["/etc"], retention={"keep_daily": 7})
        job = host.backup(source=source, repository=fleet.repositories["nas"])
        assert_type(job, backhaul.Job)
        assert_type(job.wait(timeout=60, raise_on_failure=True), backhaul.Job)
        assert_type(job.state, backhaul.JobState)
        assert_type(job.progress, Progress | None)
        assert_type(job.summary, str)
        assert_type(job.log(follow=True), Iterator[NumberedLogLine])
        assert_type(job.tail(), tuple[str, ...])
        jobs = fleet.jobs.list(state="failed", since="7d", host=host)
        assert_type(jobs, Jobs)
        assert_type(jobs.first(), backhaul.Job | None)
        schedule = host.schedules.create(cron="0 2 * * *", source="etc", timezone="Europe/London")
        assert_type(schedule.preview(count=3), SchedulePreview)
        assert_type(schedule.disable(), backhaul.Schedule)
        for snapshot in host.snapshots:
            assert_type(snapshot.host_id, UUID | None)
            assert_type(snapshot.restore("/restore", include=["/etc/hosts"]), backhaul.Job)
            assert_type(snapshot.drill(files=50), backhaul.Job)
            assert_type(snapshot.diff(snapshot), backhaul.Job)


async def work_too() -> None:
    async with backhaul.aconnect() as fleet:
        assert_type(fleet, backhaul.AsyncFleet)
        host = await fleet.hosts["web-1"]
        assert_type(host, backhaul.AsyncHost)
        job = await host.run("check", read_data_subset="1/7")
        assert_type(await job.wait(), backhaul.AsyncJob)
        assert_type(job.log(), AsyncIterator[NumberedLogLine])
        assert_type([one async for one in fleet.jobs], list[backhaul.AsyncJob])
        assert_type(await fleet.jobs.first(), backhaul.AsyncJob | None)
"""

MISTAKES = """
import backhaul

fleet = backhaul.connect()
fleet.hosts["web-1"].nmae
fleet.hosts["web-1"].backup("/etc", soruce="etc")
fleet.hosts["web-1"].name = "other"
fleet.jobs.list(since=7)
"""


def check(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """Check a script as its author would, with the settings of nobody."""
    file = tmp_path / "script.py"
    file.write_text(script)
    monkeypatch.setenv("MYPYPATH", str(ROOT / "sdk"))
    monkeypatch.chdir(tmp_path)
    # mypy keeps what it knows of the SDK, so that only the first of these runs takes long.
    cache = ROOT / ".mypy_cache" / "scripts"
    settings = ["--config-file=", f"--cache-dir={cache}", f"--python-executable={sys.executable}"]
    # What is imported is checked elsewhere, with the settings of this project.
    said, errors, code = mypy.api.run([*settings, "--strict", "--follow-imports=silent", str(file)])
    assert errors == ""
    return said, code


def test_script_of_a_user_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, code = check(tmp_path, SCRIPT, monkeypatch)

    assert (code, said.count("error:")) == (0, 0), said


def test_slips_of_a_user_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = check(tmp_path, MISTAKES, monkeypatch)

    for slip in ("nmae", "soruce", '"Never"', 'Argument "since"'):
        assert slip in said, said
