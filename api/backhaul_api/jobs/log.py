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
from backhaul_api.db.tables import job_log
from backhaul_api.errors import LogDeletedError, LogGapError
from backhaul_api.jobs import old_logs, store
from backhaul_api.paging import decode_cursor, encode_cursor

MAX_LINE_LENGTH = 8192
"""Characters of one line that are kept: restic's longest messages are paths, of at most 4 KiB."""

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
        deleted_before: the logs of jobs that ended before then are deleted; None: none is.

    Raises:
        NotFoundError: there is no such job.
        LogDeletedError: its log is no longer there.
        InvalidError: the cursor is not one of a log.
    """
    attempt, seq = decode_cursor(cursor, tuple[_Number, _Number]) if cursor else (0, 0)
    # First the state, then the lines: a job that was over when we looked has all its lines.
    job = await store.fetch(connection, job_id)
    if tail is not None and cursor is None:
        attempt, seq = job.attempt, max(0, job.log_lines - tail)
    has_log = job.log_lines > 0 or job.attempt > 1
    lines_follow = has_log and (attempt, seq) < (job.attempt, job.log_lines)
    if (
        lines_follow
        and deleted_before is not None
        and await old_logs.is_gone(connection, job, ended_before=deleted_before)
    ):
        raise LogDeletedError(job.id)
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
    elif lines_follow and job.log_lines and job.state in TERMINAL_STATES:
        raise LogDeletedError(job.id)  # when the setting was another one
    return JobLogPage(
        lines=lines,
        next_cursor=encode_cursor(attempt, seq),
        state=job.state,
        is_complete=job.state in TERMINAL_STATES and len(rows) <= limit,
    )


def cap(text: str) -> str:
    """Cut a line that is too long, and say so in it."""
    if len(text) <= MAX_LINE_LENGTH:
        return text
    return f"{text[:MAX_LINE_LENGTH]} … [{len(text) - MAX_LINE_LENGTH} more characters cut]"


_INSERT = constant(sa.insert(job_log))
