"""The rows of schedules, and the version by which each host follows them.

Every change moves the version of its host in the same transaction; so does a change of what the
host was told with the schedule: its source, or the credentials of its repository. All such changes
take turns; only those that make schedules share one. Locks on rows alone could not keep them apart
without deadlocks: a batch of an agent holds its host and wants schedules and repositories, where
these begin with a source or a repository and end with the hosts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import CopyOptions, DrillOptions, ScheduleOptions
from backhaul.wire.schedules import Schedule, ScheduleKind
from backhaul.wire.wording import render_count
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, repositories, schedules, sources
from backhaul_api.errors import ConflictError, NotFoundError, PreconditionFailedError
from backhaul_api.schedules.next_fires import NEXT_FIRES
from backhaul_api.sources.rules import has_keep_rule

_NAMES = ("host", "repository", "source", "destination", "of_host", "next_fire_at", "error")
"""Fields of a schedule that are no columns of its row."""

_UNSEEN = {"deleted_at", "past_repository_ids"}
"""Columns of its row that are no fields of a schedule."""

_TURN = 0x6261636B  # PostgreSQL's advisory locks have numbers for names; this one is ours


async def take_turn(connection: AsyncConnection) -> None:
    """Wait until no other change of schedules, or of what they use, is under way.

    To be called first in the transaction, at whose end the next one's turn comes. Every writer of
    SQLite waits for its turn anyway.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(_TAKE_TURN)


async def share_turn(connection: AsyncConnection) -> None:
    """Wait as in `take_turn`, but for nobody who shares a turn.

    For whoever then locks one host and makes its schedules: nobody else can be changing those. And
    for whoever locks several: the others lock some while they have one already.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(_SHARE_TURN)


async def insert(connection: AsyncConnection, schedule: Schedule) -> None:
    """Insert a schedule and move its host's version."""
    await connection.execute(_INSERT, _columns(schedule))
    moved = {"host": schedule.host_id, "now": schedule.created_at}
    await connection.execute(_MOVE_VERSION_OF_HOST, moved)


async def fetch(connection: AsyncConnection, schedule_id: UUID, *, now: datetime) -> Schedule:
    """Fetch a schedule.

    Raises:
        NotFoundError: there is none, or it was deleted.
    """
    row = (await connection.execute(_ONE, {"wanted": schedule_id})).mappings().one_or_none()
    if row is None:
        raise NotFoundError("schedule", schedule_id)
    return (await _name_options(connection, [_build(row, now)]))[0]


async def fetch_page(
    connection: AsyncConnection,
    *,
    host_id: UUID | None,
    limit: int,
    after: UUID | None,
    now: datetime,
) -> list[Schedule]:
    """Fetch schedules, oldest first."""
    query = _SELECT.order_by(schedules.c.id).limit(limit)
    if host_id is not None:
        query = query.where(schedules.c.host_id == host_id)
    if after is not None:
        query = query.where(schedules.c.id > after)
    found = [_build(row, now) for row in (await connection.execute(query)).mappings()]
    return await _name_options(connection, found)


async def fetch_enabled(
    connection: AsyncConnection, host_ids: Iterable[UUID], *, now: datetime
) -> list[Schedule]:
    """Fetch the schedules of some hosts that fire."""
    query = _SELECT.where(schedules.c.host_id.in_(list(host_ids)), schedules.c.enabled)
    return [_build(row, now) for row in (await connection.execute(query)).mappings()]


async def update(connection: AsyncConnection, schedule: Schedule, *, seen_revision: int) -> None:
    """Replace a schedule's row and move its host's version.

    Raises:
        PreconditionFailedError: somebody changed it since it was read.
    """
    changed = await connection.execute(
        sa.update(schedules)
        .where(schedules.c.id == schedule.id, schedules.c.revision == seen_revision)
        .values({**_columns(schedule), **await _note_repository(connection, schedule)})
    )
    if changed.rowcount != 1:
        raise PreconditionFailedError("schedule", schedule.id)
    await move_version(connection, schedules.c.id == schedule.id, now=schedule.updated_at)


async def _note_repository(connection: AsyncConnection, schedule: Schedule) -> dict[str, Any]:
    """Keep the repository that a schedule leaves: a host that is cut off may go on using it."""
    query = sa.select(schedules.c.repository_id, schedules.c.past_repository_ids)
    row = (await connection.execute(query.where(schedules.c.id == schedule.id))).one()
    if row.repository_id == schedule.repository_id:
        return {}
    past = [*(row.past_repository_ids or []), str(row.repository_id)]
    return {"past_repository_ids": list(dict.fromkeys(past))}


async def delete(connection: AsyncConnection, schedule: Schedule, *, now: datetime) -> None:
    """Mark a schedule as deleted and move its host's version; late fires still find the row.

    Raises:
        PreconditionFailedError: somebody changed it since it was read.
    """
    await move_version(connection, schedules.c.id == schedule.id, now=now)
    changed = await connection.execute(
        sa.update(schedules)
        .where(
            schedules.c.id == schedule.id,
            schedules.c.revision == schedule.revision,
            schedules.c.deleted_at.is_(None),
        )
        .values(deleted_at=now, updated_at=now, revision=schedules.c.revision + 1)
    )
    if changed.rowcount != 1:
        raise PreconditionFailedError("schedule", schedule.id)


