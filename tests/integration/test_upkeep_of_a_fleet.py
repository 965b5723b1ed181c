"""Fifty hosts that back up around the clock to one repository, of which one does the upkeep.

The app is the real one; the hosts are played, and so is restic, with its real rules of locks. A day
passes in which no moment is without a backup, had the server not an eye on whose turn it is.
"""

from __future__ import annotations

import heapq
import itertools
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import HeldJob, ReceiptStatus
from backhaul.wire.commands import CommandAck, CommandRun
from backhaul.wire.jobs import FailureClass, JobState, Outcome
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import ScheduleFire, ScheduleKind
from backhaul_api.db.tables import job_events, jobs
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_agent,
    add_repository,
    add_schedule,
    add_source,
    read_commands,
)

MEMORY = Path("/dev/shm")
HOSTS = 50
DAY = timedelta(days=1)
MINUTES: dict[str, tuple[int, int]] = {
    "backup": (20, 55),
    "forget": (1, 3),
    "prune": (20, 40),
    "check": (20, 30),
}
"""How long restic takes, at least and at most. A host is heard of in between, within an hour."""
PERIODS = {
    "backup": timedelta(hours=3),
    "forget": timedelta(hours=8),
    "prune": timedelta(hours=8),
    "check": timedelta(hours=12),
}
BOUND = timedelta(minutes=55 + 40 + 30 + 3)
"""The longest wait: the longest backup that runs already, and each other exclusive job once."""
SEEN_EVERY = timedelta(minutes=4)
"""How often the upkeep host is heard of, as one that holds a poll open is."""


class LockedRepository:
    """restic's locks: one that is exclusive suffers no other, and no other suffers it."""

    def __init__(self) -> None:
        self._locks: dict[UUID, bool] = {}
        self.most_shared = 0

    def lock(self, job_id: UUID, *, is_exclusive: bool) -> bool:
        if any(self._locks.values()) or (is_exclusive and self._locks):
            return False
        self._locks[job_id] = is_exclusive
        self.most_shared = max(self.most_shared, len(self._locks))
        return True

    def unlock(self, job_id: UUID) -> None:
        self._locks.pop(job_id, None)


@dataclass
class PlayedHost:
    """An agent that does one job at a time, in the order in which it has claimed them."""

    agent: FakeAgent
    schedule_version: int
    claimed: list[CommandRun] = field(default_factory=list)
    running: CommandRun | None = None

    @property
    def held(self) -> list[HeldJob]:
        held = [HeldJob(job_id=one.job_id, state="accepted") for one in self.claimed]
        if self.running is not None:
            held.append(HeldJob(job_id=self.running.job_id, state="running"))
        return held


