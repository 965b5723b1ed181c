"""The rows of a job's log: append-only, numbered without a gap, each line stored once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.jobs import TERMINAL_STATES, Job, JobLogPage, LogLine, NumberedLogLine
from backhaul_api.db.block import postpone
from backhaul_api.db.rows import build_struct
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import job_log, jobs
from backhaul_api.errors import LogDeletedError, LogGapError
from backhaul_api.ids import first_id_at
from backhaul_api.jobs import store
from backhaul_api.paging import decode_cursor, encode_cursor

MAX_LINE_LENGTH = 8192
"""Characters of one line that are kept: restic's longest messages are paths, of at most 4 KiB."""

MAX_DELETED_AT_ONCE = 2000
"""Lines; SQLite takes some milliseconds for it, in which nobody else has the loop."""

_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


async def append(
    connection: AsyncConnection,
    job: Job,
    *,
    seq: int,
    lines: tuple[LogLine, ...],
    now: datetime,
) -> int:
    """Store those of the lines that are new; `seq` is the number of the first.

    Returns:
        How many were new: none when all were there already.

    Raises:
        LogGapError: lines are missing before the first.
    """
    if seq > job.log_lines:
        raise LogGapError(job.id, expected_seq=job.log_lines, got=seq)
    new = lines[job.log_lines - seq :]
    if not new:
        return 0
    await store.count_lines(connection, job, by=len(new), now=now)
    await postpone(
        connection,
        _INSERT,
        [
            {
                "job_id": job.id,
                "attempt": job.attempt,
                "seq": number,
                "at": line.at,
                "stream": line.stream,
                "text": cap(line.text),
            }
            for number, line in enumerate(new, start=job.log_lines)
        ],
        outlasts_block=False,  # a job whose lines are there already is no trouble of others
    )
    return len(new)


async def fetch_page(
    connection: AsyncConnection,
    job_id: UUID,
    *,
    cursor: str | None,
    limit: int,
    tail: int | None = None,
    deleted_before: datetime | None = None,
) -> JobLogPage:
    """Fetch lines from the cursor on, oldest first; without one, the last `tail` if that is given.

    Args:
        deleted_before: the logs of jobs that ended before then are deleted, or are going to be.

    Raises:
        NotFoundError: there is no such job.
        LogDeletedError: its log is no longer there.
        InvalidError: the cursor is not one of a log.
    """
    attempt, seq = decode_cursor(cursor, tuple[_Number, _Number]) if cursor else (0, 0)
    # First the state, then the lines: a job that was over when we looked has all its lines.
    job = await store.fetch(connection, job_id)
    if deleted_before is not None and _is_over_since(job, deleted_before):
        raise LogDeletedError(job.id)
    if tail is not None and cursor is None:
        attempt, seq = job.attempt, max(0, job.log_lines - tail)
    query = (
        sa.select(job_log)
        .where(
            job_log.c.job_id == job_id,
            # As a row, which both databases look up in the primary key.
            sa.tuple_(job_log.c.attempt, job_log.c.seq)
            >= sa.tuple_(sa.literal(attempt), sa.literal(seq)),
        )
        .order_by(job_log.c.attempt, job_log.c.seq)
        .limit(limit + 1)
    )
    rows = (await connection.execute(query)).all()
    lines = tuple(build_struct(row, NumberedLogLine) for row in rows[:limit])
    if lines:
        attempt, seq = lines[-1].attempt, lines[-1].seq + 1
    elif job.log_lines and (attempt, seq) < (job.attempt, job.log_lines):
        raise LogDeletedError(job.id)  # when the setting was another one
    return JobLogPage(
        lines=lines,
        next_cursor=encode_cursor(attempt, seq),
        state=job.state,
        is_complete=job.state in TERMINAL_STATES and len(rows) <= limit,
    )


def _is_over_since(job: Job, moment: datetime) -> bool:
    """Tell whether a job that has a log ended before a moment."""
    has_log = job.log_lines > 0 or job.attempt > 1
    return has_log and job.finished_at is not None and job.finished_at < moment


async def delete_old(connection: AsyncConnection, *, ended_before: datetime) -> int:
    """Delete lines of jobs that ended before a moment, the oldest jobs first and at most
    `MAX_DELETED_AT_ONCE`; tells how many. What became of the jobs stays.

    How many lines a job has had stays, too: a host that comes back goes on with the number that it
    was told to.
    """
    parameters = {
        # Only what was made before can have ended before. Its lines stand at the beginning of the
        # primary key, so that nobody walks through all that are kept.
        "made_before": first_id_at(ended_before),
        "ended_before": ended_before,
        "limit": MAX_DELETED_AT_ONCE,
    }
    ranges = (await connection.execute(_OLD_RANGES, parameters)).mappings().all()
    if ranges:
        deleted = [{name: row[name] for name in _RANGE} for row in ranges]
        await connection.execute(_DELETE_RANGE, deleted)
    return sum(row["lines"] for row in ranges)


def cap(text: str) -> str:
    """Cut a line that is too long, and say so in it."""
    if len(text) <= MAX_LINE_LENGTH:
        return text
    return f"{text[:MAX_LINE_LENGTH]} … [{len(text) - MAX_LINE_LENGTH} more characters cut]"


_INSERT = constant(sa.insert(job_log))

# Looked up for each line: in a join, a database may begin with the jobs, of which all are kept.
_ENDED_AT = sa.select(jobs.c.finished_at).where(jobs.c.id == job_log.c.job_id).scalar_subquery()
_OLD_LINES = (
    sa.select(*job_log.primary_key.columns)
    .where(
        job_log.c.job_id < sa.bindparam("made_before", type_=sa.Uuid()),
        sa.bindparam("ended_before", type_=job_log.c.at.type) > _ENDED_AT,
    )
    .order_by(*job_log.primary_key.columns)
    .limit(sa.bindparam("limit", type_=sa.Integer()))
    # Of several who tick at once, each takes lines of its own, and nobody waits.
    .with_for_update(skip_locked=True, of=job_log)
    .subquery("old")
)
_RANGE = ("of_job", "of_attempt", "first", "last")
_OLD_RANGES = constant(
    sa.select(
        _OLD_LINES.c.job_id.label("of_job"),
        _OLD_LINES.c.attempt.label("of_attempt"),
        sa.func.min(_OLD_LINES.c.seq).label("first"),
        sa.func.max(_OLD_LINES.c.seq).label("last"),
        sa.func.count().label("lines"),
    ).group_by(_OLD_LINES.c.job_id, _OLD_LINES.c.attempt)
)
_DELETE_RANGE = constant(
    sa.delete(job_log).where(
        job_log.c.job_id == sa.bindparam("of_job"),
        job_log.c.attempt == sa.bindparam("of_attempt"),
        job_log.c.seq.between(sa.bindparam("first"), sa.bindparam("last")),
    )
)