async def move_version(
    connection: AsyncConnection, which: sa.ColumnElement[bool], *, now: datetime
) -> list[UUID]:
    """Move the version of every host that has such a schedule.

    Returns:
        The hosts, to be woken after the commit.
    """
    concerned = sa.select(schedules.c.host_id).where(which, schedules.c.deleted_at.is_(None))
    moved = await connection.execute(
        sa.update(hosts)
        .where(hosts.c.id.in_(concerned))
        .values(schedule_version=hosts.c.schedule_version + 1, schedule_changed_at=now)
        .returning(hosts.c.id)
    )
    return list(moved.scalars())


async def lock_hosts(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> None:
    """Lock the hosts that have such a schedule: for whoever locks a repository too, hosts first."""
    concerned = sa.select(schedules.c.host_id).where(which, schedules.c.deleted_at.is_(None))
    await connection.execute(
        sa.select(hosts.c.id)
        .where(hosts.c.id.in_(concerned))
        .order_by(hosts.c.id)
        .with_for_update(key_share=True)
    )


async def refuse_lost_keep_rule(connection: AsyncConnection, source: Source) -> None:
    """Refuse a source without a keep rule when schedules forget by it.

    Raises:
        ConflictError: it has none, and they do.
    """
    if has_keep_rule(source.retention):
        return
    query = sa.select(sa.func.count()).where(
        uses_source(source.id),
        schedules.c.kind == ScheduleKind.FORGET,
        schedules.c.deleted_at.is_(None),
    )
    if count := await connection.scalar(query):
        raise ConflictError(
            f"The retention of source {source.name!r} is used to forget snapshots by "
            f"{render_count(count, 'schedule')}, and without a keep rule all of them would go. "
            "Leave at least one keep rule, or delete what forgets by it first."
        )


def uses_source(source_id: UUID) -> sa.ColumnElement[bool]:
    """Build the condition for `move_version` after a change of a source."""
    return schedules.c.source_id == source_id


def carries_credentials(repository_id: UUID) -> sa.ColumnElement[bool]:
    """Build the condition for `move_version` after a change of a repository: with these schedules
    the hosts were given what opens it."""
    return sa.and_(schedules.c.repository_id == repository_id, runs_alone())


def runs_alone() -> sa.ColumnElement[bool]:
    """Build the condition for the schedules whose hosts were given what runs them alone."""
    return sa.and_(schedules.c.enabled, schedules.c.when_unreachable == "run")


async def _name_options(connection: AsyncConnection, found: list[Schedule]) -> list[Schedule]:
    """Add the names of what options name by ids."""
    named = [msgspec.structs.replace(one, **_find_named(one.options)) for one in found]
    names: dict[str | None, str] = {}
    for table, field in ((repositories, "destination"), (hosts, "of_host")):
        wanted = {UUID(id_) for one in named if (id_ := getattr(one, field)) is not None}
        if wanted:
            query = sa.select(table.c.id, table.c.name).where(table.c.id.in_(wanted))
            names |= {str(row.id): row.name for row in await connection.execute(query)}
    return [
        msgspec.structs.replace(
            one, destination=names.get(one.destination), of_host=names.get(one.of_host)
        )
        for one in named
    ]


def _find_named(options: ScheduleOptions | None) -> dict[str, str | None]:
    match options:
        case CopyOptions():
            return {"destination": options.destination}
        case DrillOptions():
            return {"of_host": options.of_host}
        case _:
            return {}


def _columns(schedule: Schedule) -> dict[str, Any]:
    fields = msgspec.structs.asdict(schedule)
    return {name: value for name, value in fields.items() if name not in _NAMES}


_SELECT = (
    sa.select(
        *(column for column in schedules.c if column.name not in _UNSEEN),
        hosts.c.name.label("host"),
        hosts.c.schedule_errors,
        repositories.c.name.label("repository"),
        sources.c.name.label("source"),
    )
    .select_from(
        schedules.join(hosts, schedules.c.host_id == hosts.c.id)
        .join(repositories, schedules.c.repository_id == repositories.c.id)
        .outerjoin(sources, schedules.c.source_id == sources.c.id)
    )
    .where(schedules.c.deleted_at.is_(None))
)

# Built once: a fleet gets its schedules by the thousand.
_TAKE_TURN = constant(sa.select(sa.func.pg_advisory_xact_lock(_TURN)))
_SHARE_TURN = constant(sa.select(sa.func.pg_advisory_xact_lock_shared(_TURN)))
_ONE = constant(_SELECT.where(schedules.c.id == sa.bindparam("wanted")))
_INSERT = constant(sa.insert(schedules))
_MOVE_VERSION_OF_HOST = constant(
    sa.update(hosts)
    .where(hosts.c.id == sa.bindparam("host"))
    .values(schedule_version=hosts.c.schedule_version + 1, schedule_changed_at=sa.bindparam("now"))
)


def _build(row: Any, now: datetime) -> Schedule:
    # SQLAlchemy's column names are a kind of str that msgspec does not take for one.
    fields = {str(name): value for name, value in row.items()}
    errors = fields.pop("schedule_errors") or []
    schedule_id = str(fields["id"])
    error = next((e["message"] for e in errors if e["schedule_id"] == schedule_id), None)
    schedule = msgspec.convert({**fields, "next_fire_at": None, "error": error}, Schedule)
    return msgspec.structs.replace(schedule, next_fire_at=NEXT_FIRES.find(schedule, now))
