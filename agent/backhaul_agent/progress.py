"""Thins restic's progress out: at most one report in an interval, and always the last one."""

from __future__ import annotations

from uuid import UUID

import msgspec

from backhaul.wire.jobs import Progress
from backhaul.wire.reports import JobProgress
from backhaul_agent.clock import Clock
from backhaul_agent.redact import Redactor
from backhaul_agent.spool import Spool

INTERVAL_S = 1.0


class ProgressGate:
    """Lets the newest progress of one job through, now and then."""

    def __init__(
        self, job_id: UUID, *, attempt: int, spool: Spool, clock: Clock, redactor: Redactor
    ) -> None:
        self._job_id = job_id
        self._attempt = attempt
        self._spool = spool
        self._clock = clock
        self._redactor = redactor
        self._last_s: float | None = None
        self._held_back: Progress | None = None

    def offer(self, progress: Progress) -> None:
        now_s = self._clock.monotonic()
        self._held_back = progress
        if self._last_s is None or now_s - self._last_s >= INTERVAL_S:
            self._last_s = now_s
            self.flush()

    def flush(self) -> None:
        """Let the last one through, at once."""
        progress, self._held_back = self._held_back, None
        if progress is None:
            return
        files = tuple(map(self._redactor.redact, progress.current_files))
        self._spool.offer_progress(
            JobProgress(
                job_id=self._job_id,
                attempt=self._attempt,
                at=self._clock.now(),
                progress=msgspec.structs.replace(progress, current_files=files),
            )
        )
