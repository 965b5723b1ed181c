"""One simulated agent: the real loops of poll and spool, around jobs that are drawn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID, uuid4

import msgspec

from backhaul.cron import Cron
from backhaul.wire.agents import DEFAULT_HOLD_S, Hello, HostFacts
from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul.wire.commands import CommandRun, JobPriority, QueryAnswer, QueryFailure, QueryRun
from backhaul.wire.jobs import FailureClass, LogLine, Outcome
from backhaul.wire.kinds import Arguments, BackupResult, JobKind
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul.wire.reports import JobFinished, JobProgress, JobStarted
from backhaul.wire.schedules import ScheduleAck, ScheduleEntry, ScheduleFire, build_scheduled_job_id
from backhaul.wire.snapshots import SnapshotsReport
from backhaul_agent.backoff import Backoff
from backhaul_agent.clock import Clock
from backhaul_agent.errors import CredentialsError, HostRemovedError
from backhaul_agent.hold import Hold
from backhaul_agent.identity import Identity
from backhaul_agent.inbox import Inbox
from backhaul_agent.journal import JournalJob
from backhaul_agent.policy import Policy
from backhaul_agent.poll_loop import poll_forever
from backhaul_agent.progress import INTERVAL_S
from backhaul_agent.schedule_entries import ReceivedSet
from backhaul_agent.schedule_plan import Plan, read_entries
from backhaul_agent.settings import PolicySettings
from backhaul_agent.simulation.figures import Figures
from backhaul_agent.simulation.ledger import EDIT, Ledger
from backhaul_agent.simulation.link import LightLink, Target
from backhaul_agent.simulation.memory import MemoryJournal, MemorySpool
from backhaul_agent.simulation.work import Run, draw_run, draw_snapshot
from backhaul_agent.spool_loop import send_forever
from backhaul_agent.timers import Timer
from backhaul_agent.timetable import Timetable

FACTS = HostFacts(
    hostname="simulated.example.com",
    os="Debian GNU/Linux 12 (bookworm)",
    architecture="x86_64",
    agent_version="simulated",
    protocol=SPOKEN_PROTOCOLS,
    restic_version="0.18.0",
    capabilities=tuple(JobKind),
)

SHORTEST_INTERVAL_S = 0.02
"""Between two reports of progress, however fast the fleet lives."""


@dataclass
class Lanes:
    """Which repositories some job wants for itself: waiting for it is not taken for slowness."""

    _wanted: dict[int, set[UUID]] = field(default_factory=dict)
    _freed_s: dict[int, float] = field(default_factory=dict)

    def enter(self, lane: int, schedule_id: UUID) -> None:
        self._wanted.setdefault(lane, set()).add(schedule_id)

    def leave(self, lane: int, schedule_id: UUID, *, now_s: float) -> None:
        self._wanted[lane].discard(schedule_id)
        self._freed_s[lane] = now_s

    def was_free(self, lane: int, *, since_s: float) -> bool:
        return not self._wanted.get(lane) and self._freed_s.get(lane, since_s - 1) < since_s


@dataclass
class World:
    """What all agents of a simulation share."""

    target: Target
    clock: Clock
    dice: random.Random
    speed: float
    figures: Figures
    ledger: Ledger
    policy: Policy = field(default_factory=lambda: Policy(PolicySettings()))
    timetable: Timetable = field(default_factory=Timetable)
    owners: dict[UUID, SimulatedAgent] = field(default_factory=dict)
    """The agents by their schedules."""
    lanes: Lanes = field(default_factory=Lanes)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """What runs comes to its end now."""

    def tick(self) -> None:
        """Fire what is due."""
        now = self.clock.now()
        for timer in self.timetable.pop_due(now):
            if (agent := self._find_follower(timer.schedule_id)) is not None:
                agent.look_at(timer, now)

    def list_followed(self) -> dict[UUID, Cron]:
        """List the schedules that some agent follows now. The timetable also has those before."""
        return {
            timer.schedule_id: timer.cron
            for timer in self.timetable
            if self._find_follower(timer.schedule_id) is not None
        }

    def _find_follower(self, schedule_id: UUID) -> SimulatedAgent | None:
        agent = self.owners.get(schedule_id)
        return agent if agent is not None and agent.follows(schedule_id) else None


class SharedCron:
    """The schedules of one host, in the timetable of all."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent = agent
        self.entries: dict[UUID, ScheduleEntry] = {}
        self.applied_version = 0

    async def apply(self, received: ReceivedSet) -> bool:
        """Follow another set, by the rules of the agent's own cron."""
        if received.schedule_version <= self.applied_version:
            return False
        agent, world = self._agent, self._agent.world
        now = world.clock.now()
        plan = Plan(host_id=agent.identity.host_id)
        for one in read_entries(received):
            known = world.timetable.find(one.schedule_id)
            old = self.entries.get(one.schedule_id)
            if known is not None and _is_unchanged(old, one.entry):
                plan.keep(one, known)
            else:
                fired = frozenset() if known is None else known.fired
                plan.add(one, settled_until=now, fired=fired, is_new=True)
        self.entries = plan.entries
        self.applied_version = received.schedule_version
        for timer in plan.timers:
            world.owners[timer.schedule_id] = agent
            world.timetable.put(timer)
        agent.spool.put_ack(plan.build_ack(received.schedule_version))
        return True


