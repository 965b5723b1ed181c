"""Following a job: which call comes next, and when to stop. Nothing here waits; both clients ask.

The server holds a call until there is news, so a job that does not change costs one request in
20 s, and news arrives at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from uuid import UUID

from backhaul import _calls
from backhaul._calls import Call
from backhaul.errors import JobFailedError, JobNotFinishedError
from backhaul.wire.events import EventPage
from backhaul.wire.jobs import TERMINAL_STATES, Job, JobLogPage, JobState

HOLD_S = 20.0
"""How long the server is asked to hold; it allows 25, and some proxies cut at 30."""

LONGEST_PAUSE_S = 5.0


class Pace:
    """Keeps a server that answers at once, with nothing new, from being asked in a tight loop."""

    def __init__(self) -> None:
        self._empty = 0
        self.pause_s = 0.0

    def note(self, *, is_news: bool, took_s: float) -> None:
        """Take in one answer; sets `pause_s`, to be waited before the next call."""
        came_early = not is_news and took_s < 1.0
        self._empty = self._empty + 1 if came_early else 0
        self.pause_s = min(LONGEST_PAUSE_S, 0.25 * 2**self._empty) if came_early else 0.0


class _Watch:
    """What all that follow have in common: when they asked last, and how long to pause."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._asked_at = monotonic()
        self._pace = Pace()

    @property
    def pause_s(self) -> float:
        """To be waited before the next call."""
        return self._pace.pause_s

    def _note_asking(self) -> None:
        self._asked_at = self._monotonic()

    def _note_answer(self, *, is_news: bool) -> None:
        self._pace.note(is_news=is_news, took_s=self._monotonic() - self._asked_at)


class JobWatch(_Watch):
    """Follows the revisions of a job until it ends."""

    def __init__(
        self,
        job_id: UUID | str,
        *,
        timeout_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_id = job_id
        super().__init__(monotonic)
        self._ends_at = None if timeout_s is None else self._asked_at + timeout_s
        self.job: Job | None = None

    def next_call(self) -> Call[Job] | None:
        """Build the next call; None when the job has ended.

        Raises:
            JobNotFinishedError: the time is over.
        """
        self._note_asking()
        if self.job is None:
            return _calls.get_job(self._job_id)
        if self.job.state in TERMINAL_STATES:
            return None
        left_s = HOLD_S if self._ends_at is None else self._ends_at - self._asked_at
        if left_s <= 0:
            raise JobNotFinishedError(self.job)
        wait_s = min(HOLD_S, float(math.ceil(left_s)))
        return _calls.get_job(self._job_id, after_revision=self.job.revision, wait_s=wait_s)

    def accept(self, job: Job) -> bool:
        """Take in an answer; tells whether it is news."""
        is_news = self.job is None or job.revision > self.job.revision
        self._note_answer(is_news=is_news)
        if is_news:
            self.job = job
        return is_news

    def take_outcome(self, *, raise_on_failure: bool) -> Job:
        """Give the job that has ended.

        Raises:
            JobFailedError: it did not succeed, and that is to be raised.
        """
        if self.job is None:
            raise RuntimeError("the job was never looked at")
        if raise_on_failure and self.job.state is not JobState.SUCCEEDED:
            raise JobFailedError(self.job)
        return self.job


class EventWatch(_Watch):
    """Follows the events: for ever, or (without `is_followed`) to the newest there is.

    `hold_s` may be changed between two calls.
    """

    def __init__(
        self,
        *,
        kinds: Iterable[str] = (),
        host: UUID | str | None = None,
        tail: int | None = None,
        is_followed: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kinds = tuple(kinds)
        self._host = host
        self._tail = tail
        self._is_followed = is_followed
        self.hold_s = HOLD_S
        super().__init__(monotonic)
        self._cursor: str | None = None
        self._is_over = False

    def next_call(self) -> Call[EventPage] | None:
        """Build the next call; None at the end of what is there."""
        self._note_asking()
        if self._is_over:
            return None
        # The first answer comes at once: from its cursor on, nothing is missed.
        wait_s = self.hold_s if self._is_followed and self._cursor is not None else 0.0
        return _calls.get_event_page(
            kinds=self._kinds, host=self._host, cursor=self._cursor, tail=self._tail, wait_s=wait_s
        )

    def accept(self, page: EventPage) -> None:
        """Take in an answer."""
        is_first, self._cursor = self._cursor is None, page.next_cursor
        self._is_over = not (page.has_more or self._is_followed)
        self._note_answer(is_news=is_first or bool(page.items))


class LogWatch(_Watch):
    """Follows the log of a job: to its end, or (without `is_followed`) to what is there now."""

    def __init__(
        self,
        job_id: UUID | str,
        *,
        is_followed: bool,
        tail: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_id = job_id
        self._wait_s = HOLD_S if is_followed else 0.0
        self._is_followed = is_followed
        self._tail = tail
        super().__init__(monotonic)
        self._cursor: str | None = None
        self._is_over = False

    def next_call(self) -> Call[JobLogPage] | None:
        """Build the next call; None at the end of the log."""
        self._note_asking()
        if self._is_over:
            return None
        tail = self._tail if self._cursor is None else None
        return _calls.get_job_log_page(
            self._job_id, cursor=self._cursor, tail=tail, wait_s=self._wait_s
        )

    def accept(self, page: JobLogPage) -> None:
        """Take in an answer."""
        self._cursor = page.next_cursor
        self._is_over = page.is_complete or not (page.lines or self._is_followed)
        if not self._is_over:
            self._note_answer(is_news=bool(page.lines))
