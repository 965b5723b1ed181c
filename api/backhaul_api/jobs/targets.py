"""What a job is for: the host and the repository that an operator names, and their objections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds import JobKind
from backhaul_api.db.parts import in_parts
from backhaul_api.db.references import build_key, matches_reference
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, repositories, schedules, snapshots
from backhaul_api.errors import ConflictError, InvalidError, NotFoundError
from backhaul_api.jobs import store
from backhaul_api.names import named_in

_KEYS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class TargetHost:
    """The host of a new job, kept from being removed until the transaction ends."""

    id: UUID
    name: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class TargetRepository:
    """The repository of a new job, kept from changing until the transaction ends."""

    id: UUID
    name: str
    initialized_at: datetime | None
    upkeep_host: str | None
    """Its name."""
    updated_at: datetime


async def find_host(connection: AsyncConnection, reference: str) -> UUID:
    """Find a host by its name or id; removed hosts too, for their jobs are still there.

    Raises:
        NotFoundError: there is none.
    """
    return await _find(connection, hosts, "host", reference)


async def find_repository(connection: AsyncConnection, reference: str) -> UUID:
    """Find a repository by its name or id, removed ones too.

    Raises:
        NotFoundError: there is none.
    """
    return await _find(connection, repositories, "repository", reference)


async def find_schedule(connection: AsyncConnection, schedule_id: UUID) -> UUID:
    """Find a schedule; deleted ones too, for their jobs are still there.

    Raises:
        NotFoundError: there is none.
    """
    query = sa.select(schedules.c.id).where(schedules.c.id == schedule_id)
    if await connection.scalar(query) is None:
        raise NotFoundError("schedule", schedule_id)
    return schedule_id


async def fetch_present_hosts(
    connection: AsyncConnection, keys: Iterable[UUID | str]
) -> dict[UUID | str, TargetHost]:
    """Fetch and lock those of the hosts that there are, each by an id or a name: see `build_key`.
    Gives each by both."""
    wanted = set(keys)
    ids = {key for key in wanted if isinstance(key, UUID)}
    rows: list[Any] = []
    for names in in_parts((key for key in wanted if isinstance(key, str)), _KEYS_AT_ONCE):
        rows += await connection.execute(_NAMED_HOSTS, {"names": names})
    if connection.dialect.name == "postgresql":
        # In one order, so that two who want several cannot wait for each other. SQLite has one
        # writer.
        ids.update(row.id for row in rows)
        rows.clear()
    for some in in_parts(sorted(ids), _KEYS_AT_ONCE):
        rows += await connection.execute(_PRESENT_HOSTS, {"ids": some})
    found: dict[UUID | str, TargetHost] = {}
    for row in rows:
        host = TargetHost(row.id, row.name, row.public_key)
        found[host.id] = found[host.name] = host
    return found


async def fetch_present_repository(
    connection: AsyncConnection, reference: str, *, is_shared: bool = False
) -> TargetRepository:
    """Fetch a repository that can be given a job, and lock it, so that two cannot both be first;
    `is_shared` locks it against changes alone.

    Raises:
        NotFoundError: there is none, or it was removed.
    """
    queries = _SHARED if is_shared else _PRESENT
    return _build_repository(await _fetch_present(connection, queries, "repository", reference))


def _build_repository(row: Any) -> TargetRepository:
    return TargetRepository(
        id=row.id,
        name=row.name,
        initialized_at=row.initialized_at,
        upkeep_host=row.upkeep_host,
        updated_at=row.updated_at,
    )


async def fetch_targets(
    connection: AsyncConnection, *, host: str, repository: str, is_one_at_a_time: bool
) -> tuple[TargetHost, TargetRepository]:
    """Fetch what a job is for, and keep both from being changed or removed until the transaction
    ends; where jobs are to be made one at a time, also others from making such jobs.

    Raises:
        InvalidError: one of them does not exist, or was removed.
    """
    if not is_one_at_a_time:
        host_key, key = build_key(host), build_key(repository)
        query = _BOTH[isinstance(host_key, UUID), isinstance(key, UUID)]
        wanted = {"wanted_host": host_key, "wanted_repository": key}
        row = (await connection.execute(query, wanted)).one_or_none()
        if row is not None:
            return TargetHost(row.host_id, row.host, row.public_key), _build_repository(row)
    with named_in("host"):
        row = await _fetch_present(connection, _SHARED_HOST, "host", host)
    with named_in("repository"):
        # Never more than is locked already: two who both wanted more would wait for each other.
        found = await fetch_present_repository(
            connection, repository, is_shared=not is_one_at_a_time
        )
    return TargetHost(row.id, row.name, row.public_key), found


async def refuse_second_init(connection: AsyncConnection, repository: TargetRepository) -> None:
    """Refuse to initialise what exists: an unreachable mount looks like an empty one.

    Raises:
        ConflictError: the repository is known to exist, or is being initialised.
    """
    if repository.initialized_at is not None:
        raise ConflictError(
            f"Repository {repository.name!r} is known to exist since "
            f"{repository.initialized_at:%Y-%m-%d %H:%M} UTC; initialising it again could only do "
            "harm. For a new repository, create another record."
        )
    active = await store.find_active(connection, repository.id, JobKind.INIT)
    if active is not None:
        raise ConflictError(
            f"Repository {repository.name!r} is being initialised by job {active}. Wait for it."
        )


async def refuse_ambiguous_snapshot(
    connection: AsyncConnection,
    repository: TargetRepository,
    snapshot: str,
    *,
    field: str = "snapshot",
) -> None:
    """Refuse a short id that stands for several of the repository's snapshots.

    Raises:
        InvalidError: it does.
    """
    query = sa.select(sa.func.count()).where(
        snapshots.c.repository_id == repository.id, snapshots.c.id.startswith(snapshot)
    )
    if (await connection.scalar(query) or 0) > 1:
        raise InvalidError.of(field, "stands for several snapshots; write more of its digits")


async def _fetch_present(
    connection: AsyncConnection,
    queries: Mapping[bool, sa.Select[Any]],
    what: str,
    reference: str,
) -> Any:
    """Fetch the row of a name or an id; the queries are by whether it is an id."""
    wanted = build_key(reference)
    query = queries[isinstance(wanted, UUID)]
    row = (await connection.execute(query, {"wanted": wanted})).one_or_none()
    if row is None:
        raise NotFoundError(what, reference)
    return row


async def _find(connection: AsyncConnection, table: sa.Table, what: str, reference: str) -> UUID:
    # Of several with this name all but one were removed; the present one is meant.
    found: UUID | None = await connection.scalar(
        sa.select(table.c.id)
        .where(matches_reference(table, reference))
        .order_by(table.c.removed_at.is_not(None), table.c.id.desc())
        .limit(1)
    )
    if found is None:
        raise NotFoundError(what, reference)
    return found


def _by_key(query: sa.Select[Any], table: sa.Table) -> Mapping[bool, sa.Select[Any]]:
    """Build the queries for one row, by whether it is named by its id."""
    return {
        True: constant(query.where(table.c.id == sa.bindparam("wanted"))),
        False: constant(query.where(table.c.name == sa.bindparam("wanted"))),
    }


_HOST = sa.select(hosts.c.id, hosts.c.name, hosts.c.public_key).where(hosts.c.removed_at.is_(None))
_SHARED_HOST = _by_key(_HOST.with_for_update(read=True), hosts)
_NAMED_HOSTS = constant(_HOST.where(hosts.c.name.in_(sa.bindparam("names", expanding=True))))
_PRESENT_HOSTS = constant(
    _HOST.where(hosts.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(hosts.c.id)
    .with_for_update(key_share=True)
)
_upkeep_hosts = hosts.alias()
_OF_REPOSITORY = (
    repositories.c.id,
    repositories.c.name,
    repositories.c.initialized_at,
    repositories.c.updated_at,
    sa.select(_upkeep_hosts.c.name)
    .where(_upkeep_hosts.c.id == repositories.c.upkeep_host_id)
    .scalar_subquery()
    .label("upkeep_host"),
)
_REPOSITORY = sa.select(*_OF_REPOSITORY).where(repositories.c.removed_at.is_(None))
_PRESENT = _by_key(_REPOSITORY.with_for_update(key_share=True, of=repositories), repositories)
_SHARED = _by_key(_REPOSITORY.with_for_update(read=True, of=repositories), repositories)
_TARGETS = (
    sa.select(
        hosts.c.id.label("host_id"), hosts.c.name.label("host"), hosts.c.public_key, *_OF_REPOSITORY
    )
    .select_from(hosts.join(repositories, sa.true()))
    .where(hosts.c.removed_at.is_(None), repositories.c.removed_at.is_(None))
    .with_for_update(read=True, of=[hosts, repositories])
)
_BOTH = {
    (host is hosts.c.id, repository is repositories.c.id): constant(
        _TARGETS.where(
            host == sa.bindparam("wanted_host"), repository == sa.bindparam("wanted_repository")
        )
    )
    for host in (hosts.c.id, hosts.c.name)
    for repository in (repositories.c.id, repositories.c.name)
}
