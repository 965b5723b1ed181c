"""The spool as the loops see it: batches to send, receipts to settle, the newest progress.

Progress is not written to disk: the newest replaces the one before it, and when the link is down
nobody misses the ones between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from backhaul.wire.agents import MAX_BATCH_ENVELOPES, Hello, Receipt, ReceiptStatus, UpEnvelope
from backhaul.wire.jobs import LogLine
from backhaul.wire.problems import Problem, ProblemType
from backhaul.wire.reports import JobProgress
from backhaul_agent import spool_table
from backhaul_agent.errors import BatchRefusedError, Loss
from backhaul_agent.journal_file import JournalFile
from backhaul_agent.logs import fields
from backhaul_agent.spool_table import Spooled

log = logging.getLogger(__name__)

MAX_BATCH_BODY_BYTES = 900 * 1024
"""Below the server's 1 MiB, with room for the commas and for what a proxy may add."""
MAX_REWINDS = 3
"""How often the log of one job is sent again before its end is given up."""
STUMBLES_BEFORE_HALVING = 3
"""One failure of the server can have any reason; several in a row can be what it was sent."""
STUMBLES_ALONE = 8
"""An envelope that is sent alone and fails so often keeps no others waiting any more."""
ASIDE_FOR = timedelta(minutes=10)
_PERHAPS_THE_BATCH = {Loss.TOO_LARGE, Loss.SERVER_FAILED, Loss.TIMED_OUT}


class OutgoingBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What goes out in one request: spooled envelopes, and perhaps progress after them."""

    spooled: tuple[Spooled, ...]
    progress: tuple[JobProgress, ...] = ()

    @property
    def envelopes(self) -> tuple[msgspec.Raw, ...]:
        raw = [msgspec.Raw(one.body) for one in self.spooled]
        raw += [msgspec.Raw(msgspec.json.encode(one)) for one in self.progress]
        return tuple(raw)


class Spool:
    """What waits for the server."""

    def __init__(self, file: JournalFile, *, now: Callable[[], datetime]) -> None:
        self._file = file
        self._now = now
        self._progress: dict[UUID, JobProgress] = {}
        self._limit = MAX_BATCH_ENVELOPES
        self._rewinds: Counter[UUID] = Counter()
        self._stumbles = 0
        """How many batches in a row were lost in a way that can be their own fault."""
        self._aside: dict[str, datetime] = {}
        """What is not sent until then: the ids of jobs and schedules. In memory only, so that the
        next process begins with everything."""
        self._has_news = asyncio.Event()
        self.in_flight: frozenset[int] = frozenset()
        """The positions of what is under way to the server right now."""
        self.is_link_down = False
        """The last attempt to send was lost."""
        self.hello_received = asyncio.Event()
        """The server knows this process; polls may begin."""
        self.job_claimed = asyncio.Event()
        """A job may have got its turn."""
        self.claim_given_back = asyncio.Event()
        """A poll that says we hold the job would not be sent it again."""

    def notify(self) -> None:
        """Say that something was written to the spool's table."""
        self._has_news.set()

    def say_hello(self, hello: Hello) -> None:
        """Introduce this process before anything else goes out."""
        self.hello_received.clear()
        with self._file.transaction() as connection:
            spool_table.put_first(connection, hello)
        self.notify()

    def put(self, envelope: UpEnvelope, *, job_id: UUID) -> None:
        """Append an envelope that belongs to a job."""
        with self._file.transaction() as connection:
            spool_table.put(connection, envelope, job_id=str(job_id))
        self.notify()

    def offer_progress(self, progress: JobProgress) -> None:
        """Send this with the next batch, instead of older progress."""
        self._progress[progress.job_id] = progress
        self.notify()

    def forget_progress(self, job_id: UUID) -> None:
        """Send no more progress of a job: it has ended."""
        self._progress.pop(job_id, None)

    def wait_for_room(self) -> None:
        """Go on after the disk was full in the midst of settling: what was settled is settled, and
        the rest is sent again."""
        self.in_flight = frozenset()

    @property
    def is_empty(self) -> bool:
        return not self._list_unsent()

    async def next_batch(self) -> OutgoingBatch:
        """Wait until there is something to send."""
        while True:
            self._has_news.clear()
            batch = self._build_batch()
            if batch.envelopes:
                self.in_flight = frozenset(one.position for one in batch.spooled)
                return batch
            await self._has_news.wait()

    def _build_batch(self) -> OutgoingBatch:
        waiting = self._list_unsent()
        chosen = _cut_to_size(waiting)
        # Progress comes after what was said before it, so only when all of that goes out now.
        if len(chosen) < len(waiting) or len(waiting) >= self._limit:
            return OutgoingBatch(spooled=tuple(chosen))
        progress, self._progress = self._progress, {}
        return OutgoingBatch(spooled=tuple(chosen), progress=tuple(progress.values()))

    def _list_unsent(self) -> list[Spooled]:
        with self._file.transaction() as connection:
            return spool_table.list_unsent(
                connection, limit=self._limit, besides=self._list_aside()
            )

    def _list_aside(self) -> list[str]:
        now = self._now()
        self._aside = {one: until for one, until in self._aside.items() if until > now}
        return list(self._aside)

    def settle(self, batch: OutgoingBatch, receipts: Sequence[Receipt]) -> None:
        """Take the server's word on each envelope of a batch."""
        self.is_link_down = False
        self._stumbles = 0
        self._limit = min(self._limit * 2, MAX_BATCH_ENVELOPES)
        gaps: dict[UUID, int] = {}
        # strict=False: the last receipts can be those of progress, which nobody waits for.
        for spooled, receipt in zip(batch.spooled, receipts, strict=False):
            if receipt.status is not ReceiptStatus.REJECTED:
                _log_delivery(spooled, receipt)
                self._remove(spooled, is_refused=False)
            elif (expected := self._gap_of(spooled, receipt.problem)) is not None:
                assert spooled.job_id is not None  # noqa: S101 (_gap_of asked for it)
                gaps[spooled.job_id] = min(expected, gaps.get(spooled.job_id, expected))
            elif _is_given_back(spooled, receipt.problem):
                self._give_back(spooled)
            else:
                _log_refusal(spooled, receipt.problem)
                self._remove(spooled, is_refused=True)
        for job_id, expected in gaps.items():
            self._rewind(job_id, expected)
        self.in_flight = frozenset()
        self.merge_fires()
        self.job_claimed.set()

    def refuse(self, batch: OutgoingBatch, refused: BatchRefusedError) -> None:
        """Go on after the server refused a batch as a whole: send less, or drop the one."""
        self.is_link_down = False
        self.in_flight = frozenset()
        self.merge_fires()
        if len(batch.spooled) > 1:
            self._limit = max(1, len(batch.spooled) // 2)
            return
        for spooled in batch.spooled:
            log.error(
                "envelope.dropped",
                extra=fields(type=spooled.type, job_id=spooled.job_id, reason=str(refused)),
            )
            self._remove(spooled, is_refused=True)

    def take_back(self, *, is_link_down: bool, loss: Loss = Loss.OTHER) -> None:
        """Go on after a batch brought no receipts; whether it arrived, nobody knows.

        When its size, or something in it, may be the reason, the next one is smaller. Writes
        nothing: `merge_fires` comes after it.
        """
        self.is_link_down = is_link_down
        size = len(self.in_flight)
        self._stumbles = self._stumbles + 1 if loss in _PERHAPS_THE_BATCH else 0
        if loss is Loss.TOO_LARGE or self._stumbles >= STUMBLES_BEFORE_HALVING:
            self._limit = max(1, size // 2)
        if size == 1 and self._stumbles >= STUMBLES_ALONE:
            self._set_aside(min(self.in_flight))
        self.in_flight = frozenset()

    def _set_aside(self, position: int) -> None:
        """Let what waits behind an envelope go first: the server fails at this one again and again.

        All that is told of the same job or schedule waits with it, for the order among them counts.
        Nothing is given up: it is tried again after a while, and by the next process.
        """
        spooled = next((one for one in self._list_unsent() if one.position == position), None)
        if spooled is None or spooled.type == "hello":
            return
        until = self._now() + ASIDE_FOR
        self._aside |= dict.fromkeys(spool_table.list_subjects(spooled), until)
        self._stumbles = 0
        log.error(
            "envelope.set_aside",
            extra=fields(
                type=spooled.type,
                job_id=spooled.job_id,
                schedule_id=spooled.schedule_id,
                until=until,
                hint="the server fails at it; its log says why",
            ),
        )
        asyncio.get_running_loop().call_later(ASIDE_FOR.total_seconds(), self.notify)

    def merge_fires(self) -> None:
        """Have the latest fire of each schedule stand for those that could not be merged while
        they were under way. Idempotent."""
        with self._file.transaction() as connection:
            spool_table.merge_fires(connection)

    def _remove(self, spooled: Spooled, *, is_refused: bool) -> None:
        with self._file.transaction() as connection:
            spool_table.settle(connection, spooled, is_refused=is_refused)
        if spooled.type == "hello":
            self.hello_received.set()
        elif spooled.type == "job.finished" and spooled.job_id is not None:
            self._rewinds.pop(spooled.job_id, None)

    def _give_back(self, spooled: Spooled) -> None:
        with self._file.transaction() as connection:
            spool_table.give_back(connection, spooled)
        self.claim_given_back.set()
        log.info("job.given_back", extra=fields(job_id=spooled.job_id))

    def _gap_of(self, spooled: Spooled, problem: Problem | None) -> int | None:
        """Tell from which line on the server wants a log again; None when that is not the case."""
        if (
            problem is None
            or problem.type != ProblemType.LOG_GAP
            or problem.expected_seq is None
            or spooled.type not in {"job.log", "job.finished"}
            or spooled.job_id is None
            or self._rewinds[spooled.job_id] >= MAX_REWINDS
        ):
            return None
        return problem.expected_seq

    def _rewind(self, job_id: UUID, expected_seq: int) -> None:
        self._rewinds[job_id] += 1
        filler = LogLine(at=self._now(), stream="agent", text="(a line of the log was lost)")
        with self._file.transaction() as connection:
            lost = spool_table.rewind_log(
                connection, job_id, expected_seq=expected_seq, filler=filler
            )
        log.warning(
            "log.sent_again", extra=fields(job_id=job_id, from_line=expected_seq, lost_lines=lost)
        )
        self.notify()


def _is_given_back(spooled: Spooled, problem: Problem | None) -> bool:
    return (
        spooled.type == "command.ack"
        and spooled.job_id is not None
        and problem is not None
        and problem.type == ProblemType.JOB_WAITS
    )


def _cut_to_size(waiting: Sequence[Spooled]) -> list[Spooled]:
    """Choose from the front what fits; always at least one.

    A hello goes alone: nothing that the server chokes on can keep it from knowing this process.
    """
    if waiting and waiting[0].type == "hello":
        return [waiting[0]]
    chosen: list[Spooled] = []
    size = 0
    for spooled in waiting:
        size += len(spooled.body) + 1
        if chosen and size > MAX_BATCH_BODY_BYTES:
            break
        chosen.append(spooled)
    return chosen


def _log_delivery(spooled: Spooled, receipt: Receipt) -> None:
    if spooled.type == "schedule.fire":
        fire = spool_table.read_fire(spooled)
        log.info(
            "schedule.delivered",
            extra=fields(
                schedule_id=fire.schedule_id, slot=fire.scheduled_at, job_id=receipt.job_id
            ),
        )


def _log_refusal(spooled: Spooled, problem: Problem | None) -> None:
    log.warning(
        "envelope.refused",
        extra=fields(
            type=spooled.type,
            job_id=spooled.job_id,
            schedule_id=spooled.schedule_id,
            problem=problem.type if problem else None,
            detail=problem.detail if problem else None,
        ),
    )
