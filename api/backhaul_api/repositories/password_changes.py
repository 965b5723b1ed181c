"""The change of a repository's password, in two steps; between them both passwords open it.

1. `add`: the new password is stored beside the current one, and a job makes the repository open to
   it. With the report that it did, in one transaction, the new one becomes the current one, hosts
   that hold the other for runs without the server are sent the new one, and step 2 begins.
2. `remove`: once each of these hosts has said that it has the new one, a job takes the old one from
   the repository. With its report the old one is forgotten here.

What the server has as the current password opens the repository at any moment, whatever dies when:
before the report of step 1 that is the old one, which nobody has touched; after it the new one,
which that job has tried. A step may be repeated. A job that is not the one the repository names has
been replaced, and its late report changes nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import PasswordChange, Repository
from backhaul.wire.jobs import ACTIVE_STATES, Job
from backhaul.wire.kinds import JobKind, PasswdArguments, PasswdStep
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, jobs, repositories
from backhaul_api.db.tables import schedules as schedule_rows
from backhaul_api.errors import ConflictError, InvalidError
from backhaul_api.identity import SYSTEM, Actor
from backhaul_api.jobs import store
from backhaul_api.keys import KeyRing
from backhaul_api.repositories import secrets
from backhaul_api.schedules import store as schedules

ATTEMPTS = 3


async def check_new(
    connection: AsyncConnection, keys: KeyRing, repository: Repository, password: str
) -> None:
    """Refuse a change that would end with a key removed that is still needed.

    Raises:
        InvalidError: it is the current password.
        ConflictError: the admin credential names the current password as its own.
    """
    names = (secrets.PASSWORD, secrets.ADMIN_PASSWORD)
    opened = await secrets.load(connection, keys, repository.id, names=names)
    if opened.get(secrets.PASSWORD) == password:
        raise InvalidError.of("password", "is the one that the repository has; choose a new one")
    if opened.get(secrets.ADMIN_PASSWORD) == opened.get(secrets.PASSWORD):
        raise ConflictError(
            f"The admin credential of repository {repository.name!r} names the same password, "
            "which would be removed under it. Leave the password out of it first."
        )


async def begin(
    connection: AsyncConnection,
    keys: KeyRing,
    repository: Repository,
    password: str,
    *,
    host_id: UUID,
    actor: Actor,
    now: datetime,
) -> Job:
    """Store the new password and make the job that adds it. One that failed before is replaced.

    Raises:
        ConflictError: a change is under way, or the last one has not removed its old password.
    """
    change = repository.password_change
    if change is not None:
        if change.step is PasswdStep.REMOVE:
            raise ConflictError(
                f"The last change of the password of repository {repository.name!r} is not over: "
                "the old one still opens it. Let it be removed, or give that up, first."
            )
        await _refuse_active(connection, repository, change)
    new = {secrets.NEXT_PASSWORD: password}
    await secrets.save(connection, keys, repository.id, new, now=now)
    return await _make_job(connection, repository.id, PasswdStep.ADD, host_id, actor, now=now)


async def go_on(
    connection: AsyncConnection,
    repository: Repository,
    *,
    host_id: UUID | None,
    is_forced: bool,
    actor: Actor,
    now: datetime,
) -> Job:
    """Make the job of the current step again, or before all hosts have the new password.

    Raises:
        ConflictError: there is no change, its job is not over, or hosts are waited for.
        InvalidError: no host is named, and the one that did the step before is gone.
    """
    change = require(repository)
    await _refuse_active(connection, repository, change)
    told = await describe(connection, repository)
    if told is not None and told.waits_for and not is_forced:
        raise ConflictError(
            f"{', '.join(told.waits_for)} may back up with the old password while they cannot "
            "reach this server, and would not be able to any more. Wait for them, or force it."
        )
    host_id = host_id or await _find_host(connection, repository.id)
    if host_id is None:
        raise InvalidError.of("host", "name the host that is to do it")
    return await _make_job(connection, repository.id, change.step, host_id, actor, now=now)


async def give_up(connection: AsyncConnection, repository: Repository) -> None:
    """Forget the password that is not the current one. What was added to the repository stays.

    Raises:
        ConflictError: there is no change, or its job is not over.
    """
    await _refuse_active(connection, repository, require(repository))
    names = (secrets.NEXT_PASSWORD, secrets.OLD_PASSWORD)
    await secrets.forget(connection, repository.id, names=names)
    await _save(connection, repository.id, **_NONE)


async def apply_success(connection: AsyncConnection, job: Job, *, now: datetime) -> list[UUID]:
    """Move a change on, whose step a job has done; in the transaction in which that ends.

    Returns:
        The hosts that there is news for, to be woken after the commit.
    """
    repository_id, arguments = job.repository_id, job.arguments
    if repository_id is None or not isinstance(arguments, PasswdArguments):
        return []
    # Hosts before repositories: see `schedules.store`.
    carries = schedules.carries_credentials(repository_id)
    await schedules.lock_hosts(connection, carries)
    row = await _fetch(connection, repository_id)
    if row is None or row.password_job_id != job.id or row.password_step != arguments.step:
        return []
    if arguments.step is PasswdStep.REMOVE:
        await secrets.forget(connection, repository_id, names=[secrets.OLD_PASSWORD])
        await _save(connection, repository_id, **_NONE)
        return []
    if not await secrets.promote_password(connection, repository_id):
        return []
    concerned = await schedules.move_version(connection, carries, now=now)
    versions = await _find_holders(connection, repository_id)
    await _save(
        connection,
        repository_id,
        password_step=PasswdStep.REMOVE,
        password_since=now,
        password_job_id=None,
        password_waits_for=versions or None,
        updated_at=now,
    )
    return [*concerned, *await _remove_if_ready(connection, repository_id, job.host_id, now=now)]


async def note_applied(connection: AsyncConnection, host_id: UUID, *, now: datetime) -> list[UUID]:
    """Begin to remove the old passwords that only this host was waited for with, which has applied
    a set of schedules.

    Returns:
        The hosts that there is news for, to be woken after the commit.
    """
    woken: list[UUID] = []
    for row in (await connection.execute(_WAITING)).all():
        if str(host_id) in (row.password_waits_for or {}):
            woken += await _remove_if_ready(connection, row.id, None, now=now)
    return woken


async def describe(connection: AsyncConnection, repository: Repository) -> PasswordChange | None:
    """Add whom a change waits for."""
    change = repository.password_change
    if change is None or change.step is PasswdStep.ADD or change.job_id is not None:
        return change
    row = await _fetch(connection, repository.id, for_update=False)
    waits_for = await _find_waiting(connection, row)
    return msgspec.structs.replace(change, waits_for=waits_for)


def require(repository: Repository) -> PasswordChange:
    """Give the change that is under way.

    Raises:
        ConflictError: there is none.
    """
    if repository.password_change is None:
        raise ConflictError(f"The password of repository {repository.name!r} is not being changed.")
    return repository.password_change


async def _remove_if_ready(
    connection: AsyncConnection, repository_id: UUID, host_id: UUID | None, *, now: datetime
) -> list[UUID]:
    """Make the job that removes the old password, unless somebody is waited for."""
    # Locked: of two hosts that apply their sets at once, the second sees the first.
    row = await _fetch(connection, repository_id)
    if row.password_job_id is not None or await _find_waiting(connection, row):
        return []
    host_id = host_id or await _find_host(connection, repository_id)
    if host_id is None:
        return []  # it is gone: an operator names another
    job = await _make_job(connection, repository_id, PasswdStep.REMOVE, host_id, SYSTEM, now=now)
    return [job.host_id]


async def _make_job(
    connection: AsyncConnection,
    repository_id: UUID,
    step: PasswdStep,
    host_id: UUID,
    actor: Actor,
    *,
    now: datetime,
) -> Job:
    new = store.NewJob(
        host_id=host_id,
        repository_id=repository_id,
        arguments=PasswdArguments(step=step),
        actor=actor,
        attempts=ATTEMPTS,
    )
    job = await store.insert(connection, new, now=now)
    await _save(
        connection, repository_id, password_step=step, password_since=now, password_job_id=job.id
    )
    return job


async def _find_host(connection: AsyncConnection, repository_id: UUID) -> UUID | None:
    """Find who is to do a step: the upkeep host, else the host of the last job of a change."""
    query = (
        sa.select(hosts.c.id)
        .select_from(jobs.join(hosts, jobs.c.host_id == hosts.c.id))
        .where(
            jobs.c.repository_id == repository_id,
            jobs.c.kind == JobKind.PASSWD,
            hosts.c.removed_at.is_(None),
        )
        .order_by(jobs.c.id.desc())
        .limit(1)
    )
    upkeep = sa.select(repositories.c.upkeep_host_id).where(repositories.c.id == repository_id)
    found: UUID | None = await connection.scalar(upkeep) or await connection.scalar(query)
    return found


async def _find_waiting(connection: AsyncConnection, row: Any) -> tuple[str, ...]:
    """Find the hosts that were given the old password, and may not have the new one yet.

    One that was removed, or that has no schedule with it any more, has no use for it.
    """
    wanted = {UUID(host_id): version for host_id, version in (row.password_waits_for or {}).items()}
    query = (
        sa.select(hosts.c.id, hosts.c.name, hosts.c.applied_schedule_version)
        .where(hosts.c.id.in_(list(wanted)), hosts.c.removed_at.is_(None))
        .order_by(hosts.c.name)
    )
    found = (await connection.execute(query)).all()
    return tuple(one.name for one in found if one.applied_schedule_version < wanted[one.id])


async def _find_holders(connection: AsyncConnection, repository_id: UUID) -> dict[str, int]:
    """Find the hosts that may hold the old password for runs without the server, and the version
    with which they let go of it: also of schedules that have left the repository, or are deleted,
    as long as their host has not heard of that."""
    query = (
        sa.select(
            schedule_rows.c.repository_id,
            schedule_rows.c.past_repository_ids,
            hosts.c.id,
            hosts.c.schedule_version,
        )
        .select_from(schedule_rows.join(hosts, schedule_rows.c.host_id == hosts.c.id))
        .where(
            schedule_rows.c.kind == JobKind.BACKUP,
            hosts.c.removed_at.is_(None),
            hosts.c.applied_schedule_version < hosts.c.schedule_version,
            sa.or_(
                schedule_rows.c.repository_id == repository_id,
                schedule_rows.c.past_repository_ids.is_not(None),
            ),
        )
    )
    return {
        str(row.id): row.schedule_version
        for row in await connection.execute(query)
        if row.repository_id == repository_id
        or str(repository_id) in (row.past_repository_ids or ())
    }


async def _refuse_active(
    connection: AsyncConnection, repository: Repository, change: PasswordChange
) -> None:
    if change.job_id is None:
        return
    query = sa.select(jobs.c.state).where(jobs.c.id == change.job_id)
    state = await connection.scalar(query)
    if state in ACTIVE_STATES:
        raise ConflictError(
            f"The password of repository {repository.name!r} is being changed by job "
            f"{change.job_id}. Wait for it, or cancel it."
        )


async def _fetch(
    connection: AsyncConnection, repository_id: UUID, *, for_update: bool = True
) -> Any:
    query = sa.select(repositories).where(
        repositories.c.id == repository_id, repositories.c.removed_at.is_(None)
    )
    query = query.with_for_update(key_share=True) if for_update else query
    return (await connection.execute(query)).one_or_none()


async def _save(connection: AsyncConnection, repository_id: UUID, **changes: Any) -> None:
    await connection.execute(
        sa.update(repositories).where(repositories.c.id == repository_id).values(changes)
    )


_NONE: dict[str, Any] = {
    "password_step": None,
    "password_since": None,
    "password_job_id": None,
    "password_waits_for": None,
}


# Built once: every host that has applied a set of schedules asks it.
_WAITING = constant(
    sa.select(repositories.c.id, repositories.c.password_waits_for).where(
        repositories.c.password_step == PasswdStep.REMOVE,
        repositories.c.password_job_id.is_(None),
        repositories.c.removed_at.is_(None),
    )
)
