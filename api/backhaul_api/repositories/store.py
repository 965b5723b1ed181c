"""The rows of repositories. A removed one keeps its row, so that its jobs can name it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import (
    AdminCredential,
    CreateRepository,
    PasswordChange,
    Repository,
    UpdateRepository,
)
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import JobKind, PasswdStep
from backhaul.wire.locations import mask_location
from backhaul.wire.wording import render_count
from backhaul_api.db.references import build_key, matches_reference
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, jobs, repositories, schedules, snapshots
from backhaul_api.errors import ConflictError, InvalidError, NotFoundError
from backhaul_api.ids import new_id
from backhaul_api.jobs.active import IS_ACTIVE
from backhaul_api.keys import KeyRing
from backhaul_api.repositories import rules, secrets

_IS_PRESENT = repositories.c.removed_at.is_(None)


async def insert(
    connection: AsyncConnection, keys: KeyRing, request: CreateRepository, *, now: datetime
) -> Repository:
    """Insert a repository with its secrets.

    Raises:
        ConflictError: the name is taken.
        InvalidError: there is no such upkeep host.
    """
    await _refuse_taken_name(connection, request.name)
    repository_id = new_id()
    values = {
        "id": repository_id,
        "name": request.name,
        "location": mask_location(request.location),
        "environment_names": sorted(request.environment) or None,
        "created_at": now,
        "updated_at": now,
        "initialized_at": None,
        "restic_id": None,
        **_describe_admin(request.admin),
        "upkeep_host_id": await _find_upkeep_host(connection, request.upkeep_host),
    }
    await connection.execute(sa.insert(repositories).values(values))
    opens = {
        secrets.LOCATION: request.location,
        secrets.PASSWORD: request.password,
        secrets.ENVIRONMENT: secrets.encode_environment(request.environment),
        **_list_admin_secrets(request.admin),
    }
    await secrets.save(connection, keys, repository_id, opens, now=now)
    return await fetch(connection, str(repository_id))


async def fetch(
    connection: AsyncConnection, reference: str, *, for_update: bool = False
) -> Repository:
    """Fetch a repository by its name or id; removed ones are not found.

    `for_update` keeps others from changing it, or from making jobs for it, until the transaction
    ends.

    Raises:
        NotFoundError: there is none.
    """
    wanted = build_key(reference)
    query = (_LOCKED if for_update else _PRESENT)[isinstance(wanted, UUID)]
    row = (await connection.execute(query, {"wanted": wanted})).mappings().one_or_none()
    if row is None:
        raise NotFoundError("repository", reference)
    return _build(row)


async def fetch_page(
    connection: AsyncConnection, *, limit: int, after: str | None
) -> list[Repository]:
    """Fetch repositories by name."""
    query = _SELECT.order_by(repositories.c.name).limit(limit)
    if after is not None:
        query = query.where(repositories.c.name > after)
    return [_build(row) for row in (await connection.execute(query)).mappings()]


async def update(
    connection: AsyncConnection,
    keys: KeyRing,
    repository: Repository,
    request: UpdateRepository,
    *,
    now: datetime,
) -> Repository:
    """Change the fields that the request names.

    Raises:
        ConflictError: the new name is taken; or schedules that delete are on other hosts than the
            new upkeep host; or the password is being changed, which the request would disturb.
        InvalidError: there is no such upkeep host, or there has to be one.
    """
    _refuse_disturbance(repository, request)
    has_upkeep_host = bool(
        repository.upkeep_host if request.upkeep_host is UNSET else request.upkeep_host
    )
    if request.admin is not UNSET:
        rules.check_admin(request.admin, has_upkeep_host=has_upkeep_host)
    elif repository.has_admin and not has_upkeep_host:
        raise InvalidError.of(
            "upkeep_host",
            "the repository has an admin credential, which one host must be able to use: name "
            "another host, or take the admin credential away too",
        )
    changes: dict[str, Any] = {"updated_at": now}
    opens: dict[str, str] = {}
    if request.name is not UNSET and request.name != repository.name:
        await _refuse_taken_name(connection, request.name)
        changes["name"] = request.name
    if request.location is not UNSET:
        changes["location"] = mask_location(request.location)
        opens[secrets.LOCATION] = request.location
    if request.password is not UNSET:
        opens[secrets.PASSWORD] = request.password
    if request.environment is not UNSET:
        changes["environment_names"] = sorted(request.environment) or None
        opens[secrets.ENVIRONMENT] = secrets.encode_environment(request.environment)
    if request.admin is not UNSET:
        changes |= _describe_admin(request.admin)
        await secrets.forget(connection, repository.id, names=secrets.ADMIN)
        opens |= _list_admin_secrets(request.admin)
    if request.upkeep_host is not UNSET:
        host_id = await _find_upkeep_host(connection, request.upkeep_host)
        await _refuse_upkeep_elsewhere(connection, repository, host_id)
        changes["upkeep_host_id"] = host_id
    await connection.execute(
        sa.update(repositories).where(repositories.c.id == repository.id).values(changes)
    )
    await secrets.save(connection, keys, repository.id, opens, now=now)
    return await fetch(connection, str(repository.id))


async def note_existence(
    connection: AsyncConnection, repository: Repository, *, now: datetime
) -> Repository:
    """Note that a repository exists, so that nobody creates it."""
    is_first = sa.and_(repositories.c.id == repository.id, repositories.c.initialized_at.is_(None))
    await connection.execute(sa.update(repositories).where(is_first).values(initialized_at=now))
    return await fetch(connection, str(repository.id))


async def require_listed(connection: AsyncConnection, repository: Repository) -> None:
    """Require that a host has read the list of snapshots.

    Raises:
        ConflictError: none has.
    """
    query = (
        sa.select(jobs.c.id)
        .where(
            jobs.c.repository_id == repository.id,
            jobs.c.kind == JobKind.SNAPSHOTS,
            jobs.c.state == JobState.SUCCEEDED,
            jobs.c.finished_at.is_not(None),  # else the index of ends does not fit
        )
        .limit(1)
    )
    if await connection.scalar(query) is None:
        raise ConflictError(
            f"Nobody has seen yet what repository {repository.name!r} holds. Run a snapshots job "
            "on it first."
        )


async def remove(connection: AsyncConnection, repository: Repository, *, now: datetime) -> None:
    """Remove a repository, with its secrets and the list of its snapshots.

    Nothing is deleted at its location.

    Raises:
        ConflictError: a job that is not over, or a schedule, uses it.
    """
    await _refuse_used(connection, repository)
    await secrets.destroy(connection, repository.id)
    await connection.execute(sa.delete(snapshots).where(snapshots.c.repository_id == repository.id))
    await connection.execute(
        sa.update(repositories).where(repositories.c.id == repository.id).values(removed_at=now)
    )


async def _refuse_used(connection: AsyncConnection, repository: Repository) -> None:
    active = sa.select(sa.func.count()).where(
        sa.or_(jobs.c.repository_id == repository.id, jobs.c.destination_id == repository.id),
        IS_ACTIVE,
    )
    if count := await connection.scalar(active):
        raise ConflictError(
            f"Repository {repository.name!r} is in use by {render_count(count, 'job')} not yet "
            "over. Wait, then delete it; the jobs of a host that is gone end when that is removed."
        )
    scheduled = sa.select(sa.func.count()).where(
        sa.or_(
            schedules.c.repository_id == repository.id,
            schedules.c.options["destination"].as_string() == str(repository.id),
        ),
        schedules.c.deleted_at.is_(None),
    )
    if count := await connection.scalar(scheduled):
        raise ConflictError(
            f"Repository {repository.name!r} is used by {render_count(count, 'schedule')}. Delete "
            "or change what uses it first."
        )


async def _refuse_taken_name(connection: AsyncConnection, name: str) -> None:
    taken: UUID | None = await connection.scalar(
        sa.select(repositories.c.id).where(repositories.c.name == name, _IS_PRESENT)
    )
    if taken is not None:
        raise ConflictError(f"There is a repository {name!r} already. Choose another name.")


async def _find_upkeep_host(connection: AsyncConnection, reference: str | None) -> UUID | None:
    if reference is None:
        return None
    query = sa.select(hosts.c.id).where(
        matches_reference(hosts, reference), hosts.c.removed_at.is_(None)
    )
    # Locked, so that it is not removed meanwhile.
    found: UUID | None = await connection.scalar(query.with_for_update(key_share=True))
    if found is None:
        raise InvalidError.of("upkeep_host", f"there is no host {reference!r}")
    return found


async def _refuse_upkeep_elsewhere(
    connection: AsyncConnection, repository: Repository, host_id: UUID | None
) -> None:
    if host_id is None:
        return
    query = (
        sa.select(schedules.c.kind, hosts.c.name)
        .select_from(schedules.join(hosts, schedules.c.host_id == hosts.c.id))
        .where(
            schedules.c.repository_id == repository.id,
            schedules.c.deleted_at.is_(None),
            schedules.c.kind.in_(sorted(rules.UPKEEP_KINDS)),
            schedules.c.host_id != host_id,
        )
        .order_by(hosts.c.name, schedules.c.kind)
    )
    if found := (await connection.execute(query)).all():
        named = ", ".join(dict.fromkeys(f"{row.kind} on {row.name}" for row in found))
        raise ConflictError(
            f"Repository {repository.name!r} has schedules that only its upkeep host may have, and "
            f"that are on other hosts: {named}. Delete those first."
        )


def _refuse_disturbance(repository: Repository, request: UpdateRepository) -> None:
    """Keep what a change of the password works with: else its end would be another one's."""
    if repository.password_change is None:
        return
    if any(field is not UNSET for field in (request.location, request.password, request.admin)):
        raise ConflictError(
            f"The password of repository {repository.name!r} is being changed. Wait for the end of "
            "that, or give it up, before its location, password or admin credential is replaced."
        )


