"""Real processes under random faults: nothing may be lost, nothing done twice, nothing stuck.

    make chaos                          200 jobs, half of them on each database
    make chaos ARGS="--jobs 40 --seed 7"

The API, its agents and restic are real. A proxy between them drops, delays, repeats and cuts; the
API and the agents are killed with SIGKILL; jobs are cancelled and schedules changed meanwhile. Then
everything is left in peace, and what the server says is held against what restic did.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from backhaul.errors import BackhaulError
from backhaul.wire.jobs import TERMINAL_STATES, Job, JobState
from backhaul.wire.kinds import BackupRequest, BackupResult, CheckRequest, JobKind, PruneRequest
from backhaul.wire.schedules import UpdateSchedule
from tests.fakes.postgresql import run_postgresql
from tests.system.chaos_fleet import ChaosFleet
from tests.system.scheduled_fleet import Patience, all_covered, minutes, slot_of
from tools.local_fleet import REPOSITORY

HOSTS = ("ash", "birch", "cedar", "elm")
FAULTS = 0.12
"""Of all requests."""
OUTSTANDING = 8
CALM_LIMIT_S = 300.0
"""Until all jobs have ended: an agent may be a minute away from its next try, and has a queue."""
TOP_UP = 6
"""Jobs that are made when everything is calm again."""


@dataclass
class Verdict:
    """What came of it; each finding is a line for people."""

    jobs: int = 0
    faults: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.stuck)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.jobs + other.jobs,
            self.faults + other.faults,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.stuck + other.stuck,
            self.states + other.states,
        )

    def __str__(self) -> str:
        return (
            f"chaos: {'ok' if self.is_good else 'failed'} jobs={self.jobs} faults={self.faults} "
            f"lost={len(self.lost)} doubled={len(self.doubled)} stuck={len(self.stuck)}"
        )


class Chaos:
    """One fleet, mistreated until it has had so many jobs."""

    def __init__(self, fleet: ChaosFleet, dice: random.Random, *, jobs: int) -> None:
        self.fleet = fleet
        self._dice = dice
        self._wanted = jobs
        self._made: set[UUID] = set()
        self._restarts: dict[str, float] = {}
        """When what was killed comes back: by host, or `api`."""
        self._heals_at = 0.0
        self._next_blow = 0.0
        self._schedules: dict[str, UUID] = {}

    def run(self) -> Verdict:
        """Mistreat the fleet, leave it in peace, and look."""
        self.fleet.start(*HOSTS)
        for host in HOSTS:
            self._schedules[host] = self.fleet.schedule(host, "run").id
        say(f"{len(HOSTS)} hosts on {self.fleet.client.url}; now the faults")
        self.fleet.proxy.share = FAULTS
        while (count := self._count()) < self._wanted - TOP_UP:
            self._strike()
            self._make_job(count)
            time.sleep(0.2)
        self._make_peace()
        jobs = self._wait_for_ends()
        return self._judge(jobs)

    # Blows -------------------------------------------------------------------------------------

    def _strike(self) -> None:
        now = time.monotonic()
        self._bring_back(now)
        if now < self._next_blow:
            return
        self._next_blow = now + self._dice.uniform(0.5, 3.0)
        blows = self._weigh_blows()
        (blow,) = self._dice.choices(list(blows), weights=list(blows.values()))
        try:
            blow(now)
        except BackhaulError as error:
            say(f"(the operator was refused: {error})")

    def _weigh_blows(self) -> dict[Callable[[float], None], int]:
        return {
            self._kill_agent: 8,
            self._kill_api: 3,
            self._cut_off: 2,
            self._hang_up: 3,
            self._cancel: 3,
            self._edit: 2,
        }

    def _bring_back(self, now: float) -> None:
        for name, moment in list(self._restarts.items()):
            if now >= moment:
                del self._restarts[name]
                self._restart(name)
        if self._heals_at and now >= self._heals_at:
            self.fleet.proxy.is_cut, self._heals_at = False, 0.0
            self.fleet.proxy.hang_up()

    def _restart(self, name: str) -> None:
        if name == "api":
            self.fleet.restart_api()
        else:
            self.fleet.start_agent_of(name)

    def _kill_agent(self, now: float) -> None:
        host = self._dice.choice(HOSTS)
        if host not in self._restarts:
            self.fleet.kill_agent_of(host)
            self._restarts[host] = now + self._dice.uniform(0.2, 4.0)

    def _kill_api(self, now: float) -> None:
        if "api" not in self._restarts:
            self.fleet.kill_api()
            self._restarts["api"] = now + self._dice.uniform(0.1, 6.0)

    def _cut_off(self, now: float) -> None:
        if not self._heals_at:
            self.fleet.proxy.is_cut = True
            self.fleet.proxy.faults["partition"] += 1
            self._heals_at = now + self._dice.uniform(2.0, 10.0)

    def _hang_up(self, _: float) -> None:
        self.fleet.proxy.faults["all cut"] += 1
        self.fleet.proxy.hang_up()

    def _cancel(self, _: float) -> None:
        active = [job for job in self._list() if job.state not in TERMINAL_STATES]
        if active:
            self.fleet.client.cancel_job(self._dice.choice(active).id)

    def _edit(self, _: float) -> None:
        """Change something that moves the host's version and leaves its slots alone."""
        schedule_id = self._schedules[self._dice.choice(HOSTS)]
        change = UpdateSchedule(max_duration=self._dice.choice([600.0, 1200.0]))
        self.fleet.client.update_schedule(schedule_id, change)

    # Work --------------------------------------------------------------------------------------

    def _make_job(self, count: int) -> None:
        if "api" in self._restarts:
            return
        try:
            waiting = sum(job.state not in TERMINAL_STATES for job in self._list())
            if waiting < OUTSTANDING and count < self._wanted:
                self._made.add(self.fleet.client.create_job(self._choose_request()).id)
        except BackhaulError as error:
            say(f"(no job was made: {error})")

    def _choose_request(self) -> BackupRequest | CheckRequest | PruneRequest:
        host = self._dice.choice(HOSTS)
        kinds: dict[type[BackupRequest | CheckRequest | PruneRequest], int] = {
            BackupRequest: 18,
            CheckRequest: 1,
            PruneRequest: 1,
        }
        (kind,) = self._dice.choices(list(kinds), weights=list(kinds.values()))
        if kind is BackupRequest:
            return BackupRequest(host=host, repository=REPOSITORY, source=host)
        return kind(host=host, repository=REPOSITORY)

    def _list(self) -> list[Job]:
        return [job for job in self.fleet.client.list_jobs() if job.kind is not JobKind.INIT]

    def _count(self) -> int:
        if "api" in self._restarts:
            return 0
        try:
            return len(self._list())
        except BackhaulError:
            return 0

    # Peace -------------------------------------------------------------------------------------

    def _make_peace(self) -> None:
        self.fleet.proxy.heal()
        for name in list(self._restarts):
            del self._restarts[name]
            self._restart(name)
        self.fleet.proxy.hang_up()
        for schedule_id in self._schedules.values():
            # Not disabled: what has fired before is to get its job.
            self.fleet.client.update_schedule(schedule_id, UpdateSchedule(cron="@yearly"))
        say(f"{self._faults} faults; now peace")

    def _wait_for_ends(self) -> list[Job]:
        """Wait until the hosts follow, and all jobs have ended; as long as is reasonable."""
        deadline = time.monotonic() + CALM_LIMIT_S
        while time.monotonic() < deadline:
            jobs = self._list()
            if self._have_hosts_caught_up() and len(jobs) < self._wanted:
                self._make_job(len(jobs))
            elif all(job.state in TERMINAL_STATES for job in jobs) and len(jobs) >= self._wanted:
                break
            time.sleep(0.3)
        return self._list()

    def _have_hosts_caught_up(self) -> bool:
        return all(host.drift is None for host in self.fleet.client.list_hosts())

    @property
    def _faults(self) -> int:
        return self.fleet.proxy.faults.total() + self.fleet.kills.total()

    # The verdict -------------------------------------------------------------------------------

    def _judge(self, jobs: list[Job]) -> Verdict:
        verdict = Verdict(jobs=len(jobs), faults=self._faults)
        verdict.states.update(str(job.state) for job in jobs)
        verdict.stuck += [
            f"job {job.id} is {job.state}" for job in jobs if job.state not in TERMINAL_STATES
        ]
        verdict.stuck += [
            f"host {host.name} does not follow"
            for host in self.fleet.client.list_hosts()
            if host.drift is not None
        ]
        self._judge_jobs(verdict, {job.id: job for job in jobs})
        for host in HOSTS:
            self._judge_schedule(verdict, host)
        for agent in self.fleet.agents.values():
            agent.stop(signal.SIGTERM)
        verdict.stuck += [f"left behind: {what}" for what in self.fleet.list_unsent()]
        covered = set(self._covered_seconds())
        verdict.lost += [
            f"slot {datetime.fromtimestamp(slot, UTC):%H:%M} of {schedule_id} has no job"
            for schedule_id, slot in self.fleet.list_fired()
            if (schedule_id, slot) not in covered
        ]
        locks = self.fleet.restic("list", "locks").split()
        verdict.stuck += [f"lock {lock} is left" for lock in locks]
        return verdict

    def _judge_jobs(self, verdict: Verdict, jobs: dict[UUID, Job]) -> None:
        verdict.lost += [f"job {one} is not there any more" for one in self._made - jobs.keys()]
        listed = [one for host in HOSTS for one in self.fleet.snapshots_of(host)]
        made: Counter[str] = Counter()
        for job in jobs.values():
            if job.state in {JobState.LOST, JobState.EXPIRED}:
                verdict.lost.append(f"job {job.id} is {job.state}: {job.message}")
            if isinstance(job.result, BackupResult) and job.result.snapshot_id:
                made[job.result.snapshot_id[:8]] += 1
            self._judge_log(verdict, job)
        shown = {one[:8] for one in listed}
        verdict.lost += [f"snapshot {one} is not there" for one in made.keys() - shown]
        verdict.doubled += [f"snapshot {one} has {n} jobs" for one, n in made.items() if n > 1]
        for job_id, count in self.fleet.count_backups().items():
            if job_id not in jobs:
                verdict.lost.append(f"restic ran for {job_id}, of which the server knows nothing")
            elif count > jobs[job_id].attempt:
                verdict.doubled.append(
                    f"job {job_id} was run {count} times in {jobs[job_id].attempt} attempts"
                )

    def _judge_log(self, verdict: Verdict, job: Job) -> None:
        """Require each attempt's lines to be there once, in order, from the first to the last."""
        attempts: dict[int, list[int]] = {}
        for line in self.fleet.client.get_job_log(job.id):
            attempts.setdefault(line.attempt, []).append(line.seq)
        for attempt, numbers in attempts.items():
            if numbers != list(range(len(numbers))):
                verdict.lost.append(f"the log of job {job.id}, attempt {attempt}, has a gap")
        if len(attempts.get(job.attempt, [])) != job.log_lines:
            verdict.lost.append(f"job {job.id} has not the {job.log_lines} log lines that it says")

    def _judge_schedule(self, verdict: Verdict, host: str) -> None:
        """Require every minute between the first fire and the last one to have one job."""
        jobs = self.fleet.jobs_of(self._schedules[host])
        if not jobs:
            return
        slots = sorted(all_covered(jobs))
        expected = minutes(slots[0], slot_of(jobs[-1]))
        times = Counter(slots)
        verdict.lost += [f"{host}: no job for {slot:%H:%M}" for slot in expected if not times[slot]]
        verdict.doubled += [
            f"{host}: {count} jobs for {slot:%H:%M}" for slot, count in times.items() if count > 1
        ]

    def _covered_seconds(self) -> Iterator[tuple[UUID, int]]:
        for schedule_id in self._schedules.values():
            for slot in all_covered(self.fleet.jobs_of(schedule_id)):
                yield schedule_id, int(slot.timestamp())


