"""The spool and the journal of an agent whose disk is its memory.

The rules are those of the agent: what goes out in which order, what a receipt means, which fire
stands for which. Only the tables are lists. A simulated agent does not die, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol, cast
from uuid import UUID

import msgspec

from backhaul.wire.agents import HeldJob, Hello, Receipt, ReceiptStatus, UpEnvelope
from backhaul.wire.commands import CommandAck, CommandRun
from backhaul.wire.jobs import LogLine
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul.wire.schedules import ScheduleAck, ScheduleFire
from backhaul_agent.clock import Clock
from backhaul_agent.journal import Journal, JournalJob
from backhaul_agent.simulation.figures import Figures
from backhaul_agent.spool import OutgoingBatch, Spool
from backhaul_agent.spool_table import Spooled, list_subjects, read_fire, stand_for, type_of


class Ear(Protocol):
    """Hears what the server has taken."""

    def hear_claim(self) -> None:
        """A job may begin."""

    def hear_ack(self, ack: ScheduleAck) -> None:
        """The server knows that these schedules are followed."""

    def hear_end(self, finished: JobFinished) -> None:
        """The server has the end of a job."""


class MemoryJournal(Journal):
    """The jobs of one host."""

    def __init__(self, spool: MemorySpool) -> None:
        self._spool = spool
        self._jobs: dict[UUID, JournalJob] = {}
        self._known: set[tuple[UUID, int]] = set()
        spool.journal = self

    def accept(self, command: CommandRun) -> bool:
        if not self._remember(command):
            return False
        self._jobs[command.job_id] = JournalJob(
            command=command, step="accepted", log_lines=0, child=None
        )
        self._put_ack(command, is_accepted=True, reason=None)
        return True

    def refuse(self, command: CommandRun, *, reason: str) -> bool:
        if not self._remember(command):
            return False
        self._put_ack(command, is_accepted=False, reason=reason)
        return True

    def _remember(self, command: CommandRun) -> bool:
        key = command.job_id, command.attempt
        if command.job_id in self._jobs or key in self._known:
            return False
        self._known.add(key)
        return True

    def _put_ack(self, command: CommandRun, *, is_accepted: bool, reason: str | None) -> None:
        ack = CommandAck(
            job_id=command.job_id, attempt=command.attempt, is_accepted=is_accepted, reason=reason
        )
        self._spool.put(ack, job_id=command.job_id)

    def start(self, started: JobStarted) -> None:
        self._move(started.job_id, "running")
        self._spool.put(started, job_id=started.job_id)

    def append_log(self, job_id: UUID, *, attempt: int, lines: Sequence[LogLine]) -> None:
        job = self._jobs[job_id]
        log = JobLog(job_id=job_id, attempt=attempt, seq=job.log_lines, lines=tuple(lines))
        self._jobs[job_id] = msgspec.structs.replace(job, log_lines=job.log_lines + len(lines))
        self._spool.put(log, job_id=job_id)

    def finish(self, finished: JobFinished, *, left_out: int = 0) -> None:
        job = self._jobs.get(finished.job_id)
        if job is None or job.step == "finished":
            return
        self._move(finished.job_id, "finished")
        report = msgspec.structs.replace(finished, log_lines=job.log_lines)
        self._spool.put(report, job_id=finished.job_id)

    def _move(self, job_id: UUID, step: Literal["claimed", "running", "finished"]) -> None:
        self._jobs[job_id] = msgspec.structs.replace(self._jobs[job_id], step=step)

    def settle_claim(self, job_id: UUID, *, is_refused: bool) -> None:
        """Take the server's word on the wish to run a job."""
        job = self._jobs.get(job_id)
        if job is None or job.step != "accepted":
            return
        if is_refused:
            del self._jobs[job_id]
        else:
            self._move(job_id, "claimed")

    def give_back(self, job_id: UUID) -> None:
        """Forget a job as if it had never been here: it is sent again."""
        job = self._jobs.get(job_id)
        if job is not None and job.step == "accepted":
            del self._jobs[job_id]
            self._known.discard((job_id, job.command.attempt))

    def forget(self, job_id: UUID) -> None:
        """Forget a job whose end the server has."""
        self._jobs.pop(job_id, None)

    def _list(self) -> list[JournalJob]:
        return list(self._jobs.values())

    def held(self) -> tuple[HeldJob, ...]:
        return super().held() if self._jobs else ()

    @property
    def is_empty(self) -> bool:
        return not self._jobs

    def next_claimed(self, *, besides: Collection[UUID] = ()) -> JournalJob | None:
        return super().next_claimed(besides=besides) if self._jobs else None


