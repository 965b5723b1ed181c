"""A control plane with several hosts for tests of minutes, and waits that explain themselves.

Every wait has a deadline, and ends at once when the tests are over before it.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from backhaul.wire.fleet import CreateRepository, CreateSource, Host
from backhaul.wire.jobs import TERMINAL_STATES, Job, JobState
from backhaul.wire.kinds import InitRequest
from backhaul.wire.schedules import CreateSchedule, Schedule, ScheduleKind, WhenUnreachable
from tools.leaks import require_no_secrets
from tools.local_fleet import REPOSITORY, LocalFleet

T = TypeVar("T")

MINUTE = timedelta(minutes=1)
EVERY_MINUTE = "* * * * *"

JOB_LIMIT_S = 90.0
"""From a slot, or from now, to the end of its job: an agent that lost its server may take a minute
to ask again, and the machine may be slow."""


class Patience:
    """Waiting, for as long as somebody is interested."""

    def __init__(self) -> None:
        self._is_over = threading.Event()

    def give_up(self) -> None:
        """End all waits, now and from now on."""
        self._is_over.set()

    def pass_time(self, seconds: float) -> None:
        assert not self._is_over.wait(max(seconds, 0.0)), "the tests ended before this was over"

    def pass_until(self, moment: datetime) -> None:
        self.pass_time((moment - datetime.now(UTC)).total_seconds())

    def wait_for(
        self, look: Callable[[], T | None], *, limit_s: float, what: str, every_s: float = 0.25
    ) -> T:
        """Look again and again until there is something; fails with what was waited for."""
        deadline = time.monotonic() + limit_s
        while (found := look()) is None:
            assert time.monotonic() < deadline, f"{what}: not within {limit_s:g} s"
            self.pass_time(every_s)
        return found

    def leave_room(self, seconds: float) -> datetime:
        """Wait until the next minute is at least so far away; gives that minute."""
        now = datetime.now(UTC)
        slot = next_minute(now)
        if slot - now < timedelta(seconds=seconds):
            self.pass_until(slot + timedelta(seconds=1))
            slot += MINUTE
        return slot


class ScheduledFleet(LocalFleet):
    """The API, a repository, and hosts by name, each with a source of its own."""

    def __init__(self, folder: Path, patience: Patience, **agent_settings: str) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.patience = patience
        self.environment |= {
            f"BACKHAUL_AGENT_{name.upper()}": value for name, value in agent_settings.items()
        }

    def start(self, *hosts: str) -> None:
        """Start everything; the first host creates the repository."""
        self.start_api()
        for host in hosts:
            self.enrol(host)
            self.start_agent_of(host)
            self.add_source(host)
        password = secrets.token_urlsafe(32)
        self.secrets["repository password"] = password
        self.client.create_repository(
            CreateRepository(name=REPOSITORY, location=str(self.repository), password=password)
        )
        created = self.run_job(InitRequest(host=hosts[0], repository=REPOSITORY))
        assert created.state is JobState.SUCCEEDED, created.message

    def kill_agent_of(self, host: str) -> None:
        """End it with SIGKILL, in whatever it is doing."""
        self.agents[host].process.kill()
        self.agents[host].process.wait()

    def add_source(self, name: str) -> Path:
        """Make a folder with a file, and the source that names it."""
        folder = self.folder / f"tree-{name}"
        folder.mkdir()
        (folder / "file").write_text(f"of {name}\n")
        self.client.create_source(CreateSource(name=name, paths=(str(folder),)))
        return folder

    def kill_api(self) -> None:
        """End it with SIGKILL, in whatever it is doing."""
        self.api.process.kill()
        self.api.process.wait()

    def restart_api(self) -> None:
        """Start the API again, on the data and the port that it had."""
        port = self.client.url.rpartition(":")[2]
        data = str(self.folder / "api")
        self.api = self._start("api-again", "serve", "--data-dir", data, "--port", port)
        self.api.wait_for_output(r"Backhaul API on (\S+)", limit_s=60)

    # Schedules ---------------------------------------------------------------------------------

    def schedule(self, host: str, when_unreachable: WhenUnreachable = "wait") -> Schedule:
        """Back the host's source up every minute."""
        return self.client.create_schedule(
            host,
            CreateSchedule(
                kind=ScheduleKind.BACKUP,
                cron=EVERY_MINUTE,
                repository=REPOSITORY,
                source=host,
                when_unreachable=when_unreachable,
            ),
        )

    def measure_apply(self, host: str, change: Callable[[], object]) -> float:
        """Make a change and wait until the agent has applied and acked it; gives the seconds."""
        # The last answer is on its way; the change is to find the next poll parked.
        self.patience.pass_time(0.5)
        begun = time.monotonic()
        change()
        wanted = self.client.get_host(host).schedule_version

        def look() -> Host | None:
            found = self.client.get_host(host)
            is_applied = found.applied_schedule_version >= wanted and found.drift is None
            return found if is_applied else None

        what = f"{host} applies version {wanted} of its schedules"
        self.patience.wait_for(look, limit_s=30, what=what, every_s=0.02)
        return time.monotonic() - begun

    def jobs_of(self, schedule_id: UUID) -> list[Job]:
        """List the jobs of a schedule, by slot."""
        jobs = self.client.list_jobs(schedule=schedule_id)
        return sorted(jobs, key=slot_of)

    def wait_for_end(self, schedule_id: UUID, slot: datetime) -> Job:
        """Wait until the job that stands for a slot has ended."""

        def look() -> Job | None:
            jobs = (job for job in self.jobs_of(schedule_id) if slot in covered(job))
            return next((job for job in jobs if job.state in TERMINAL_STATES), None)

        limit_s = max((slot - datetime.now(UTC)).total_seconds(), 0.0) + JOB_LIMIT_S
        what = f"the job of schedule {schedule_id} for {slot:%H:%M} ends"
        return self.patience.wait_for(look, limit_s=limit_s, what=what)

    def look_for_leaks(self) -> int:
        found = 0
        for host in self.agents:
            state = self.folder / f"agent-{host}"
            places = [self.folder / "api", self.logs, state]
            found += require_no_secrets(places, self.secrets, credentials=state / "identity.json")
        return found

    def snapshots_of(self, host: str) -> list[str]:
        """Ask restic itself for the snapshots of a host."""
        listed = json.loads(self.restic("snapshots", "--json", "--host", host))
        return [one["id"] for one in listed]


def next_minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0) + MINUTE


def slot_of(job: Job) -> datetime:
    assert job.scheduled_at is not None, f"job {job.id} has no slot"
    return job.scheduled_at


def covered(job: Job) -> list[datetime]:
    """List the slots that a job stands for, of a schedule that fires every minute."""
    return [slot_of(job) - number * MINUTE for number in range(job.missed, -1, -1)]


def all_covered(jobs: list[Job]) -> list[datetime]:
    """List the slots that jobs stand for; one that two jobs stand for is there twice."""
    return [slot for job in jobs for slot in covered(job)]


def minutes(first: datetime, last: datetime) -> list[datetime]:
    """List the minutes from one to another, both included."""
    return [first + number * MINUTE for number in range((last - first) // MINUTE + 1)]
