"""When a job is too late, stalled, or tried again. Touches neither HTTP nor SQL."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

import msgspec

from backhaul.wire.jobs import (
    ACTIVE_STATES,
    RETRYABLE,
    TERMINAL_STATES,
    FailureClass,
    Job,
    JobState,
    Progress,
)
from backhaul_api.errors import ConflictError


def build_deadline(created_at: datetime, start_deadline_s: float | None) -> datetime | None:
    """Build the moment after which a job that was not accepted expires."""
    return None if start_deadline_s is None else created_at + timedelta(seconds=start_deadline_s)


def is_overdue(job: Job, now: datetime) -> bool:
    """Tell whether a job has to expire: nobody took it up in time."""
    deadline = job.start_deadline_at
    return job.state is JobState.QUEUED and deadline is not None and deadline < now


def find_stall(job: Job, now: datetime, *, after_s: float) -> datetime | None:
    """Tell since when a job has not got on, if that is too long."""
    if job.state is not JobState.RUNNING or job.progressed_at is None:
        return None
    return job.progressed_at if now - job.progressed_at > timedelta(seconds=after_s) else None


def has_advanced(last: Progress | None, new: Progress) -> bool:
    """Tell whether restic got on between two status lines: that time passed is no progress."""
    if last is None:
        return True
    passing = {"seconds_elapsed": 0, "seconds_remaining": None}
    return msgspec.structs.replace(last, **passing) != msgspec.structs.replace(new, **passing)


RETRY_FACTORS: Mapping[FailureClass, float] = MappingProxyType(
    {
        # Whoever holds the lock needs a while; a prune may need hours.
        FailureClass.LOCKED: 5.0,
    }
)
"""Of the retry delay, by what went wrong; 1 for the rest."""

LONGEST_RETRY_DELAY_S = 3600.0
RETRY_SPREAD = 0.2
"""A storage that was away meets its fleet again; not all at once."""
_random = random.Random()  # noqa: S311 (it spreads, and hides nothing)


def choose_retry(job: Job, failure_class: FailureClass | None, *, delay_s: float) -> float | None:
    """Choose in how many seconds a failed job is tried again; None when it is not."""
    if job.state not in ACTIVE_STATES or job.cancel_requested_at is not None:
        return None
    if failure_class not in RETRYABLE or job.attempt >= job.attempts:
        return None
    pause_s = delay_s * RETRY_FACTORS.get(failure_class, 1.0) * 2.0 ** (job.attempt - 1)
    longest_s = max(LONGEST_RETRY_DELAY_S, delay_s)
    return min(pause_s, longest_s) * _random.uniform(1 - RETRY_SPREAD, 1 + RETRY_SPREAD)


def refuse_over(job: Job) -> None:
    """Refuse to cancel what is over.

    Raises:
        ConflictError: it has ended. A job that is lost may be at work: its host is asked to end it
            when it comes back.
    """
    if job.state in TERMINAL_STATES and job.state is not JobState.LOST:
        raise ConflictError(f"Job {job.id} is over: it is {job.state}. There is nothing to cancel.")