def _describe_admin(admin: AdminCredential | None) -> dict[str, Any]:
    """Build what is shown of an admin credential."""
    location = admin.location if admin else None
    environment = admin.environment if admin else None
    return {
        "has_admin": admin is not None,
        "admin_location": None if location is None else mask_location(location),
        "admin_environment_names": sorted(environment or ()) or None,
    }


def _list_admin_secrets(admin: AdminCredential | None) -> dict[str, str]:
    if admin is None:
        return {}
    environment = admin.environment
    found = {
        secrets.ADMIN_LOCATION: admin.location,
        secrets.ADMIN_PASSWORD: admin.password,
        secrets.ADMIN_ENVIRONMENT: (
            None if environment is None else secrets.encode_environment(environment)
        ),
    }
    return {name: secret for name, secret in found.items() if secret is not None}


_SELECT = sa.select(
    repositories,
    sa.select(hosts.c.name)
    .where(hosts.c.id == repositories.c.upkeep_host_id)
    .scalar_subquery()
    .label("upkeep_host"),
).where(_IS_PRESENT)
_PRESENT = {
    True: constant(_SELECT.where(repositories.c.id == sa.bindparam("wanted"))),
    False: constant(_SELECT.where(repositories.c.name == sa.bindparam("wanted"))),
}
_LOCKED = {
    is_id: constant(query.with_for_update(of=repositories, key_share=True))
    for is_id, query in _PRESENT.items()
}


def _build(row: Any) -> Repository:
    return Repository(
        id=row["id"],
        name=row["name"],
        location=row["location"],
        environment_names=tuple(row["environment_names"] or ()),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        initialized_at=row["initialized_at"],
        restic_id=row["restic_id"],
        has_admin=row["has_admin"],
        admin_location=row["admin_location"],
        admin_environment_names=tuple(row["admin_environment_names"] or ()),
        upkeep_host=row["upkeep_host"],
        password_change=_build_password_change(row),
    )


def _build_password_change(row: Any) -> PasswordChange | None:
    if row["password_step"] is None:
        return None
    return PasswordChange(
        step=PasswdStep(row["password_step"]),
        since=row["password_since"],
        job_id=row["password_job_id"],
    )