def run_on(database: str, *, jobs: int, dice: random.Random, folder: Path) -> Verdict:
    """Run on one kind of database, in a folder that is kept when it goes wrong."""
    with _database_url(database) as url:
        fleet = ChaosFleet(folder / database, Patience(), dice=dice, database_url=url)
        try:
            return Chaos(fleet, dice, jobs=jobs).run()
        finally:
            fleet.stop()


@contextmanager
def _database_url(database: str) -> Iterator[str | None]:
    if database == "sqlite":
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="bh-pg-", ignore_cleanup_errors=True) as place,
        run_postgresql(Path(place)) as server,
    ):
        yield server.create_database("chaos")


def say(text: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run it. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200, help="in all; at least 20 on each")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--seed", type=int, default=None, help="repeats the dice, not the timing")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    chosen = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    folder = Path(tempfile.mkdtemp(prefix="backhaul-chaos-")).resolve()
    verdict = Verdict()
    for database in chosen:
        say(f"{options.jobs // len(chosen)} jobs on {database}, seed {seed}")
        dice = random.Random(f"{seed}/{database}")
        verdict += run_on(database, jobs=options.jobs // len(chosen), dice=dice, folder=folder)
        say(f"{dict(verdict.states)}")
    for finding in (*verdict.lost, *verdict.doubled, *verdict.stuck):
        say(finding)
    if verdict.is_good:
        shutil.rmtree(folder)
    else:
        say(f"everything is left in {folder}")
    sys.stdout.write(f"{verdict}\n")
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
