"""How large repositories are: what each `stats` job measured, kept for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import RepositoryGrowth, RepositorySize
from backhaul.wire.kinds import StatsResult
from backhaul_api.db.tables import repositories
from backhaul_api.db.tables import repository_sizes as sizes
from backhaul_api.db.types import Moment
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
    connection: AsyncConnection, repository_ids: Sequence[UUID]
) -> dict[UUID, tuple[RepositorySize, RepositoryGrowth | None]]:
    """Fetch the newest measurement of each repository, and what it grew by."""
    newest = await _fetch(connection, _find_ends(repository_ids, sizes.c.measured_at.desc()))
    oldest = await _fetch(connection, _find_ends(newest, sizes.c.measured_at))
    older = await _fetch(
        connection,
        _find_before({id_: row.measured_at - GROWTH_OVER for id_, row in newest.items()}),
    )
    found = {}
    for repository_id, row in newest.items():
        before = older.get(repository_id) or oldest[repository_id]
        growth = None
        if before.id != row.id:
            growth = RepositoryGrowth(
                bytes=row.total_size - before.total_size, since=before.measured_at
            )
        found[repository_id] = (_build(row), growth)
    return found


async def _fetch(
    connection: AsyncConnection, which: sa.Select[tuple[UUID]] | None
) -> dict[UUID, Any]:
    """Fetch measurements, by their repositories."""
    if which is None:
        return {}
    rows = await connection.execute(sa.select(sizes).where(sizes.c.id.in_(which)))
    return {row.repository_id: row for row in rows}


def _find_ends(
    repository_ids: Iterable[UUID], order: sa.ColumnElement[Any]
) -> sa.Select[tuple[UUID]]:
    """Build what finds the first measurement of each repository, in this order."""
    one = (
        sa.select(sizes.c.id)
        .where(sizes.c.repository_id == repositories.c.id)
        .order_by(order)
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(one).where(repositories.c.id.in_(list(repository_ids)))


def _find_before(moments: Mapping[UUID, datetime]) -> sa.Select[tuple[UUID]] | None:
    """Build what finds the last measurement of each repository up to a moment of its own."""
    if not moments:
        return None
    until = (
        sa.values(
            sa.column("repository_id", sa.Uuid()), sa.column("moment", Moment()), name="until"
        )
        .data(list(moments.items()))
        .cte()
    )
    one = (
        sa.select(sizes.c.id)
        .where(
            sizes.c.repository_id == until.c.repository_id, sizes.c.measured_at <= until.c.moment
        )
        .order_by(sizes.c.measured_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(one).select_from(until)


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
