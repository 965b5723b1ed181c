"""The rows of events, written in the transaction of the change that they tell of.

The order is (transaction, id). On PostgreSQL, ids are given before transactions commit, so a reader
who only remembered the greatest id would miss what an earlier transaction commits later. A row is
shown once every transaction up to its own is over: `transaction_id < pg_snapshot_xmin(…)`. What
commits from then on comes after it. SQLite has one writer, and its rows all have transaction 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.events import Event
from backhaul.wire.jobs import Job
from backhaul_api.db.block import postpone
from backhaul_api.db.changes import EVENTS, touch
from backhaul_api.db.rows import build_struct
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import events
from backhaul_api.db.transactions import CURRENT_TRANSACTION, NEXT_TRANSACTION, OLDEST_RUNNING
from backhaul_api.identity import Actor

KEPT_FOR = timedelta(days=30)
"""Then a tick deletes the row."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Between two events: after the one that this names."""

    transaction_id: int
    id: int


BEGINNING = Position(-1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which events a reader wants. Empty means all."""

    kinds: tuple[str, ...] = ()
    host_id: UUID | None = None


async def append_change(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    *,
    at: datetime,
    target_kind: str | None,
    target_id: UUID | None,
    target: str | None,
) -> None:
    """Write that somebody changed something."""
    host = {"host_id": target_id, "host": target} if target_kind == "host" else {}
    values = {"actor": actor.name, "target_id": target_id, "target": target, **host}
    await _append(connection, action, at, values)


async def append_job(
    connection: AsyncConnection, job: Job, what: str, *, at: datetime, message: str | None
) -> None:
    """Write what became of a job: the state that it came to, or that it is to be cancelled."""
    values = {
        "host_id": job.host_id,
        "host": job.host,
        "job_id": job.id,
        "job_kind": job.kind,
        "message": message,
    }
    await _append(connection, f"job.{what}", at, values)


async def append_queued(
    connection: AsyncConnection,
    jobs: Sequence[Mapping[str, Any]],
    *,
    host_names: Mapping[UUID, str],
    operators: Mapping[UUID | None, str],
    at: datetime,
) -> None:
    """Write that jobs were made, of whose rows these are; and who wanted them, if it was one of the
    operators."""
    rows = [
        {
            **dict.fromkeys(_VALUES),
            "kind": f"job.{job['state']}",
            "at": at,
            "actor": operators.get(job["actor_id"]),
            "host_id": job["host_id"],
            "host": host_names[job["host_id"]],
            "job_id": job["id"],
            "job_kind": job["kind"],
        }
        for job in jobs
    ]
    await postpone(connection, _INSERTS[connection.dialect.name], rows)
    touch(connection, EVENTS)


async def _append(
    connection: AsyncConnection, kind: str, at: datetime, values: dict[str, Any]
) -> None:
    values = {**dict.fromkeys(_VALUES), **values, "kind": kind, "at": at}
    await postpone(connection, _INSERTS[connection.dialect.name], [values])
    touch(connection, EVENTS)


async def fetch_end(connection: AsyncConnection) -> Position:
    """Fetch the position after the newest event that is to be shown now."""
    query = _only_settled(
        connection, sa.select(events.c.transaction_id, events.c.id).order_by(*_NEWEST_FIRST)
    )
    row = (await connection.execute(query.limit(1))).one_or_none()
    return BEGINNING if row is None else Position(row.transaction_id, row.id)


async def find_tail(
    connection: AsyncConnection, filters: Filters, *, end: Position, count: int
) -> Position:
    """Find the position before the last so many events."""
    if count == 0:
        return end
    query = _filtered(
        sa.select(events.c.transaction_id, events.c.id).where(_as_row(end) >= _ORDER), filters
    )
    rows = await connection.execute(query.order_by(*_NEWEST_FIRST).offset(count).limit(1))
    row = rows.one_or_none()
    return BEGINNING if row is None else Position(row.transaction_id, row.id)


async def fetch_between(
    connection: AsyncConnection, filters: Filters, *, after: Position, end: Position, limit: int
) -> list[tuple[Position, Event]]:
    """Fetch events after one position up to another, oldest first."""
    query = _filtered(
        sa.select(events).where(_as_row(after) < _ORDER, _as_row(end) >= _ORDER), filters
    ).order_by(events.c.transaction_id, events.c.id)
    rows = await connection.execute(query.limit(limit))
    return [(Position(row.transaction_id, row.id), build_struct(row, Event)) for row in rows]


async def settle(connection: AsyncConnection) -> None:
    """Make what a database brought along from another PostgreSQL server older than all that is yet
    to come: transactions count anew there."""
    if connection.dialect.name == "postgresql":
        await connection.execute(
            sa.update(events)
            .where(events.c.transaction_id > CURRENT_TRANSACTION)
            .values(transaction_id=0)
        )


async def find_start(connection: AsyncConnection, after: Position) -> Position:
    """Give where to go on after a position that may be of a database as it was before it was
    restored from a backup: there, what happens now can come before that position."""
    if connection.dialect.name == "postgresql":
        newest = await connection.scalar(sa.select(NEXT_TRANSACTION))
        if after.transaction_id >= (newest or 0):
            return Position(0, after.id)
        return after
    return min(after, await fetch_end(connection))


def _filtered(query: sa.Select[Any], filters: Filters) -> sa.Select[Any]:
    if filters.kinds:
        query = query.where(sa.or_(*_match_kinds(filters.kinds)))
    if filters.host_id is not None:
        query = query.where(events.c.host_id == filters.host_id)
    return query


def _match_kinds(kinds: Iterable[str]) -> Iterable[sa.ColumnElement[bool]]:
    for kind in kinds:
        # `job` stands for all of them.
        is_whole = "." in kind
        yield (
            events.c.kind == kind
            if is_whole
            else events.c.kind.startswith(f"{kind}.", autoescape=True)
        )


def _only_settled(connection: AsyncConnection, query: sa.Select[Any]) -> sa.Select[Any]:
    if connection.dialect.name != "postgresql":
        return query
    return query.where(events.c.transaction_id < OLDEST_RUNNING)


def _as_row(position: Position) -> sa.Tuple:
    return sa.tuple_(sa.literal(position.transaction_id), sa.literal(position.id))


_ORDER = sa.tuple_(events.c.transaction_id, events.c.id)
_NEWEST_FIRST = (events.c.transaction_id.desc(), events.c.id.desc())

_VALUES = ("actor", "host_id", "host", "job_id", "job_kind", "target_id", "target", "message")
_INSERTS = {
    # Nobody asks for the ids, so no database need tell them.
    "sqlite": constant(sa.insert(events).inline()),
    "postgresql": constant(sa.insert(events).values(transaction_id=CURRENT_TRANSACTION).inline()),
}
