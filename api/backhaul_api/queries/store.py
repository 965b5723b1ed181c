"""The rows of queries: here while an operator waits, so that any instance may hold the poll and any
other the operator's request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.commands import QueryAnswer
from backhaul.wire.snapshots import QueryArguments
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import queries
from backhaul_api.errors import NotFoundError, RateLimitedError
from backhaul_api.ids import new_id

MAX_WAITING = 16
"""For one host, which answers two at a time: whoever comes after them would wait in vain."""

SENT_AGAIN_AFTER = timedelta(seconds=2)
"""A poll's answer can be lost on its way. An agent that got the query twice answers it once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewQuery:
    """A query that is yet to be asked."""

    host_id: UUID
    repository_id: UUID
    arguments: QueryArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingQuery:
    """A query that its host is yet to be told of."""

    id: UUID
    kind: str
    arguments: Any
    repository_id: UUID
    expires_at: datetime


async def insert(
    connection: AsyncConnection, new: NewQuery, *, now: datetime, expires_at: datetime
) -> UUID:
    """Insert a query, and delete those whose wait ended with the process that served it.

    Raises:
        RateLimitedError: too many wait for this host.
    """
    await connection.execute(sa.delete(queries).where(queries.c.expires_at < now))
    waiting = sa.select(sa.func.count()).where(
        queries.c.host_id == new.host_id, queries.c.answered_at.is_(None)
    )
    if (await connection.scalar(waiting) or 0) >= MAX_WAITING:
        raise RateLimitedError("Too many ask this host at this moment. Try again in a few seconds.")
    query_id = new_id()
    values = {
        "id": query_id,
        "host_id": new.host_id,
        "repository_id": new.repository_id,
        "kind": new.arguments.__struct_config__.tag,
        "arguments": msgspec.to_builtins(new.arguments),
        "created_at": now,
        "expires_at": expires_at,
    }
    await connection.execute(sa.insert(queries).values(values))
    return query_id


async def fetch_due(
    connection: AsyncConnection, host_id: UUID, *, now: datetime
) -> list[WaitingQuery]:
    """Fetch what a host is to be asked, oldest first."""
    rows = await connection.execute(
        _DUE, {"host": host_id, "now": now, "lost": now - SENT_AGAIN_AFTER}
    )
    return [WaitingQuery(**row) for row in rows.mappings()]


async def mark_taken(connection: AsyncConnection, ids: list[UUID], *, now: datetime) -> None:
    """Note that a poll brings these, so that the next one does not as well."""
    await connection.execute(sa.update(queries).where(queries.c.id.in_(ids)).values(taken_at=now))


async def is_answered(connection: AsyncConnection, query_id: UUID, host_id: UUID) -> bool:
    """Tell whether a query that a host was asked has its answer.

    Raises:
        NotFoundError: nobody waits for it, or another host was asked.
    """
    row = (
        await connection.execute(
            sa.select(queries.c.answered_at).where(
                queries.c.id == query_id, queries.c.host_id == host_id
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("query", query_id)
    return row.answered_at is not None


async def save_answer(connection: AsyncConnection, answer: QueryAnswer, *, now: datetime) -> None:
    """Keep an answer until it is handed out."""
    await connection.execute(
        sa.update(queries)
        .where(queries.c.id == answer.query_id)
        .values(answered_at=now, answer=msgspec.json.encode(answer).decode())
    )


async def fetch_answer(connection: AsyncConnection, query_id: UUID) -> QueryAnswer | None:
    """Fetch the answer, or None while there is none."""
    text = await connection.scalar(sa.select(queries.c.answer).where(queries.c.id == query_id))
    return None if text is None else msgspec.json.decode(text, type=QueryAnswer)


async def delete(connection: AsyncConnection, query_id: UUID) -> None:
    """Delete a query: its answer was handed out, or nobody waits any more."""
    await connection.execute(sa.delete(queries).where(queries.c.id == query_id))


_DUE = constant(
    sa.select(
        queries.c.id,
        queries.c.kind,
        queries.c.arguments,
        queries.c.repository_id,
        queries.c.expires_at,
    )
    .where(
        queries.c.host_id == sa.bindparam("host"),
        queries.c.answered_at.is_(None),
        queries.c.expires_at > sa.bindparam("now", type_=queries.c.expires_at.type),
        sa.or_(
            queries.c.taken_at.is_(None),
            queries.c.taken_at < sa.bindparam("lost", type_=queries.c.taken_at.type),
        ),
    )
    .order_by(queries.c.id)
    .limit(MAX_WAITING)
)
