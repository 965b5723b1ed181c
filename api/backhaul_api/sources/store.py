"""The rows of sources."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import CreateSource, Source, UpdateSource
from backhaul.wire.wording import render_count
from backhaul_api.db.references import build_key
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import schedules, sources
from backhaul_api.errors import ConflictError, NotFoundError
from backhaul_api.ids import new_id


async def insert(connection: AsyncConnection, request: CreateSource, *, now: datetime) -> Source:
    """Insert a source.

    Raises:
        ConflictError: the name is taken.
    """
    await _refuse_taken_name(connection, request.name)
    values = {
        **msgspec.structs.asdict(request),
        "id": new_id(),
        "created_at": now,
        "updated_at": now,
    }
    await connection.execute(sa.insert(sources).values(values))
    return _build(values)


async def fetch(connection: AsyncConnection, reference: str) -> Source:
    """Fetch a source by its name or id.

    Raises:
        NotFoundError: there is none.
    """
    wanted = build_key(reference)
    query = _ONE[isinstance(wanted, UUID)]
    row = (await connection.execute(query, {"wanted": wanted})).mappings().one_or_none()
    if row is None:
        raise NotFoundError("source", reference)
    return _build(row)


async def fetch_some(connection: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, Source]:
    """Fetch sources by their ids."""
    if not ids:
        return {}
    rows = (await connection.execute(_SOME, {"ids": list(ids)})).mappings()
    return {row["id"]: _build(row) for row in rows}


async def fetch_page(connection: AsyncConnection, *, limit: int, after: str | None) -> list[Source]:
    """Fetch sources by name."""
    query = sa.select(sources).order_by(sources.c.name).limit(limit)
    if after is not None:
        query = query.where(sources.c.name > after)
    return [_build(row) for row in (await connection.execute(query)).mappings()]


async def update(
    connection: AsyncConnection, source: Source, request: UpdateSource, *, now: datetime
) -> Source:
    """Change the fields that the request names.

    Raises:
        ConflictError: the new name is taken.
    """
    changes = {
        name: value
        for name, value in msgspec.structs.asdict(request).items()
        if value is not msgspec.UNSET
    }
    if changes.get("name", source.name) != source.name:
        await _refuse_taken_name(connection, changes["name"])
    changes["updated_at"] = now
    await connection.execute(sa.update(sources).where(sources.c.id == source.id).values(changes))
    return msgspec.structs.replace(source, **changes)


async def delete(connection: AsyncConnection, source: Source) -> None:
    """Delete a source.

    Raises:
        ConflictError: a schedule uses it.
    """
    used_by = sa.select(sa.func.count()).where(
        schedules.c.source_id == source.id, schedules.c.deleted_at.is_(None)
    )
    if count := await connection.scalar(used_by):
        raise ConflictError(
            f"Source {source.name!r} is used by {render_count(count, 'schedule')}. Delete or "
            "change what uses it first."
        )
    # Deleted schedules keep their rows for their jobs, but no source.
    await connection.execute(
        sa.update(schedules).where(schedules.c.source_id == source.id).values(source_id=None)
    )
    await connection.execute(sa.delete(sources).where(sources.c.id == source.id))


async def _refuse_taken_name(connection: AsyncConnection, name: str) -> None:
    taken: UUID | None = await connection.scalar(
        sa.select(sources.c.id).where(sources.c.name == name)
    )
    if taken is not None:
        raise ConflictError(f"There is a source {name!r} already. Choose another name.")


def _build(row: Any) -> Source:
    # SQLAlchemy's column names are a kind of str that msgspec does not take for one.
    return msgspec.convert({str(name): value for name, value in row.items()}, Source)


# Built once: every new schedule asks one of the first, every set that a host is sent the last.
_ONE = {
    True: constant(sa.select(sources).where(sources.c.id == sa.bindparam("wanted"))),
    False: constant(sa.select(sources).where(sources.c.name == sa.bindparam("wanted"))),
}
_SOME = constant(sa.select(sources).where(sources.c.id.in_(sa.bindparam("ids", expanding=True))))