def _is_unchanged(old: ScheduleEntry | None, new: ScheduleEntry | None) -> bool:
    if old is None or new is None:
        return False
    return (old.cron, old.timezone, old.enabled) == (new.cron, new.timezone, new.enabled)


class SimulatedAgent:
    """An agent that enrolled. `run` lives until it is cancelled."""

    def __init__(self, world: World, identity: Identity, *, lane: int) -> None:
        self.world = world
        self.identity = identity
        self._lane = lane
        """The number of its repository."""
        self.link = LightLink(world.target, world.figures, identity)
        self.spool = MemorySpool(world.clock, world.figures, self)
        self.journal = _NotingJournal(self.spool, self._note_command)
        self.cron = SharedCron(self)
        self.edited_s: float | None = None
        """When the operator began to change a schedule whose ack is awaited."""
        self._edited_version = 0
        self._ended: dict[UUID, asyncio.Event] = {}
        """Of the job that runs: set when it is cancelled."""
        self._work: asyncio.Task[None] | None = None
        self._upkeep: dict[UUID, UUID] = {}
        """The schedules of jobs that want the repository for themselves."""

    async def run(self) -> None:
        """Speak with the server."""
        clock = self.world.clock
        inbox = Inbox(
            introduction=Hello(boot_id=uuid4(), facts=FACTS),
            journal=self.journal,
            spool=self.spool,
            policy=self.world.policy,
            canceller=self,
            cron=self.cron,
            answerer=self,
            now=clock.now,
        )
        inbox.say_hello()
        self.world.figures.agents += 1
        hold = Hold(DEFAULT_HOLD_S, now_s=clock.monotonic())
        sending = asyncio.create_task(
            send_forever(self.link, self.spool, backoff=Backoff(), clock=clock)
        )
        try:
            with suppress(HostRemovedError):
                await poll_forever(self.link, inbox, hold, backoff=Backoff(), clock=clock)
        finally:
            tasks = [task for task in (sending, self._work) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.link.close()

    @property
    def is_idle(self) -> bool:
        """Nothing runs, and the server has been told everything."""
        return self.journal.is_empty and self.spool.is_empty

    # Fires -----------------------------------------------------------------------------------

    def follows(self, schedule_id: UUID) -> bool:
        return schedule_id in self.cron.entries

    def look_at(self, timer: Timer, now: datetime) -> None:
        """Fire a timer that is due, or pass over what its policy skips."""
        timetable = self.world.timetable
        due = timer.look(now)
        if due is None:
            timetable.put(timer)
            return
        has_fired = timer.may_fire(due, now)
        timetable.put(timer.settle(due, now, has_fired=has_fired))
        if not has_fired:
            return
        fire = ScheduleFire(
            schedule_id=timer.schedule_id, scheduled_at=due.slot, fired_at=now, missed=due.missed
        )
        kind = self.cron.entries[timer.schedule_id].kind
        job_id = build_scheduled_job_id(timer.schedule_id, due.slot)
        is_upkeep = kind in EXCLUSIVE_KINDS
        if is_upkeep:
            self._upkeep[job_id] = timer.schedule_id
            self.world.lanes.enter(self._lane, timer.schedule_id)
        self.world.ledger.note_fire(timer.schedule_id, due.slot, job_id, is_timed=not is_upkeep)
        self.spool.put_fire(fire)

    # Jobs ------------------------------------------------------------------------------------

    def _note_command(self, command: CommandRun) -> None:
        self.world.ledger.note_command(
            command.job_id,
            is_operators=command.priority >= JobPriority.OPERATOR,
            is_timed_since=lambda since_s: self.world.lanes.was_free(self._lane, since_s=since_s),
        )

    def hear_claim(self) -> None:
        if self._work is None or self._work.done():
            job = self.journal.next_claimed()
            if job is not None:
                # From now on it is cancelled as a job that runs.
                ended = self._ended[job.id] = asyncio.Event()
                self._work = asyncio.create_task(self._perform(job, ended))

    async def _perform(self, job: JournalJob, ended: asyncio.Event) -> None:
        command, world = job.command, self.world
        self.journal.start(JobStarted(job_id=job.id, attempt=command.attempt, at=world.clock.now()))
        world.ledger.note_run(job.id, command.attempt)
        try:
            self.identity.open_credentials(command)
        except CredentialsError as error:
            world.figures.count_error("credentials", str(error))
        arguments: Arguments = msgspec.json.decode(command.arguments, type=Arguments)
        run = draw_run(world.dice, arguments)
        if command.priority >= JobPriority.OPERATOR:
            # Made to take the time until it is here: what it does must not weigh on a small fleet.
            run = replace(run, duration_s=0.0)
        begun = world.clock.now()
        await self._pass(job, run, ended)
        self._report(job, run, begun, is_cancelled=ended.is_set())
        del self._ended[job.id]
        # Who comes next is asked by whoever has the receipt of this end.

    async def _pass(self, job: JournalJob, run: Run, ended: asyncio.Event) -> None:
        """Let the time of a run pass, with its progress and its log."""
        world, speed = self.world, self.world.speed
        interval_s = max(INTERVAL_S / speed, SHORTEST_INTERVAL_S)
        whole_s = run.duration_s / speed
        begun_s = world.clock.monotonic()
        self._log(job, run.lines[:1])
        while (passed_s := world.clock.monotonic() - begun_s) < whole_s:
            if ended.is_set() or world.hurry.is_set():
                break
            self.spool.offer_progress(
                JobProgress(
                    job_id=job.id,
                    attempt=job.command.attempt,
                    at=world.clock.now(),
                    progress=run.progress_at(passed_s / whole_s, passed_s=passed_s * speed),
                )
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(min(interval_s, whole_s - passed_s)):
                    await ended.wait()
        self.spool.forget_progress(job.id)

    def _log(self, job: JournalJob, lines: tuple[str, ...]) -> None:
        now = self.world.clock.now()
        made = [LogLine(at=now, stream="stdout", text=text) for text in lines]
        if made:
            self.journal.append_log(job.id, attempt=job.command.attempt, lines=made)

    def _report(self, job: JournalJob, run: Run, begun: datetime, *, is_cancelled: bool) -> None:
        command, now = job.command, self.world.clock.now()
        self._log(job, run.lines[1:])
        if is_cancelled:
            self.journal.finish(_build_cancelled(command, now))
            return
        if isinstance(run.result, BackupResult) and command.repository_id is not None:
            made = draw_snapshot(self.world.dice, run, hostname=self.identity.name, at=begun)
            report = SnapshotsReport(
                repository_id=command.repository_id, job_id=job.id, snapshots=(made,)
            )
            self.spool.put(report, job_id=job.id)
        self.journal.finish(
            JobFinished(
                job_id=job.id,
                attempt=command.attempt,
                at=now,
                outcome=run.outcome,
                log_lines=0,
                exit_code=run.exit_code,
                failure_class=run.failure_class,
                message=run.message,
                result=run.result,
            )
        )

    def cancel(self, job_id: UUID) -> bool:
        ended = self._ended.get(job_id)
        if ended is not None:
            is_new = not ended.is_set()
            ended.set()
            return is_new
        job = self.journal.find(job_id)
        if job is None or job.step in {"running", "finished"}:
            return False
        self.journal.finish(_build_cancelled(job.command, self.world.clock.now()))
        return True

    # What the server has taken, and asks -----------------------------------------------------

    def hear_ack(self, ack: ScheduleAck) -> None:
        for error in ack.errors:
            self.world.figures.count_error("schedule", error.message)
        if self.edited_s is not None and ack.schedule_version > self._edited_version:
            self.world.figures.note_latency(EDIT, self.world.clock.monotonic() - self.edited_s)
            self.edited_s = None

    def hear_end(self, finished: JobFinished) -> None:
        self.world.ledger.note_end(finished)
        schedule_id = self._upkeep.pop(finished.job_id, None)
        if schedule_id is not None:
            now_s = self.world.clock.monotonic()
            self.world.lanes.leave(self._lane, schedule_id, now_s=now_s)

    def expect_edit(self) -> None:
        """The operator is about to change a schedule of this host."""
        self.edited_s = self.world.clock.monotonic()
        self._edited_version = self.cron.applied_version

    def take(self, query: QueryRun) -> bool:
        answer = QueryAnswer(
            query_id=query.query_id, error="this host is simulated", failure=QueryFailure.FAILED
        )
        self.spool.put(answer, job_id=None)
        return True


class _NotingJournal(MemoryJournal):
    """Says which commands are new."""

    def __init__(self, spool: MemorySpool, note: Callable[[CommandRun], None]) -> None:
        super().__init__(spool)
        self._note = note

    def accept(self, command: CommandRun) -> bool:
        is_new = super().accept(command)
        if is_new:
            self._note(command)
        return is_new


def _build_cancelled(command: CommandRun, now: datetime) -> JobFinished:
    return JobFinished(
        job_id=command.job_id,
        attempt=command.attempt,
        at=now,
        outcome=Outcome.CANCELLED,
        log_lines=0,
        exit_code=130,
        failure_class=FailureClass.INTERRUPTED,
        message="cancelled",
    )
