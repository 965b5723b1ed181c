"""/v1/repositories/{repository}/password-change."""

from __future__ import annotations

from datetime import datetime
from secrets import token_urlsafe

from litestar import Router, delete, post
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import (
    ChangePassword,
    ContinuePasswordChange,
    Host,
    Repository,
    StartedPasswordChange,
)
from backhaul.wire.jobs import Job
from backhaul_api.audit.store import record
from backhaul_api.auth import OperatorRequest
from backhaul_api.db.changes import touch
from backhaul_api.errors import InvalidError
from backhaul_api.hosts import store as hosts
from backhaul_api.idempotency import IdempotencyKey, Once
from backhaul_api.names import named_in
from backhaul_api.repositories import password_changes, store
from backhaul_api.repositories.rules import Access, check_place
from backhaul_api.schedules.store import take_turn
from backhaul_api.services import Needs

_PASSWORD_BYTES = 32


@post(
    "/",
    operation_id="change_repository_password",
    summary="Give a repository a new password",
    description=(
        "A `passwd` job adds the new password. When it has, Backhaul uses that one, and a second "
        "job takes the old one away, once each host that may run backups without this server has "
        "the new one. Until a change is over, the repository shows it as `password_change`. A "
        "change whose first job failed is replaced."
    ),
)
async def change_password(
    request: OperatorRequest,
    services: Needs,
    repository: FromPath[str],
    data: JSONBody[ChangePassword],
    idempotency_key: IdempotencyKey = None,
) -> StartedPasswordChange:
    password = _choose_password(data)
    now = services.clock.now()
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, StartedPasswordChange)) is not None:
            return made
        await take_turn(connection)
        wanted = data.host or (await store.fetch(connection, repository)).upkeep_host
        if wanted is None:
            raise InvalidError.of("host", "name the host that is to do it, or set an upkeep host")
        host = await _fetch_host(connection, wanted)
        found = await store.fetch(connection, repository, for_update=True)
        _check_place(host, found)
        await password_changes.check_new(connection, services.keys, found, password)
        job = await password_changes.begin(
            connection,
            services.keys,
            found,
            password,
            host_id=host.id,
            actor=request.user,
            now=now,
        )
        await _record(connection, request, "repository.change_password", found, at=now)
        answer = StartedPasswordChange(
            job=job, password=password if data.generate and data.show else None
        )
        await once.keep(connection, answer)
        touch(connection, host.id)
    return answer


@post(
    "/continue",
    status_code=201,
    operation_id="continue_password_change",
    summary="Run the current step of a password change again",
    description=(
        "After its job has failed, or with `force` before every host has the new password: one "
        "that has not, and that cannot reach this server, cannot back up until it can."
    ),
)
async def continue_password_change(
    request: OperatorRequest,
    services: Needs,
    repository: FromPath[str],
    data: JSONBody[ContinuePasswordChange],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    now = services.clock.now()
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, Job)) is not None:
            return made
        await take_turn(connection)
        host = None if data.host is None else await _fetch_host(connection, data.host)
        found = await store.fetch(connection, repository, for_update=True)
        if host is not None:
            _check_place(host, found)
        job = await password_changes.go_on(
            connection,
            found,
            host_id=None if host is None else host.id,
            is_forced=data.force,
            actor=request.user,
            now=now,
        )
        await _record(connection, request, "repository.continue_password_change", found, at=now)
        await once.keep(connection, job)
        touch(connection, job.host_id)
    return job


@delete(
    "/",
    operation_id="give_up_password_change",
    summary="Give a password change up",
    description=(
        "The password that Backhaul uses stays as it is. The other one is forgotten here: if it "
        "opens the repository, it goes on to, and only restic itself can remove its key. Refused "
        "while a job of the change is not over: cancel that first."
    ),
)
async def give_up_password_change(
    request: OperatorRequest, services: Needs, repository: FromPath[str]
) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        await take_turn(connection)
        found = await store.fetch(connection, repository, for_update=True)
        await password_changes.give_up(connection, found)
        await _record(connection, request, "repository.give_up_password_change", found, at=now)


def _choose_password(data: ChangePassword) -> str:
    if data.generate == (data.password is not None):
        raise InvalidError.of("password", "give a password, or have one generated; not both")
    if data.show and not data.generate:
        raise InvalidError.of("show", "only shows a password that is generated")
    return data.password or token_urlsafe(_PASSWORD_BYTES)


def _check_place(host: Host, repository: Repository) -> None:
    check_place(
        Access.ADD_PASSWORD,
        host=host.name,
        repository=repository.name,
        upkeep_host=repository.upkeep_host,
    )


async def _fetch_host(connection: AsyncConnection, reference: str) -> Host:
    """Fetch the host, locked before the repository: all who lock both do."""
    with named_in("host"):
        return await hosts.fetch(connection, reference, for_update=True)


async def _record(
    connection: AsyncConnection,
    request: OperatorRequest,
    action: str,
    repository: Repository,
    *,
    at: datetime,
) -> None:
    await record(
        connection,
        request.user,
        action,
        at=at,
        target_kind="repository",
        target_id=repository.id,
        target=repository.name,
    )


router = Router(
    "/v1/repositories/{repository:str}/password-change",
    route_handlers=[change_password, continue_password_change, give_up_password_change],
    tags=["repositories"],
)
