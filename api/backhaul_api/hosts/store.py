"""The rows of hosts. A removed one keeps its row: its jobs name it, and its agent must be told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import HostFacts
from backhaul.wire.fleet import Host, ScheduleDrift, UpdateHost
from backhaul.wire.jobs import JobEvent, JobState
from backhaul.wire.schedules import EntryError
from backhaul.wire.wording import render_count
from backhaul_api.db.changes import identity_topic, touch
from backhaul_api.db.references import build_key
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, repositories, schedules
from backhaul_api.errors import ConflictError, NotFoundError
from backhaul_api.identity import AgentIdentity
from backhaul_api.ids import new_id
from backhaul_api.jobs import store as job_rows
from backhaul_api.jobs import turns

"""Parameters of one statement; databases have a limit."""

_IS_PRESENT = hosts.c.removed_at.is_(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHost:
    """A host that is about to join."""

    name: str
    labels: Mapping[str, str]
    facts: HostFacts
    public_key: bytes
    token_hash: bytes
    enrollment_token_id: UUID | None = None


async def find_agent(connection: AsyncConnection, token_hash: bytes) -> AgentIdentity | None:
    """Find the host that an agent token belongs to; removed hosts too."""
    row = (await connection.execute(_AGENT, {"token_hash": token_hash})).one_or_none()
    if row is None:
        return None
    return AgentIdentity(
        host_id=row.id, name=row.name, is_removed=row.removed_at is not None, token_hash=token_hash
    )


async def insert(connection: AsyncConnection, new: NewHost, *, now: datetime) -> UUID:
    """Insert a host.

    Raises:
        ConflictError: the name is taken.
    """
    if await is_name_taken(connection, new.name):
        raise ConflictError(
            f"There is a host {new.name!r} already. Enrol under another name "
            "(backhaul agent enroll --name …), or delete the old host first if this replaces it."
        )
    host_id = new_id()
    await connection.execute(
        _INSERT,
        {
            "id": host_id,
            "name": new.name,
            "labels": dict(new.labels),
            "facts": new.facts,
            "public_key": new.public_key,
            "token_hash": new.token_hash,
            "enrolled_at": now,
            "enrollment_token_id": new.enrollment_token_id,
        },
    )
    return host_id


async def add_token(connection: AsyncConnection, host_id: UUID, *, token_hash: bytes) -> None:
    """Give a host another agent token. The last one stays valid: of two answers that cross, the
    host may have either."""
    await connection.execute(
        sa.update(hosts)
        .where(hosts.c.id == host_id)
        .values(next_token_hash=hosts.c.token_hash, token_hash=token_hash)
    )
    # The token before the last one is good no more, also for whoever remembers it.
    touch(connection, host_id, identity_topic(host_id))


async def fetch(connection: AsyncConnection, reference: str, *, for_update: bool = False) -> Host:
    """Fetch a host by its name or id; removed ones are not found.

    `for_update` keeps others from changing it, or from making jobs for it, until the transaction
    ends.

    Raises:
        NotFoundError: there is none.
    """
    wanted = build_key(reference)
    query = _PRESENT[isinstance(wanted, UUID), for_update]
    row = (await connection.execute(query, {"wanted": wanted})).one_or_none()
    if row is None:
        raise NotFoundError("host", reference)
    return _build(row)


async def fetch_page(
    connection: AsyncConnection,
    *,
    limit: int,
    after: str | None,
    labels: Mapping[str, str],
    condition: sa.ColumnElement[bool] | None = None,
) -> list[Host]:
    """Fetch hosts by name; those that have all of the labels, and fulfil the condition."""
    query = sa.select(hosts).where(_IS_PRESENT).order_by(hosts.c.name).limit(limit)
    for key, value in labels.items():
        query = query.where(_has_label(connection, key, value))
    if condition is not None:
        query = query.where(condition)
    if after is not None:
        query = query.where(hosts.c.name > after)
    return [_build(row) for row in (await connection.execute(query)).all()]


async def update(connection: AsyncConnection, host: Host, request: UpdateHost) -> Host:
    """Change the fields that the request names.

    Raises:
        ConflictError: the new name is taken.
    """
    changes = {
        name: value for name, value in msgspec.structs.asdict(request).items() if value is not UNSET
    }
    name = changes.get("name", host.name)
    if name != host.name and await is_name_taken(connection, name):
        raise ConflictError(f"There is a host {name!r} already. Choose another name.")
    if changes:
        await connection.execute(sa.update(hosts).where(hosts.c.id == host.id).values(changes))
    return msgspec.structs.replace(host, **changes)


async def remove(
    connection: AsyncConnection, host: Host, *, now: datetime, force: bool = False
) -> list[UUID]:
    """Remove a host. Its agent is told so, with a signature, whenever it asks again.

    Its queued jobs are cancelled. With `force`, those that it has begun count as lost: nobody will
    ever report their end.

    Returns:
        The jobs that have ended by it.

    Raises:
        ConflictError: it has schedules, or without `force` jobs that it has begun; or it is the
            upkeep host of a repository.
    """
    # Also waits for those who make a job for it without having locked it: see `password_changes`.
    await connection.execute(sa.select(hosts.c.id).where(hosts.c.id == host.id).with_for_update())
    scheduled = sa.select(sa.func.count()).where(
        schedules.c.host_id == host.id, schedules.c.deleted_at.is_(None)
    )
    if count := await connection.scalar(scheduled):
        raise ConflictError(
            f"Host {host.name!r} has {render_count(count, 'schedule')}. Delete what it is to "
            "do first, then the host."
        )
    kept_up = sa.select(repositories.c.name).where(
        repositories.c.upkeep_host_id == host.id, repositories.c.removed_at.is_(None)
    )
    if names := list(await connection.scalars(kept_up.order_by(repositories.c.name))):
        raise ConflictError(
            f"Host {host.name!r} is the upkeep host of {', '.join(names)}. Name another one there "
            "first."
        )
    ended = await _end_jobs(connection, host, now=now, force=force)
    await connection.execute(sa.update(hosts).where(hosts.c.id == host.id).values(removed_at=now))
    return ended


async def _end_jobs(
    connection: AsyncConnection, host: Host, *, now: datetime, force: bool
) -> list[UUID]:
    active = await job_rows.fetch_active_of_host(connection, host.id)
    begun = sum(job.state is not JobState.QUEUED for job in active)
    if begun and not force:
        raise ConflictError(
            f"Host {host.name!r} has begun {render_count(begun, 'job')} not yet over. Wait. If the "
            "host is gone for good, remove it by force (force=true, or backhaul hosts remove "
            "--force): what it has begun counts as lost then."
        )
    for job in active:
        is_queued = job.state is JobState.QUEUED
        await job_rows.move(
            connection,
            job,
            JobEvent.CANCEL if is_queued else JobEvent.VANISH,
            at=now,
            message="The host was removed before it took the job up."
            if is_queued
            else "The host was removed by force while it had the job.",
        )
    freed = [await turns.find_next(connection, job) for job in active]
    return [*(job.id for job in active), *set[UUID]().union(*freed)]


async def is_name_taken(connection: AsyncConnection, name: str) -> bool:
    """Tell whether a host that was not removed has this name."""
    return await connection.scalar(_NAMED, {"name": name}) is not None


def _has_label(connection: AsyncConnection, key: str, value: str) -> sa.ColumnElement[bool]:
    # Both databases can spread an object into rows of key and value; only the name differs. A JSON
    # path instead would need quoting that differs too.
    is_sqlite = connection.dialect.name == "sqlite"
    spread = sa.func.json_each if is_sqlite else sa.func.jsonb_each_text
    pairs = spread(hosts.c.labels).table_valued("key", "value")
    return sa.exists(
        sa.select(sa.literal(1))
        .select_from(pairs)
        .where(pairs.c.key == key, pairs.c.value == value)
        .correlate(hosts)
    )


def _build(row: Any) -> Host:
    return Host(
        id=row.id,
        name=row.name,
        labels=row.labels,
        facts=msgspec.convert(row.facts, HostFacts),
        public_key_fingerprint=hashlib.sha256(row.public_key).hexdigest(),
        schedule_version=row.schedule_version,
        applied_schedule_version=row.applied_schedule_version,
        enrolled_at=row.enrolled_at,
        last_seen_at=row.last_seen_at,
        last_backup_at=row.last_backup_at,
        drift=_build_drift(row),
    )


def _build_drift(row: Any) -> ScheduleDrift | None:
    is_applied = row.applied_schedule_version == row.schedule_version
    errors = msgspec.convert(row.schedule_errors or (), tuple[EntryError, ...])
    if is_applied and not errors:
        return None
    return ScheduleDrift(
        desired=row.schedule_version,
        applied=row.applied_schedule_version,
        since=None if is_applied else row.schedule_changed_at,
        errors=errors,
    )


# Built once: every request of an agent asks the first, every new job, schedule and host the others.
# Locks let the rows that refer to a host be written: whoever has locked a repository makes jobs for
# hosts that are not its own, and those who lock both begin with the host.
_AGENT = constant(
    sa.select(hosts.c.id, hosts.c.name, hosts.c.removed_at).where(
        sa.or_(
            hosts.c.token_hash == sa.bindparam("token_hash"),
            hosts.c.next_token_hash == sa.bindparam("token_hash"),
        )
    )
)
_BY_ID = sa.select(hosts).where(hosts.c.id == sa.bindparam("wanted"), _IS_PRESENT)
_BY_NAME = sa.select(hosts).where(hosts.c.name == sa.bindparam("wanted"), _IS_PRESENT)
_PRESENT = {
    (True, False): constant(_BY_ID),
    (True, True): constant(_BY_ID.with_for_update(key_share=True)),
    (False, False): constant(_BY_NAME),
    (False, True): constant(_BY_NAME.with_for_update(key_share=True)),
}
_NAMED = constant(sa.select(hosts.c.id).where(hosts.c.name == sa.bindparam("name"), _IS_PRESENT))
_INSERT = constant(sa.insert(hosts))
