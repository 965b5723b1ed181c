"""How large repositories are: what each `stats` job measured, kept for good."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import RepositoryGrowth, RepositorySize
from backhaul.wire.kinds import StatsResult
from backhaul_api.db.tables import repository_sizes as sizes
from backhaul_api.ids import new_id

GROWTH_OVER = timedelta(days=30)


async def insert(
    connection: AsyncConnection,
    repository_id: UUID,
    job_id: UUID,
    result: StatsResult,
    *,
    at: datetime,
) -> None:
    """Keep what a job measured; with the end of the job, so that it is kept once."""
    await connection.execute(
        sa.insert(sizes).values(
            id=new_id(),
            repository_id=repository_id,
            job_id=job_id,
            measured_at=at,
            total_size=result.total_size,
            snapshots_count=result.snapshots_count,
            blobs_count=result.blobs_count,
            uncompressed_size=result.uncompressed_size,
            restore_size=result.restore_size,
        )
    )


async def fetch_page(
    connection: AsyncConnection,
    repository_id: UUID,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None,
) -> list[tuple[UUID, RepositorySize]]:
    """Fetch the measurements of a repository, newest first, each with its key."""
    query = (
        sa.select(sizes)
        .where(sizes.c.repository_id == repository_id)
        .order_by(sizes.c.measured_at.desc(), sizes.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        at, id_ = before
        query = query.where(
            sa.or_(sizes.c.measured_at < at, sa.and_(sizes.c.measured_at == at, sizes.c.id < id_))
        )
    return [(row.id, _build(row)) for row in await connection.execute(query)]


async def fetch_newest(
    connection: AsyncConnection, repository_ids: Iterable[UUID]
) -> dict[UUID, tuple[RepositorySize, RepositoryGrowth | None]]:
    """Fetch the newest measurement of each repository, and what it grew by."""
    found = {}
    for repository_id in repository_ids:
        newest = await _fetch_one(connection, repository_id, sizes.c.measured_at.desc())
        if newest is None:
            continue
        long_ago = sizes.c.measured_at <= newest.measured_at - GROWTH_OVER
        older = await _fetch_one(
            connection, repository_id, sizes.c.measured_at.desc(), long_ago
        ) or await _fetch_one(connection, repository_id, sizes.c.measured_at)
        growth = None
        if older is not None and older.id != newest.id:
            growth = RepositoryGrowth(
                bytes=newest.total_size - older.total_size, since=older.measured_at
            )
        found[repository_id] = (_build(newest), growth)
    return found


async def _fetch_one(
    connection: AsyncConnection,
    repository_id: UUID,
    order: sa.ColumnElement[Any],
    *where: sa.ColumnElement[bool],
) -> Any:
    query = sa.select(sizes).where(sizes.c.repository_id == repository_id, *where)
    return (await connection.execute(query.order_by(order).limit(1))).one_or_none()


def _build(row: Any) -> RepositorySize:
    return RepositorySize(
        measured_at=row.measured_at,
        total_size=row.total_size,
        snapshots_count=row.snapshots_count,
        blobs_count=row.blobs_count,
        uncompressed_size=row.uncompressed_size,
        restore_size=row.restore_size,
        job_id=row.job_id,
    )
