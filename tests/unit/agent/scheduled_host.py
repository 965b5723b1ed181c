"""A host with schedules: its cron, spool and inbox over a real journal, in front of a fake API.

Time and the link are moved by hand; `restart` is a crash at that moment and another start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec

from backhaul.wire.agents import Batch, BatchReply, Hello, PollReply, Receipt, UpEnvelope
from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import BackupArguments
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import RunTemplate, ScheduleEntry, ScheduleFire
from backhaul_agent.errors import LinkLostError
from backhaul_agent.inbox import Inbox
from backhaul_agent.job import Workshop
from backhaul_agent.job_loop import JobLoop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import open_journal_file
from backhaul_agent.policy import Policy
from backhaul_agent.query_loop import QueryLoop
from backhaul_agent.run import build_cron
from backhaul_agent.schedule_entries import ReceivedSet
from backhaul_agent.settings import PolicySettings, Settings
from backhaul_agent.spool import OutgoingBatch, Spool
from tests.fakes.fake_api import FakeApi
from tests.unit.agent.hosts import FACTS, ManualClock, ScriptedLink, build_identity

Weather = Literal["up", "down", "mute"]
"""Mute: what is sent arrives, and the answer gets lost."""

TEMPLATE = RunTemplate(
    arguments=BackupArguments(paths=("/etc",)), repository_id=UUID(int=9), credentials=b"sealed"
)

HOST_ID = UUID(int=4)
"""What a host draws, like its jitter, follows from its id: the same in every run."""


def build_entry(number: int = 1, cron: str = "* * * * *", **fields: Any) -> ScheduleEntry:
    entry = ScheduleEntry(
        schedule_id=UUID(int=number), kind="backup", cron=cron, timezone="UTC", template=TEMPLATE
    )
    return msgspec.structs.replace(entry, **fields)


class ScheduledHost:
    """One host through all lives of its agent."""

    def __init__(self, state_dir: Path, **settings: Any) -> None:
        policy = PolicySettings(backup_paths=("/etc",))
        self.settings = Settings(state_dir=state_dir, policy=policy, **settings)
        self.identity = msgspec.structs.replace(build_identity(), host_id=HOST_ID)
        self.api = FakeApi()
        self.api.hold_s = 0.0
        self.clock = ManualClock()
        self.weather: Weather = "up"
        self.begun: list[UUID] = []
        """Every job that was started, in order."""
        self.fired: list[ScheduleFire] = []
        """Every fire as it happened, before it stood for others."""
        self.start()

    def start(self) -> None:
        self.file = open_journal_file(self.settings.state_dir)
        self.journal = Journal(self.file)
        self.spool = Spool(self.file, now=self.clock.now)
        workshop = Workshop(
            settings=self.settings,
            identity=self.identity,
            policy=Policy(self.settings.policy),
            journal=self.journal,
            spool=self.spool,
            clock=self.clock,
            inherited={},
        )
        self.cron = build_cron(workshop, self.file)
        self.cron.load()
        self._note_fires()
        self.inbox = Inbox(
            introduction=Hello(boot_id=uuid4(), facts=FACTS),
            journal=self.journal,
            spool=self.spool,
            policy=workshop.policy,
            canceller=JobLoop(workshop),
            cron=self.cron,
            answerer=QueryLoop(workshop, ScriptedLink()),
            now=self.clock.now,
        )

    def _note_fires(self) -> None:
        fire = self.cron._journal.fire

        def note(fired: ScheduleFire, **more: Any) -> ScheduleFire:
            self.fired.append(fired)
            return fire(fired, **more)

        self.cron._journal.fire = note  # type: ignore[method-assign, assignment]  # watched

    def restart(self) -> None:
        self.file.close()
        self.start()
        self._report_interrupted()

    def close(self) -> None:
        self.file.close()

    # What happens ------------------------------------------------------------------------------

    async def apply(self, *entries: ScheduleEntry) -> bool:
        """Let a set come down, whatever the link is like."""
        self.api.set_schedules(*entries)
        raw = msgspec.json.encode(self.api.schedules)
        return await self.cron.apply(msgspec.json.decode(raw, type=ReceivedSet))

    async def live(self, seconds: float, *, every: float = 1.0) -> None:
        """Let time pass, with a tick now and then."""
        for _ in range(round(seconds / every)):
            self.clock.advance(every)
            await self.cron.tick()

    async def poll(self) -> None:
        if self.weather == "down":
            return
        request = self.inbox.build_request(0.0)
        reply = await self.api._poll(request)
        if self.weather == "up":
            envelopes = msgspec.json.decode(reply.body, type=PollReply).envelopes
            await self.inbox.take(envelopes)

    async def send(self) -> None:
        """Send one batch, as the spool's loop does."""
        if not self.spool.is_empty:
            await self.fly(await self.spool.next_batch())

    async def send_all(self) -> None:
        while not self.spool.is_empty:
            await self.send()

    async def fly(self, batch: OutgoingBatch) -> None:
        try:
            receipts = await self._deliver(batch)
        except LinkLostError:
            self.spool.take_back(is_link_down=True)
            self.spool.merge_fires()
        else:
            self.spool.settle(batch, receipts)

    async def _deliver(self, batch: OutgoingBatch) -> tuple[Receipt, ...]:
        if self.weather == "down":
            raise LinkLostError("down")
        reply = await self.api._receive(Batch(envelopes=batch.envelopes))
        if self.weather == "mute":
            raise LinkLostError("no answer")
        return msgspec.json.decode(reply.body, type=BatchReply).receipts

    def begin_job(self) -> UUID | None:
        """Start the job whose turn it is, as the job loop does."""
        job = self.journal.next_claimed()
        if job is None:
            return None
        now = self.clock.now()
        self.journal.start(JobStarted(job_id=job.id, attempt=1, at=now))
        self.begun.append(job.id)
        return job.id

    def end_job(self, job_id: UUID) -> None:
        self.journal.finish(
            JobFinished(
                job_id=job_id,
                attempt=1,
                at=self.clock.now(),
                outcome=Outcome.SUCCEEDED,
                log_lines=0,
            )
        )

    def work(self) -> UUID | None:
        """Do the job whose turn it is, from start to end."""
        job_id = self.begin_job()
        if job_id is not None:
            self.end_job(job_id)
        return job_id

    def _report_interrupted(self) -> None:
        for job in self.journal.left_running():
            self.end_job(job.id)

    # What there is -----------------------------------------------------------------------------

    @property
    def waiting(self) -> list[UpEnvelope]:
        return [msgspec.json.decode(one.body, type=UpEnvelope) for one in self.spool._list_unsent()]

    @property
    def fires(self) -> list[ScheduleFire]:
        """The fires that wait for the server."""
        return [one for one in self.waiting if isinstance(one, ScheduleFire)]

    def received(self, type_: type[Any]) -> list[Any]:
        return self.api.of(type_)


def count_calls(function: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
    """Wrap a function so that each call adds to the first of `counts`."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[0] += 1
        return function(*args, **kwargs)

    return counted
