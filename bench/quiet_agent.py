"""The core of an agent in front of a server that only holds its polls: for measurements of idling.

Everything but the network is real: the loops, the cron, the spool, and the journal on disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec

from backhaul.wire.agents import (
    DEFAULT_HOLD_S,
    Hello,
    HostFacts,
    PollReply,
    PollRequest,
    Receipt,
    ReceiptStatus,
    UpEnvelope,
)
from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul.wire.schedules import ScheduleAck, ScheduleEntry, ScheduleSet
from backhaul_agent.backoff import Backoff
from backhaul_agent.hold import Hold
from backhaul_agent.identity import Identity
from backhaul_agent.inbox import Inbox
from backhaul_agent.job import Workshop
from backhaul_agent.job_loop import JobLoop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import open_journal_file
from backhaul_agent.link import Link
from backhaul_agent.policy import Policy
from backhaul_agent.poll_loop import poll_forever
from backhaul_agent.query_loop import QueryLoop
from backhaul_agent.run import build_cron
from backhaul_agent.settings import Settings
from backhaul_agent.spool import Spool
from backhaul_agent.spool_loop import send_forever

_FACTS = HostFacts(
    hostname="bench",
    os="",
    architecture="",
    agent_version="",
    protocol=SPOKEN_PROTOCOLS,
    restic_version=None,
)
_OK = Receipt(status=ReceiptStatus.OK)


class QuietServer(Link):
    """Sends the newest set to a poll that names another version, and holds all others."""

    def __init__(self) -> None:
        self._set = b""
        self._version = 0
        self._news = asyncio.Event()
        self._applied = asyncio.Event()

    async def poll(self, request: PollRequest) -> PollReply:
        if request.schedule_version == self._version:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(request.hold):
                    await self._news.wait()
        is_due = request.schedule_version != self._version
        envelopes = (msgspec.Raw(self._set),) if is_due else ()
        return PollReply(
            envelopes=envelopes, server_time=datetime.now(UTC), hold=request.hold, pause=0.0
        )

    async def send(self, envelopes: tuple[msgspec.Raw, ...]) -> tuple[Receipt, ...]:
        for raw in envelopes:
            if isinstance(msgspec.json.decode(raw, type=UpEnvelope), ScheduleAck):
                self._applied.set()
        return (_OK,) * len(envelopes)

    async def apply(self, entries: Sequence[ScheduleEntry]) -> float:
        """Send a set down; gives the seconds until its ack has come."""
        version = self._version + 1
        self._set = msgspec.json.encode(
            ScheduleSet(schedule_version=version, schedules=tuple(entries))
        )
        self._applied.clear()
        began = time.monotonic()
        self._version = version
        self._news.set()
        await self._applied.wait()
        return time.monotonic() - began


class ShiftedClock:
    """The real time, and what was added to it."""

    def __init__(self) -> None:
        self._added_s = 0.0

    def advance(self, seconds: float) -> None:
        self._added_s += seconds

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._added_s)

    def monotonic(self) -> float:
        return time.monotonic() + self._added_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class QuietAgent:
    """An agent that was never enrolled, with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.clock = ShiftedClock()
        self._server = QuietServer()
        self._file = open_journal_file(folder)
        settings = Settings(state_dir=folder)
        identity = Identity(
            server_url="http://127.0.0.1:1",
            ca_file=None,
            host_id=uuid4(),
            name="bench",
            agent_token="",
            private_key=b"",
            signing_key=b"",
        )
        self._workshop = Workshop(
            settings=settings,
            identity=identity,
            policy=Policy(settings.policy),
            journal=Journal(self._file),
            spool=Spool(self._file, now=self.clock.now),
            clock=self.clock,
            inherited={},
        )
        self.cron = build_cron(self._workshop, self._file)
        self.cron.load()

    def close(self) -> None:
        self._file.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all loops for the length of the block."""
        jobs, spool, clock = JobLoop(self._workshop), self._workshop.spool, self.clock
        queries = QueryLoop(self._workshop, self._server)
        inbox = Inbox(
            introduction=Hello(boot_id=uuid4(), facts=_FACTS),
            journal=self._workshop.journal,
            spool=spool,
            policy=self._workshop.policy,
            canceller=jobs,
            cron=self.cron,
            answerer=queries,
            now=clock.now,
        )
        hold = Hold(DEFAULT_HOLD_S, now_s=clock.monotonic())
        inbox.say_hello()
        async with asyncio.TaskGroup() as tasks:
            loops = [
                send_forever(self._server, spool, backoff=Backoff(), clock=clock),
                poll_forever(self._server, inbox, hold, backoff=Backoff(), clock=clock),
                jobs.run_until_stopped(),
                self.cron.run_forever(),
                queries.run_forever(),
            ]
            started = [tasks.create_task(loop) for loop in loops]
            yield
            for task in started:
                task.cancel()

    async def apply(self, entries: Sequence[ScheduleEntry]) -> float:
        """Have a set applied and acked; gives the seconds that it took."""
        return await self._server.apply(entries)

    def count_fires(self) -> int:
        """Count what fired while nothing was sent, in the journal."""
        with self._file.transaction() as connection:
            row = connection.execute("SELECT count(*) FROM fired_slots").fetchone()
        return int(row[0])
