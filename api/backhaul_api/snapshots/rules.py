"""Where a snapshot comes from, as far as the server knows. Touches neither HTTP nor SQL."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

from backhaul.wire.honesty import ID_DIGITS, TOLERANCE, Doubt, Origin, judge

_TOLD = re.compile(r"[0-9a-f]{8,64}")


def is_told(snapshot_id: str | None) -> bool:
    """Tell whether a job can have named a snapshot so: 8 digits with restic 0.14, 64 later."""
    return snapshot_id is not None and _TOLD.fullmatch(snapshot_id) is not None


def build_origin(row: Any) -> Origin | None:
    """Build the origin of a snapshot; None when no job has reported it, and nobody vouches for it.

    The row is one of `store.SELECT`. What is vouched for is the snapshot as it was seen then. A job
    vouches for the one snapshot that its result names, made while the job ran: from its claim, by
    the server's clock, to its end, which is never later than the report of it.
    """
    if row.vouched_at is not None:
        return _build(row, since=row.time, until=row.time, hostname=row.hostname)
    if not is_told(row.told) or not row.id.startswith(row.told) or row.job_finished_at is None:
        return None
    return _build(
        row,
        since=(row.job_accepted_at or row.job_created_at) - TOLERANCE,
        until=row.job_finished_at + TOLERANCE,
        hostname="" if row.is_anothers else row.hostname,
    )


def find_doubt(row: Any, now: datetime) -> Doubt | None:
    """Say why a snapshot is not to be counted, or None."""
    return judge(time=row.time, hostname=row.hostname, origin=build_origin(row), now=now)


def _build(row: Any, *, since: datetime, until: datetime, hostname: str) -> Origin:
    return Origin(
        row.id[:ID_DIGITS],
        math.floor(since.timestamp()),
        math.ceil(until.timestamp()),
        hostname,
    )
