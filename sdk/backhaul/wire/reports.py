"""Reports: what an agent says about a job that it runs.

Per job they come in this order: `job.started`, then `job.progress` and `job.log` as they happen,
then `job.finished`. All may be repeated.
"""

from __future__ import annotations

from uuid import UUID

from backhaul.wire.base import Instant, Wire
from backhaul.wire.jobs import FailureClass, LogLine, Outcome, Progress
from backhaul.wire.kinds import Result


class JobStarted(Wire, frozen=True, kw_only=True, tag_field="type", tag="job.started"):
    """restic is about to start. Natural key: (job, attempt)."""

    job_id: UUID
    attempt: int
    at: Instant


class JobProgress(Wire, frozen=True, kw_only=True, tag_field="type", tag="job.progress"):
    """How far restic is; the newest replaces the others, so it is sent but never spooled."""

    job_id: UUID
    attempt: int
    at: Instant
    progress: Progress


class JobLog(Wire, frozen=True, kw_only=True, tag_field="type", tag="job.log"):
    """A stretch of the log. Natural key of a line: (job, attempt, seq)."""

    job_id: UUID
    attempt: int
    seq: int
    """The number of the first line; the others follow without a gap. Counts from 0."""
    lines: tuple[LogLine, ...]


class JobFinished(Wire, frozen=True, kw_only=True, tag_field="type", tag="job.finished"):
    """The job ended on the host. Natural key: (job, attempt)."""

    job_id: UUID
    attempt: int
    at: Instant
    outcome: Outcome
    log_lines: int
    """How many lines the log has in all; the server takes the end only after the last of them."""
    exit_code: int | None = None
    """restic's; negative when a signal ended it; None when restic did not run."""
    failure_class: FailureClass | None = None
    message: str | None = None
    """One or a few lines for people: what went wrong and what to do."""
    result: Result | None = None
