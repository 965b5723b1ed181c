"""A simulation from its beginning to its verdict.

1. look whether the server may be used, and make the repositories, the hosts and their schedules;
2. start the agents, spread over the ramp;
3. let them live: cron fires, jobs run, the operator makes a job and changes a schedule by turns;
4. make peace: nothing fires any more, what runs ends, everything is told;
5. compare what happened with what the server says.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from backhaul.async_client import AsyncClient
from backhaul.errors import BackhaulError
from backhaul.wire.jobs import Job
from backhaul_agent.clock import SystemClock
from backhaul_agent.simulation.agent import FACTS, SimulatedAgent, World
from backhaul_agent.simulation.checker import Verdict, find_unfollowed, judge
from backhaul_agent.simulation.figures import Figures, Mark, Report, extrapolate
from backhaul_agent.simulation.ledger import Ledger
from backhaul_agent.simulation.link import Target
from backhaul_agent.simulation.operator_side import Plan, SimulationOperator, describe_failure
from backhaul_agent.simulation.schedules import HOSTS_PER_REPOSITORY, mean_rate

TICK_S = 0.25
"""Between two looks at what is due."""
PROBE_EVERY_S = 1.0
"""By turns a new job, and a changed schedule."""
PEACE_LIMIT_S = 180.0
"""An agent may be a minute away from its next try, and a failed job from its next attempt."""
LOOK_EVERY_S = 1.0
MOST_ON_THE_WAY = 100
"""Agents that were started and do not poll yet."""
PATIENCE_S = 60.0
"""An agent that lost its connection may stay away for so long."""
PATIENCE_RAMPS = 10.0
"""So many times the ramp may a server take that takes them in slowly."""
_CLOCK_SLACK = timedelta(minutes=10)
"""How far the server's clock may be from ours, for the jobs to be found again."""
_GC_THRESHOLDS = (50_000, 50, 50)


class TooManyAgentsError(Exception):
    """This process may not open so many connections."""


@dataclass
class Phase:
    """What the simulation is at, for who looks on."""

    name: str
    done: int = 0
    whole: int = 0
    begun_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Life:
    """Between the end of the ramp and the end of the fires."""

    begin: Mark
    end: Mark
    cpu_s: float


