"""The logs of jobs that ended long ago: deleted whole, those of the oldest jobs first.

A log counts as gone from its moment on, wherever it is read; that it stays costs space only. What
became of the job stays for good: fires are told apart, and snapshots are trusted, by jobs. So does
the number of its lines: a host that comes back goes on with the one that it was told to.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.jobs import TERMINAL_STATES, Job
from backhaul_api.db.block import execute_long
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import job_events, job_log, jobs
from backhaul_api.ids import first_id_at

MAX_JOBS = 100
"""In one transaction, like the lines."""
MAX_LINES = 5000
"""As an estimate, and at least those of one job: an agent sends 20,000 at most."""


class Deleted(NamedTuple):
    lines: int
    has_more: bool


async def delete(connection: AsyncConnection, *, ended_before: datetime) -> Deleted:
    """Delete the logs of some jobs that ended before a moment."""
    parameters = {
        # What was made later ends later. The id of a fire's job may be ahead by what clocks are:
        # its log is deleted by so much later.
        "made_before": first_id_at(ended_before),
        "ended_before": ended_before,
        "limit": MAX_JOBS,
    }
    found = (await connection.execute(_OLD, parameters)).all()
    chosen: list[UUID] = []
    lines = 0
    for job_id, log_lines in found:
        if chosen and lines + log_lines > MAX_LINES:
            break
        chosen.append(job_id)
        lines += log_lines
    if not chosen:
        return Deleted(lines=0, has_more=False)
    deleted = await execute_long(connection, _DELETE, {"ids": chosen})
    has_more = len(chosen) < len(found) or len(found) == MAX_JOBS
    return Deleted(lines=deleted.rowcount, has_more=has_more)


async def is_gone(connection: AsyncConnection, job: Job, *, ended_before: datetime) -> bool:
    """Tell whether the log of a job is deleted, or going to be."""
    if job.state not in TERMINAL_STATES or job.finished_at is None:
        return False
    if job.finished_at >= ended_before:
        return False  # most are: the host's own time of the end is before ours
    ended_at = await connection.scalar(_ENDED, {"job_id": job.id})
    return bool((ended_at or job.finished_at) < ended_before)


# When the server heard of the end. A host may tell it weeks after, and its log is new then.
_heard_at = sa.select(sa.func.max(job_events.c.at))
_ENDED = constant(_heard_at.where(job_events.c.job_id == sa.bindparam("job_id")))

# From one job with a log to the next, without a look at all of its lines.
_made_before = sa.bindparam("made_before", type_=sa.Uuid())
_first = sa.select(job_log.c.job_id).where(job_log.c.job_id < _made_before)
_first = _first.order_by(job_log.c.job_id).limit(1)
_walked = sa.select(_first.scalar_subquery().label("job_id")).cte("walked", recursive=True)
_next = _first.where(job_log.c.job_id > _walked.c.job_id).correlate(_walked).scalar_subquery()
_walked = _walked.union_all(sa.select(_next).where(_walked.c.job_id.is_not(None)))

_OLD = constant(
    sa.select(jobs.c.id, jobs.c.log_lines)
    .select_from(_walked.join(jobs, jobs.c.id == _walked.c.job_id))
    .where(
        jobs.c.state.in_(sorted(TERMINAL_STATES)),
        sa.func.coalesce(
            _heard_at.where(job_events.c.job_id == jobs.c.id).scalar_subquery(), jobs.c.finished_at
        )
        < sa.bindparam("ended_before", type_=jobs.c.finished_at.type),
    )
    .limit(sa.bindparam("limit", type_=sa.Integer()))
    # Of several who tick at once, each takes jobs of its own, and nobody waits. Whoever adds a line
    # to one of them need not wait either.
    .with_for_update(skip_locked=True, key_share=True, of=jobs)
)
_DELETE = constant(
    sa.delete(job_log).where(job_log.c.job_id.in_(sa.bindparam("ids", expanding=True)))
)
