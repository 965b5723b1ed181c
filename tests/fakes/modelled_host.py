"""A host with the agent's real loops on a clock, a path and a restic that a test commands.

It dies like a process that is killed: what is on its disk stays, nothing else happens.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx

from backhaul.wire.schedules import ScheduleFire
from backhaul_agent.feed import Feed
from backhaul_agent.identity import Identity
from backhaul_agent.job import JOB_MARK, Workshop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import JournalFile, open_journal_file
from backhaul_agent.link import Link
from backhaul_agent.policy import Policy
from backhaul_agent.process import Child, Graces, OnChunk, OnLine
from backhaul_agent.run import build_cron, build_parts, start_loops
from backhaul_agent.settings import PolicySettings, Settings
from backhaul_agent.spool import Spool
from tests.fakes.fleet import FACTS
from tests.fakes.lossy_transport import LossyTransport

NOT_A_PROCESS = Child(pid=2**22 + 1, started=1)
"""No system has such a number: an agent that comes back finds nothing to end."""


class AgentKilledError(BaseException):
    """SIGKILL: no handler of the agent may stop it."""


class ModelClock:
    """One time for the server and all hosts; it moves only when the test says so."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._passed_s = 0.0
        self._numbers = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now + timedelta(seconds=self._passed_s)

    def monotonic(self) -> float:
        return self._passed_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed_s + seconds, next(self._numbers), future))
        await future

    def advance_to_next(self, limit_s: float) -> bool:
        """Move to when the next sleeper wakes, at the latest to a moment; False when that came."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        if not self._sleepers or self._sleepers[0][0] > limit_s:
            self._passed_s = max(self._passed_s, limit_s)
            return False
        moment, _, future = heapq.heappop(self._sleepers)
        self._passed_s = max(self._passed_s, moment)
        future.set_result(None)
        return True


class ModelRestic:
    """Plays restic: some lines, some time, an end; and notes whom it worked for."""

    def __init__(self, clock: ModelClock, dice: random.Random, tick: Callable[[str], None]) -> None:
        self._clock = clock
        self._dice = dice
        self._tick = tick
        self.starts: Counter[UUID] = Counter()
        self.said: dict[tuple[UUID, int], list[str]] = {}
        """The lines of each run: by job, and which run of it."""

    async def start(
        self, argv: Sequence[str], environment: Mapping[str, str], _: Graces, __: Feed | None = None
    ) -> ModelProcess:
        command = argv[1]
        if command == "version":
            return ModelProcess(self._clock, self._tick, ["restic 0.14.0 compiled"], 0.0, 0)
        job_id = UUID(environment[JOB_MARK])
        if command in {"unlock", "list"}:
            return ModelProcess(self._clock, self._tick, [], 0.0, 0)
        if command == "snapshots":
            return ModelProcess(self._clock, self._tick, ["[]"], 0.0, 0)
        self._tick("start")
        self.starts[job_id] += 1
        number = self.starts[job_id]
        lines = [f"line {n} of run {number}" for n in range(self._dice.randrange(4))]
        self.said[job_id, number] = []
        code = self._dice.choice([0, 0, 0, 1])
        ending = [_summary()] if command == "backup" and code == 0 else []
        errors = ["Fatal: unable to open repository: dial tcp: connection refused"] * (code != 0)
        process = ModelProcess(
            self._clock,
            self._tick,
            [*lines, *ending],
            self._dice.choice([0.0, 0.3, 5.0, 30.0]),
            code,
            errors=errors,
        )
        process.heard = self.said[job_id, number]
        return process


def _summary() -> str:
    return '{"message_type":"summary","files_new":1,"snapshot_id":"0a1b2c3d"}'


class ModelProcess:
    """A run of restic."""

    def __init__(
        self,
        clock: ModelClock,
        tick: Callable[[str], None],
        lines: list[str],
        pause_s: float,
        code: int,
        *,
        errors: Sequence[str] = (),
    ) -> None:
        self._clock = clock
        self._tick = tick
        self._lines = lines
        self._errors = errors
        self._pause_s = pause_s
        self._code = code
        self._ended = asyncio.Event()
        self.heard: list[str] = []
        self.was_killed = False
        self.is_gone = False

    @property
    def child(self) -> Child:
        return NOT_A_PROCESS

    async def read_to_end(self, on_line: OnLine, on_chunk: OnChunk | None = None) -> int:
        for line in self._lines:
            await self._wait()
            if self._ended.is_set():
                break
            self._tick("line")
            if not line.startswith("{"):
                self.heard.append(line)
            on_line("stdout", line)
        await self._wait()
        for line in self._errors:
            on_line("stderr", line)
        self.is_gone = True
        return 130 if self._ended.is_set() else self._code

    async def _wait(self) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(self._pause_s))
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({sleeping, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            ending.cancel()

    async def end(self) -> None:
        self._ended.set()

    def kill(self) -> None:
        self._ended.set()


class ModelledHost:
    """One host through all the lives of its agent."""

    def __init__(
        self,
        identity: Identity,
        folder: Path,
        clock: ModelClock,
        dice: random.Random,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._loop = loop
        self.identity = identity
        self.host_id = identity.host_id
        self.transport = LossyTransport(self.tick)
        self.restic = ModelRestic(clock, dice, self.tick)
        self.fired: set[tuple[UUID, datetime]] = set()
        """What is on the disk as fired."""
        self.dies_in: int | None = None
        """After so many steps: a write, a request, an answer, a line of restic."""
        self.deaths: Counter[str] = Counter()
        self._clock = clock
        self._settings = Settings(
            state_dir=folder, settle=1.0, offline_after=20.0, policy=PolicySettings()
        )
        self._file: JournalFile | None = None
        self._life: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None

    @property
    def is_alive(self) -> bool:
        return self._file is not None

    def tick(self, what: str) -> None:
        """Count a step; the one at which the agent is to die is its last."""
        if self._file is None:
            raise AgentKilledError(what)
        if self.dies_in is None:
            return
        self.dies_in -= 1
        if self.dies_in <= 0:
            self.deaths[what] += 1
            self.kill()
            raise AgentKilledError(what)

    def kill(self) -> None:
        """End the agent at once. What it was doing cannot write any more."""
        self.dies_in = None
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._life is not None and self._life is not asyncio.current_task(self._loop):
            self._life.cancel()

    async def bury(self) -> None:
        """Wait until the tasks of a dead agent are gone."""
        if self._life is not None and not self.is_alive:
            with suppress(BaseException):
                await self._life
            self._life = None

    def start(self) -> None:
        self._file = file = open_journal_file(self._settings.state_dir)
        self._life = self._loop.create_task(self._live(file))
        self._life.add_done_callback(self._note_failure)

    def _note_failure(self, life: asyncio.Task[None]) -> None:
        # An agent that was not killed must not end.
        if self.is_alive and not life.cancelled():
            self.failure = life.exception() or RuntimeError("the agent ended by itself")

    async def _live(self, file: JournalFile) -> None:
        self._watch(file)
        client = httpx.AsyncClient(
            transport=self.transport, base_url="http://api", headers={"Backhaul-Protocol": "1"}
        )
        workshop = Workshop(
            settings=self._settings,
            identity=self.identity,
            policy=Policy(self._settings.policy),
            journal=Journal(file),
            spool=Spool(file, now=self._clock.now),
            clock=self._clock,
            inherited={},
            start=self.restic.start,
        )
        workshop.journal.claim_again()
        cron = build_cron(workshop, file)
        cron.load()
        self._watch_fires(cron)
        self.parts = parts = build_parts(workshop, cron, Link(client, self.identity), FACTS)
        parts.inbox.say_hello()
        async with asyncio.TaskGroup() as tasks:
            start_loops(parts, tasks)

    def _watch(self, file: JournalFile) -> None:
        """Let the agent die just before, or just after, something is on the disk."""
        commit = file._commit

        def watched() -> None:
            has_changes = file._connection.in_transaction
            self.tick("before a write")
            commit()
            if has_changes:
                self.tick("after a write")

        file._commit = watched  # type: ignore[method-assign]

    def _watch_fires(self, cron: object) -> None:
        journal = cron._journal  # type: ignore[attr-defined]
        fire = journal.fire

        def note(fired: ScheduleFire, **more: object) -> ScheduleFire:
            # Killed in here, it may be on the disk or not: the journal itself is asked in the end.
            sent: ScheduleFire = fire(fired, **more)
            self.fired.add((fired.schedule_id, fired.scheduled_at))
            return sent

        journal.fire = note

    def list_left(self) -> list[str]:
        """Name what the journal still holds."""
        assert self._file is not None
        with self._file.transaction() as connection:
            spooled = connection.execute("SELECT type FROM spool WHERE is_sent = 0").fetchall()
            jobs = connection.execute("SELECT job_id, state FROM jobs").fetchall()
        return [*(type_ for (type_,) in spooled), *(f"{one}: {state}" for one, state in jobs)]

    def list_fired(self) -> set[tuple[UUID, datetime]]:
        """List the slots that fired, by the journal as well."""
        assert self._file is not None
        with self._file.transaction() as connection:
            rows = connection.execute("SELECT schedule_id, slot FROM fired_slots").fetchall()
        epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        noted = {(UUID(one), epoch + timedelta(microseconds=slot)) for one, slot in rows}
        return self.fired | noted