@dataclass
class Simulation:
    """One run. `interrupt` ends it early, and in order."""

    plan: Plan
    target: Target
    client: AsyncClient
    seconds: float
    ramp_s: float
    phase: Phase = field(default_factory=lambda: Phase("looking at the server"))
    figures: Figures = field(default_factory=Figures)
    was_interrupted: bool = False

    def __post_init__(self) -> None:
        self._stop = asyncio.Event()
        self._clock = SystemClock()
        self._dice = random.Random(self.plan.seed)  # noqa: S311 (a draw)
        self._operator = SimulationOperator(self.client, self.plan.prefix)
        self._ledger = Ledger(self.figures)
        self._world = World(
            target=self.target,
            clock=self._clock,
            dice=self._dice,
            speed=self.plan.speed,
            figures=self.figures,
            ledger=self._ledger,
        )
        self._agents: list[SimulatedAgent] = []
        self._phases_s: dict[str, float] = {}
        """How long those took that are over, by their names."""

    @property
    def has_begun(self) -> bool:
        """The agents are there: what ends now is worth a verdict."""
        return bool(self._agents)

    def interrupt(self) -> None:
        """Make peace now."""
        self.was_interrupted = True
        self._stop.set()

    async def run(self) -> Report:
        """Run it all. The server holds what was made afterwards.

        Raises:
            BackhaulError, AgentError: the server cannot be prepared.
        """
        since = datetime.now(UTC) - _CLOCK_SLACK
        await self._prepare()
        firing = asyncio.create_task(self._fire())
        running: list[asyncio.Task[None]] = []
        try:
            await self._start(running)
            life = await self._live(firing)
            await self._make_peace(since)
            jobs, verdict = await self._judge(since)
        finally:
            await _end([firing, *running])
        self._turn_to("over")
        return self._report(life, jobs, verdict)

    def _turn_to(self, name: str, *, whole: int = 0) -> None:
        last, self.phase = self.phase, Phase(name, whole=whole)
        self._phases_s[last.name] = round(self.phase.begun_s - last.begun_s, 1)

    def _count(self) -> None:
        self.phase.done += 1

    async def _prepare(self) -> None:
        plan = self.plan
        self._turn_to("making repositories")
        await self._operator.prepare(plan)
        self._turn_to("enrolled", whole=plan.agents)
        identities = await self._operator.enrol(
            plan,
            self.target,
            self.figures,
            clock=self._clock,
            facts=FACTS,
            on_host=self._count,
        )
        self._turn_to("scheduled", whole=plan.agents)
        await self._operator.schedule(plan, self._count)
        self._agents = [
            SimulatedAgent(self._world, one, lane=number // HOSTS_PER_REPOSITORY)
            for number, one in enumerate(identities)
        ]

    async def _start(self, running: list[asyncio.Task[None]]) -> None:
        """Start the agents over the ramp, and wait until they poll. `running` gets their tasks."""
        self._turn_to("started", whole=len(self._agents))
        begun_s = self.phase.begun_s
        patient_until_s = begun_s + PATIENCE_S + PATIENCE_RAMPS * self.ramp_s
        for number, agent in enumerate(self._agents):
            due_s = begun_s + self.ramp_s * number / len(self._agents)
            if (left_s := due_s - time.monotonic()) > 0:
                await self._wait(left_s)
            if self._stop.is_set():
                break
            running.append(asyncio.create_task(agent.run()))
            self._count()
            # Faster than the server takes them in would be no ramp.
            await self._wait_until(
                lambda: self.figures.parked >= len(running) - MOST_ON_THE_WAY,
                deadline_s=patient_until_s,
            )
        self._agents = self._agents[: len(running)]
        # Some are always between two polls.
        wanted = len(running) - len(running) // 100
        await self._wait_until(
            lambda: self.figures.parked >= wanted, deadline_s=time.monotonic() + PATIENCE_S
        )
        # A fleet is young for a moment only: what lives from here on lives for long.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    async def _live(self, firing: asyncio.Task[None]) -> _Life:
        """Let time pass, until nothing fires any more."""
        self._turn_to("running")
        begin, begun_cpu_s = self.figures.mark(), time.process_time()
        probing = asyncio.create_task(self._probe())
        await self._wait(self.seconds)
        await _end([firing, probing])
        return _Life(begin, self.figures.mark(), time.process_time() - begun_cpu_s)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _wait_until(self, test: Callable[[], bool], *, deadline_s: float) -> None:
        while not (test() or self._stop.is_set() or time.monotonic() > deadline_s):
            await self._wait(0.1)

    async def _fire(self) -> None:
        while True:
            self._world.tick()
            await asyncio.sleep(TICK_S)

    async def _probe(self) -> None:
        """Be an operator: this is what latencies are measured with."""
        for turn in itertools.count():
            await asyncio.sleep(PROBE_EVERY_S)
            agent = self._dice.choice(self._agents)
            try:
                if turn % 2:
                    await self._operator.post_job(self.plan, agent.identity.name, self._ledger)
                elif agent.edited_s is None and agent.cron.entries:
                    agent.expect_edit()
                    await self._operator.edit(next(iter(agent.cron.entries)), 86_400.0 + turn)
            except BackhaulError as error:
                self.figures.count_error("operator", describe_failure(error))
                agent.edited_s = None

    # The end -------------------------------------------------------------------------------------

    async def _make_peace(self, since: datetime) -> None:
        self._turn_to("making peace", whole=len(self._agents))
        self._world.hurry.set()
        deadline_s = time.monotonic() + PEACE_LIMIT_S
        while time.monotonic() < deadline_s:
            self.phase.done = sum(one.is_idle for one in self._agents)
            if self.phase.done == len(self._agents) and await self._is_settled(since):
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _is_settled(self, since: datetime) -> bool:
        """Tell whether the server, too, expects nothing more."""
        hosts = self._list_hosts()
        try:
            return not (
                await self._operator.has_unfinished(hosts, since)
                or await self._operator.list_behind(hosts)
            )
        except BackhaulError as error:
            self.figures.count_error("operator", describe_failure(error))
            return False

    async def _judge(self, since: datetime) -> tuple[Sequence[Job], Verdict]:
        self._turn_to("looking at what came of it")
        hosts = self._list_hosts()
        jobs = await self._operator.list_jobs(hosts, since)
        crons = self._world.list_followed()
        verdict = judge(self._ledger, jobs, crons)
        verdict.lost += find_unfollowed(await self._operator.list_schedules(hosts), crons)
        verdict.lost += await self._operator.find_gaps(jobs, self._dice)
        verdict.stuck += [
            f"host {name} does not follow its schedules"
            for name in await self._operator.list_behind(hosts)
        ]
        verdict.stuck += [
            f"host {one.identity.name} has told the server not everything"
            for one in self._agents
            if not one.is_idle
        ]
        return jobs, verdict

    def _list_hosts(self) -> frozenset[UUID]:
        return frozenset(one.identity.host_id for one in self._agents)

    def _report(self, life: _Life, jobs: Sequence[Job], verdict: Verdict) -> Report:
        begin, end = life.begin, life.end
        seconds = max(end.at_s - begin.at_s, 1e-3)
        memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Report(
            agents=self.plan.agents,
            connected=self.figures.most_parked,
            speed=self.plan.speed,
            seed=self.plan.seed,
            phases_s=self._phases_s,
            seconds=round(seconds, 1),
            ended_at=end.at,
            ended=end.ended - begin.ended,
            jobs_per_day=round(mean_rate(self.plan.per_day), 3),
            polls_per_s=round((end.polls - begin.polls) / seconds, 2),
            fires=end.fires,
            fires_per_s=round((end.fires - begin.fires) / seconds, 3),
            jobs=dict(Counter(str(job.state) for job in jobs)),
            lost=tuple(verdict.lost),
            doubled=tuple(verdict.doubled),
            stuck=tuple(verdict.stuck),
            latencies=self.figures.summarise_latencies(),
            bytes_per_day=extrapolate(
                begin,
                end,
                agents=max(self.figures.most_parked, 1),
                jobs_per_day=mean_rate(self.plan.per_day),
            ),
            errors=dict(self.figures.errors),
            simulator_cores=round(life.cpu_s / seconds, 3),
            simulator_memory_mib=round(memory_kib / 1024, 1),
            was_interrupted=self.was_interrupted,
        )


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks that do not end by themselves. Raises what has ended one of them before."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def make_room_for(agents: int) -> None:
    """Let this process open a connection for each agent, and some more.

    Raises:
        TooManyAgentsError: the system does not let it.
    """
    wanted = agents + max(agents // 4, 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise TooManyAgentsError(
            f"{agents:,} agents need {wanted:,} open files, and this process may open {hard:,}: "
            "raise the limit (ulimit -Hn), or run several simulations, each with a --prefix"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
