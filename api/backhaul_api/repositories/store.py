"""The rows of repositories. A removed one keeps its row, so that its jobs can name it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import CreateRepository, Repository, UpdateRepository
from backhaul.wire.jobs import ACTIVE_STATES, JobState
from backhaul.wire.kinds import JobKind
from backhaul.wire.locations import mask_location
from backhaul_api.db.references import matches_reference
from backhaul_api.db.tables import jobs, repositories, schedules, snapshots
from backhaul_api.errors import ConflictError, NotFoundError
from backhaul_api.ids import new_id
from backhaul_api.keys import KeyRing
from backhaul_api.repositories import secrets

_IS_PRESENT = repositories.c.removed_at.is_(None)


async def insert(
    connection: AsyncConnection, keys: KeyRing, request: CreateRepository, *, now: datetime
) -> Repository:
    """Insert a repository with its secrets.

    Raises:
        ConflictError: the name is taken.
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
    }
    await connection.execute(sa.insert(repositories).values(values))
    opens = {
        secrets.LOCATION: request.location,
        secrets.PASSWORD: request.password,
        secrets.ENVIRONMENT: secrets.encode_environment(request.environment),
    }
    await secrets.save(connection, keys, repository_id, opens, now=now)
    return _build(values)


async def fetch(
    connection: AsyncConnection, reference: str, *, for_update: bool = False
) -> Repository:
    """Fetch a repository by its name or id; removed ones are not found.

    `for_update` keeps others from changing it, or from making jobs for it, until the transaction
    ends.

    Raises:
        NotFoundError: there is none.
    """
    query = sa.select(repositories).where(matches_reference(repositories, reference), _IS_PRESENT)
    if for_update:
        query = query.with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFoundError("repository", reference)
    return _build(row)


async def fetch_page(
    connection: AsyncConnection, *, limit: int, after: str | None
) -> list[Repository]:
    """Fetch repositories by name."""
    query = sa.select(repositories).where(_IS_PRESENT).order_by(repositories.c.name).limit(limit)
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
        ConflictError: the new name is taken.
    """
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
        jobs.c.state.in_(ACTIVE_STATES),
    )
    if count := await connection.scalar(active):
        raise ConflictError(
            f"Repository {repository.name!r} is in use by {count} job(s) that are not over. Wait "
            "for them, then delete it; those of a host that is gone end when the host is removed."
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
            f"Repository {repository.name!r} is used by {count} schedule(s). Delete or change "
            "them first."
        )


async def _refuse_taken_name(connection: AsyncConnection, name: str) -> None:
    taken: UUID | None = await connection.scalar(
        sa.select(repositories.c.id).where(repositories.c.name == name, _IS_PRESENT)
    )
    if taken is not None:
        raise ConflictError(f"There is a repository {name!r} already. Choose another name.")


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
    )
