"""The checks that a repository has passed: which parts of its data they have read.

A check that failed, or was cancelled or lost, has read nothing that anybody could rely on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import Repository
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import JobKind
from backhaul_api.db.tables import jobs
from backhaul_api.repositories import coverage


async def find_last_part(
    connection: AsyncConnection, repository_id: UUID, *, parts: int
) -> str | None:
    """Find the part that was read last, of those into which so many divide the repository."""
    found: str | None = await connection.scalar(build_last_query(repository_id, parts=parts))
    return found


async def note_coverage(
    connection: AsyncConnection, repositories: Sequence[Repository], *, now: datetime
) -> list[Repository]:
    """Note how much of each repository was read lately."""
    reads: dict[UUID, dict[str, int]] = {}
    query = build_reads_query([repository.id for repository in repositories], now=now)
    for row in await connection.execute(query):
        reads.setdefault(row.repository_id, {})[row.part] = row.times
    return [
        msgspec.structs.replace(one, read_coverage=coverage.measure(reads.get(one.id, {})))
        for one in repositories
    ]


def build_last_query(repository_id: UUID, *, parts: int) -> sa.Select[tuple[str]]:
    return (
        sa.select(_PART)
        .where(jobs.c.repository_id == repository_id, *_HAS_PASSED, _PART.endswith(f"/{parts}"))
        .order_by(jobs.c.finished_at.desc(), jobs.c.id.desc())
        .limit(1)
    )


def build_reads_query(
    repository_ids: Sequence[UUID], *, now: datetime
) -> sa.Select[tuple[UUID | None, str, int]]:
    return (
        sa.select(jobs.c.repository_id, _PART.label("part"), sa.func.count().label("times"))
        .where(
            jobs.c.repository_id.in_(repository_ids),
            *_HAS_PASSED,
            jobs.c.finished_at >= now - coverage.WINDOW,
            _PART.is_not(None),
        )
        .group_by(jobs.c.repository_id, _PART)
    )


# That it has an end, too, says only that the index of ends fits.
_HAS_PASSED = (
    jobs.c.kind == JobKind.CHECK,
    jobs.c.state == JobState.SUCCEEDED,
    jobs.c.finished_at.is_not(None),
)
_PART = jobs.c.arguments["read_data_subset"].as_string()