class MemorySpool(Spool):
    """What waits for the server."""

    journal: MemoryJournal

    def __init__(self, clock: Clock, figures: Figures, ear: Ear) -> None:
        super().__init__(cast("Any", None), now=clock.now)
        self._figures = figures
        self._ear = ear
        self._waiting: list[Spooled] = []
        self._position = 0

    def say_hello(self, hello: Hello) -> None:
        self.hello_received.clear()
        others = [one for one in self._waiting if one.type != "hello"]
        self._waiting = [self._build(hello), *others]
        self.notify()

    def put(self, envelope: UpEnvelope, *, job_id: UUID | None) -> None:
        self._waiting.append(self._build(envelope, job_id=job_id))
        self.notify()

    def put_ack(self, ack: ScheduleAck) -> None:
        """Append the ack of a set; those of older sets have nothing more to say."""
        self._waiting = [one for one in self._waiting if one.type != "schedule.ack"]
        self.put(ack, job_id=None)

    def put_fire(self, fire: ScheduleFire) -> None:
        """Append a fire, which stands for those of its schedule that wait."""
        for older in self._list_fires(fire.schedule_id):
            if older.position not in self.in_flight:
                fire = stand_for(fire, older)
                self._waiting.remove(older)
        self._waiting.append(self._build(fire, schedule_id=fire.schedule_id))
        self.notify()

    def merge_fires(self) -> None:
        waiting = [one.schedule_id for one in self._waiting if one.schedule_id is not None]
        for schedule_id in {one for one in waiting if waiting.count(one) > 1}:
            *older, newest = self._list_fires(schedule_id)
            fire = read_fire(newest)
            for one in older:
                fire = stand_for(fire, one)
                self._waiting.remove(one)
            place = self._waiting.index(newest)
            self._waiting[place] = msgspec.structs.replace(newest, body=msgspec.json.encode(fire))

    def _list_fires(self, schedule_id: UUID) -> list[Spooled]:
        return [one for one in self._waiting if one.schedule_id == schedule_id]

    def _build(
        self, envelope: UpEnvelope, *, job_id: UUID | None = None, schedule_id: UUID | None = None
    ) -> Spooled:
        self._position += 1
        return Spooled(
            position=self._position,
            type=type_of(envelope),
            job_id=job_id,
            schedule_id=schedule_id,
            body=msgspec.json.encode(envelope),
        )

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    # What the rules of the spool ask for ---------------------------------------------------------

    def settle(self, batch: OutgoingBatch, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            problem = receipt.problem if receipt.status is ReceiptStatus.REJECTED else None
            if problem is not None and problem.type != ProblemType.JOB_WAITS:
                self._figures.count_error("receipt", problem.type.rpartition(":")[2])
        super().settle(batch, receipts)
        self._ear.hear_claim()

    def _list_unsent(self) -> list[Spooled]:
        aside = self._list_aside()
        found = self._waiting
        if aside:
            found = [one for one in found if list_subjects(one).isdisjoint(aside)]
        return found[: self._limit]

    def _remove(self, spooled: Spooled, *, is_refused: bool) -> None:
        self._waiting = [one for one in self._waiting if one.position != spooled.position]
        match spooled.type:
            case "hello":
                self.hello_received.set()
            case "command.ack" if spooled.job_id is not None:
                self.journal.settle_claim(spooled.job_id, is_refused=is_refused)
            case "schedule.ack" if not is_refused:
                self._ear.hear_ack(msgspec.json.decode(spooled.body, type=ScheduleAck))
            case "job.finished" if spooled.job_id is not None:
                self._rewinds.pop(spooled.job_id, None)
                self.journal.forget(spooled.job_id)
                if not is_refused:
                    self._ear.hear_end(msgspec.json.decode(spooled.body, type=JobFinished))

    def _give_back(self, spooled: Spooled) -> None:
        self._waiting = [one for one in self._waiting if one.position != spooled.position]
        assert spooled.job_id is not None  # noqa: S101 (only claims are given back)
        self.journal.give_back(spooled.job_id)
        self.claim_given_back.set()

    def _rewind(self, job_id: UUID, expected_seq: int) -> None:
        """Unlike a disk, this keeps no line that the server has had: the end is not taken."""
        self._figures.count_error("receipt", f"log of a job from line {expected_seq} on is gone")
        self._rewinds[job_id] += 1
