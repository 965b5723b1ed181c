"""Vouching for copies of honest snapshots: what a copy stores in a second repository has no backup
job there, and a forget would set it aside for ever.

A copy keeps everything but the id: the time, the names, and the hash of all files. What equals an
honest snapshot of a repository from which a job has copied says nothing that is not true. One for
each that was copied: any further one with the same time would count in a forget, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.honesty import Doubt
from backhaul.wire.kinds import JobKind
from backhaul_api.db.parts import in_parts
from backhaul_api.db.tables import jobs, repositories, snapshots
from backhaul_api.snapshots import rules
from backhaul_api.snapshots.store import SELECT, mark_vouched

_IDS_AT_ONCE = 1000  # SQLite allows 32766 parameters in a statement; each id makes two


async def vouch_for_copies(
    connection: AsyncConnection, repository_id: UUID, *, now: datetime
) -> None:
    """Vouch for what was copied to a repository from snapshots that are honest now. Idempotent.

    It stays vouched for when the snapshot that it was copied from is gone.
    """
    query = SELECT.where(
        snapshots.c.repository_id == repository_id, snapshots.c.original.is_not(None)
    ).order_by(snapshots.c.id)
    unknown: list[Any] = []
    taken: set[tuple[Any, ...]] = set()
    for row in await connection.execute(query):
        doubt = rules.find_doubt(row, now)
        if doubt is None:
            taken.add(_describe(row))
        elif doubt is Doubt.UNKNOWN and row.tree:
            unknown.append(row)
    if not unknown:
        return
    originals = await _fetch_honest(
        connection, repository_id, {row.original for row in unknown}, now=now
    )
    meant = []
    for row in unknown:
        described = _describe(row)
        if described in originals and described not in taken:
            taken.add(described)
            meant.append(row.id)
    await mark_vouched(connection, repository_id, meant, now=now)


async def _fetch_honest(
    connection: AsyncConnection, repository_id: UUID, ids: Iterable[str], *, now: datetime
) -> set[tuple[Any, ...]]:
    """Describe those of the snapshots that a job can have copied from, and that are honest."""
    was_copied = sa.exists().where(
        jobs.c.repository_id == repositories.c.id,
        jobs.c.kind == JobKind.COPY,
        jobs.c.destination_id == repository_id,
        jobs.c.accepted_at.is_not(None),
    )
    places = (await connection.scalars(sa.select(repositories.c.id).where(was_copied))).all()
    found: set[tuple[Any, ...]] = set()
    for some in in_parts(sorted(ids) if places else (), _IDS_AT_ONCE):
        # What is a copy itself bears the id of the first one, and so does a copy of that.
        query = SELECT.where(
            snapshots.c.repository_id.in_(places),
            sa.or_(snapshots.c.id.in_(some), snapshots.c.original.in_(some)),
        )
        found |= {
            _describe(row)
            for row in await connection.execute(query)
            if rules.find_doubt(row, now) is None
        }
    return found


def _describe(row: Any) -> tuple[Any, ...]:
    first = row.original or row.id
    return (first, row.time, row.hostname, row.tree, tuple(row.paths), tuple(row.tags))
