"""Nothing is lost where every process of the API is killed after its first answer."""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

import backhaul
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import BackupRequest
from backhaul.wire.schedules import UpdateSchedule
from tests.house.modules import ROOT
from tests.system.scheduled_fleet import Patience, ScheduledFleet, all_covered, minutes
from tools.children import Child
from tools.local_fleet import REPOSITORY

pytestmark = pytest.mark.timeout(480)

HOST = "one"
HOLD_S = 3
ROOM_S = 8.0
FILES = 300


class FunctionFleet(ScheduledFleet):
    """A fleet whose API is nothing but a database and code."""

    def __init__(self, folder: Path, database_url: str) -> None:
        super().__init__(folder, Patience(), settle="2")
        (folder / "api").mkdir()
        self.secrets["tick token"] = secrets.token_urlsafe(24)
        self._api_settings = {
            "BACKHAUL_API_DATABASE_URL": database_url,
            "BACKHAUL_API_KEY": base64.b64encode(os.urandom(32)).decode(),
            "BACKHAUL_API_POLL_HOLD": str(HOLD_S),
            "BACKHAUL_API_ANSWER_LIMIT": "29",
            "BACKHAUL_API_TICK_TOKEN": self.secrets["tick token"],
        }

    def start_api(self) -> None:
        password = secrets.token_urlsafe(24)
        self.secrets["operator's password"] = password
        plain = self.environment
        self.environment = {**plain, **self._api_settings}
        self.run_cli("admin", "create", "demo", typed=f"{password}\n")
        self.api = Child(
            "api",
            [sys.executable, "-m", "tests.fakes.one_request"],
            logs=self.logs,
            environment=self.environment,
            folder=ROOT,
        )
        self._children.append(self.api)
        self.environment = plain
        url = self.api.wait_for_output(r"One request each on (\S+)")
        self.client = backhaul.Client(url)
        session = self.client.log_in(username="demo", password=password)
        self.secrets["session token"] = session.token
        self._prepare_cli(url)

    def read_ends(self) -> Counter[str]:
        """Count how the processes of the API have ended."""
        return Counter(re.findall(r"\w+ ended with \S+", self.api.output_file.read_text()))


@pytest.fixture
def fleet(restic: str, tmp_path: Path, database_url: str) -> Iterator[FunctionFleet]:
    fleet = FunctionFleet(tmp_path / "fleet", database_url)
    try:
        fleet.start(HOST)
        yield fleet
    finally:
        fleet.patience.give_up()
        fleet.stop()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_fleet_works_though_each_process_is_killed_after_its_answer(
    fleet: FunctionFleet,
) -> None:
    tree = fleet.folder / f"tree-{HOST}"
    for number in range(FILES):
        (tree / f"file-{number}").write_text(f"{number}\n")
    first = fleet.patience.leave_room(ROOM_S)
    fleet.measure_apply(HOST, lambda: fleet.schedule(HOST))
    (schedule,) = fleet.client.list_schedules(host=HOST)

    by_hand = fleet.run_job(BackupRequest(host=HOST, repository=REPOSITORY, paths=(str(tree),)))
    fired = fleet.wait_for_end(schedule.id, first)
    fleet.client.update_schedule(schedule.id, UpdateSchedule(enabled=False))
    seen_at = fleet.client.get_host(HOST).last_seen_at
    ticked = httpx.post(
        f"{fleet.client.url}/v1/tick",
        headers={"Authorization": f"Bearer {fleet.secrets['tick token']}"},
        trust_env=False,
    )
    said = fleet.run_cli("tick")

    jobs = fleet.jobs_of(schedule.id)
    assert (by_hand.state, fired.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert all_covered(jobs) == minutes(first, first + timedelta(minutes=len(jobs) - 1))
    listed = {snapshot.id for snapshot in fleet.client.list_snapshots(repository=REPOSITORY)}
    assert listed == set(fleet.snapshots_of(HOST))
    for job in (by_hand, fired):
        lines = list(fleet.client.get_job_log(job.id))
        assert [line.seq for line in lines] == list(range(len(lines)))
        assert lines
    assert seen_at is not None
    assert datetime.now(UTC) - seen_at < timedelta(minutes=2)
    assert ticked.status_code == 200, ticked.text
    assert "0 jobs expired" in said
    # None of them came to its own end, or failed to answer.
    ends = fleet.read_ends()
    assert set(ends) == {"app ended with -9", "function ended with -9"}
    assert min(ends.values()) > 10
    assert fleet.look_for_leaks() > 3