class Fleet:
    """What happens when, in the order of time."""

    def __init__(self, services: Services, clock: FakeClock) -> None:
        self.clock = clock
        self.dice = random.Random(7)
        self.repository = LockedRepository()
        self.hosts: dict[UUID, PlayedHost] = {}
        self._events: list[tuple[datetime, int, Callable[[], Awaitable[None]]]] = []
        self._numbers = itertools.count()
        self._woken: set[UUID] = set()
        services.wakeups.wake = self._wake  # type: ignore[method-assign]

    def _wake(self, *topics: UUID) -> None:
        self._woken.update(topic for topic in topics if topic in self.hosts)

    def at(self, moment: datetime, happens: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), happens))

    async def run_until(self, end: datetime) -> None:
        while self._events and self._events[0][0] <= end:
            moment, _, happens = heapq.heappop(self._events)
            self.clock.advance(max((moment - self.clock.now()).total_seconds(), 0.0))
            await happens()
            while self._woken:
                await self.look(self.hosts[self._woken.pop()])

    async def fire(self, host: PlayedHost, schedule_id: UUID, period: timedelta) -> None:
        now = self.clock.now().replace(microsecond=0)
        fire = ScheduleFire(schedule_id=schedule_id, scheduled_at=now, fired_at=now)
        [receipt] = await host.agent.send(fire)
        assert receipt.status is ReceiptStatus.OK
        self.at(now + period, lambda: self.fire(host, schedule_id, period))

    async def stay_in_sight(self, host: PlayedHost) -> None:
        await self.look(host)
        self.at(self.clock.now() + SEEN_EVERY, lambda: self.stay_in_sight(host))

    async def look(self, host: PlayedHost) -> None:
        """Poll, and claim what it gives. A job whose turn has passed again is given back."""
        reply = await host.agent.poll(jobs=host.held, schedule_version=host.schedule_version)
        for command in read_commands(reply):
            assert isinstance(command, CommandRun)
            ack = CommandAck(job_id=command.job_id, attempt=command.attempt, is_accepted=True)
            [receipt] = await host.agent.send(ack)
            if receipt.problem is None:
                host.claimed.append(command)
            else:
                assert receipt.problem.type == ProblemType.JOB_WAITS
        if host.running is None and host.claimed:
            await self.begin(host)

    async def begin(self, host: PlayedHost) -> None:
        host.running = command = host.claimed.pop(0)
        is_exclusive = command.kind in EXCLUSIVE_KINDS
        has_lock = self.repository.lock(command.job_id, is_exclusive=is_exclusive)
        started = JobStarted(job_id=command.job_id, attempt=command.attempt, at=self.clock.now())
        await host.agent.send(started)
        minutes = self.dice.uniform(*MINUTES[command.kind]) if has_lock else 0.0
        ends_at = self.clock.now() + timedelta(minutes=minutes)
        self.at(ends_at, lambda: self.end(host, command, has_lock=has_lock))

    async def end(self, host: PlayedHost, command: CommandRun, *, has_lock: bool) -> None:
        self.repository.unlock(command.job_id)
        host.running = None
        finished = JobFinished(
            job_id=command.job_id,
            attempt=command.attempt,
            at=self.clock.now(),
            outcome=Outcome.SUCCEEDED if has_lock else Outcome.FAILED,
            log_lines=0,
            exit_code=0 if has_lock else 1,
            failure_class=None if has_lock else FailureClass.LOCKED,
            message=None
            if has_lock
            else "Fatal: unable to create lock in backend: "
            "repository is already locked exclusively",
        )
        await host.agent.send(finished)
        await self.look(host)


@pytest.fixture
def database_url(_sqlite_template: Path) -> Iterator[str]:
    """Give a database in memory, where a commit costs no turn of a disk."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        file = Path(folder) / "backhaul.sqlite3"
        shutil.copyfile(_sqlite_template, file)
        yield f"sqlite+aiosqlite:///{file}"


@pytest.mark.timeout(240)
async def test_upkeep_never_meets_a_lock_and_waits_no_longer_than_it_must(
    services: Services, app: Litestar, operator: httpx.AsyncClient, clock: FakeClock
) -> None:
    await add_repository(operator)
    await add_source(operator, retention={"keep_daily": 7})
    fleet = Fleet(services, clock)
    for number in range(HOSTS):
        agent = await add_agent(services, app, name=f"web{number}")
        await agent.say_hello()
        kinds = [*MINUTES] if number == 0 else ["backup"]
        host = fleet.hosts[agent.host_id] = PlayedHost(agent, schedule_version=len(kinds))
        for kind in kinds:
            schedule = await add_schedule(operator, host=agent.name, kind=kind)
            first = START + fleet.dice.random() * PERIODS[kind]
            fire = partial(fleet.fire, host, UUID(schedule["id"]), PERIODS[kind])
            fleet.at(first, fire)
        if number == 0:
            fleet.at(START, partial(fleet.stay_in_sight, host))

    await fleet.run_until(START + DAY)

    async with services.database.reading() as connection:
        rows = (await connection.execute(sa.select(jobs))).all()
        retried = await connection.scalar(
            sa.select(sa.func.count()).where(job_events.c.event == "retry")
        )
    assert {row.failure_class for row in rows} == {None}
    assert retried == 0
    upkeep = [row for row in rows if row.kind in EXCLUSIVE_KINDS]
    assert {row.kind for row in upkeep} == EXCLUSIVE_KINDS & set(ScheduleKind)
    for row in upkeep:
        begun_at = row.started_at or fleet.clock.now()
        assert begun_at - row.created_at <= BOUND, (row.kind, begun_at - row.created_at)
    # It was no quiet day: the backups alone leave no gap, and all of them ran.
    backups = [row for row in rows if row.kind == "backup"]
    assert len(backups) >= HOSTS * (DAY / PERIODS["backup"] - 1)
    assert sum(row.state == JobState.SUCCEEDED for row in backups) >= len(backups) - 2 * HOSTS
    assert fleet.repository.most_shared > 10
