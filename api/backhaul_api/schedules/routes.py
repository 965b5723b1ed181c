"""/v1/hosts/{host}/schedules and /v1/schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, patch, post
from litestar.params import FromPath, HeaderParameter, JSONBody, PathParameter, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import DrillOptions
from backhaul.wire.pages import Page
from backhaul.wire.schedules import CreateSchedule, Schedule, ScheduleKind, UpdateSchedule
from backhaul_api.audit.store import record
from backhaul_api.auth import OperatorRequest
from backhaul_api.bodies import COMPLETED_BY
from backhaul_api.db.changes import touch
from backhaul_api.errors import PreconditionFailedError
from backhaul_api.hosts import store as hosts
from backhaul_api.idempotency import IdempotencyKey, Once
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id
from backhaul_api.kinds import copy, drill
from backhaul_api.names import named_in
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.repositories import store as repositories
from backhaul_api.schedules import options, rules, store
from backhaul_api.schedules.previews import preview_cron, preview_schedule
from backhaul_api.services import Needs, Services
from backhaul_api.sources import store as sources

_ScheduleId = Annotated[UUID, PathParameter(description="The schedule's id.")]
_IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        description="The ETag of the schedule as you saw it; 412 when it has changed since.",
    ),
]
_HostFilter = Annotated[
    str | None, QueryParameter(description="Only schedules of this host, by name or id.")
]


@post(
    "/",
    opt={COMPLETED_BY: options.complete_create},
    operation_id="create_schedule",
    summary="Create a schedule on a host",
    description=(
        "The host is told at once. The answer's ETag serves for a safe change later. The `kind` of "
        "the options may be left out."
    ),
)
async def create_schedule(
    request: OperatorRequest,
    services: Needs,
    host: FromPath[str],
    data: JSONBody[CreateSchedule],
    idempotency_key: IdempotencyKey = None,
) -> Response[Schedule]:
    now = services.clock.now()
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, Schedule)) is not None:
            return _respond(made, status_code=201)
        await store.share_turn(connection)
        owner = await hosts.fetch(connection, host, for_update=True)
        with named_in("repository"):
            repository = await repositories.fetch(connection, data.repository)
        source = await _fetch_source(connection, data.source)
        rules.refuse_zone_of_a_machine(data.timezone)
        schedule = rules.build_schedule(
            data, id_=new_id(), host=owner, repository=repository, source=source, now=now
        )
        rules.check_schedule(schedule, source)
        schedule = await _settle_options(connection, services, schedule)
        rules.check_upkeep(schedule, repository)
        await store.insert(connection, schedule)
        await _record(connection, request.user, "schedule.create", schedule, at=now)
        created = await store.fetch(connection, schedule.id, now=now)
        await once.keep(connection, created)
        touch(connection, owner.id)
    return _respond(created, status_code=201)


@get("/", operation_id="list_host_schedules", summary="List the schedules of a host, oldest first")
async def list_host_schedules(
    services: Needs, host: FromPath[str], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Schedule]:
    return await _list(services, host, limit, cursor)


@get("/", operation_id="list_schedules", summary="List the schedules of the fleet, oldest first")
async def list_schedules(
    services: Needs,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    host: _HostFilter = None,
) -> Page[Schedule]:
    return await _list(services, host, limit, cursor)


@get("/{schedule_id:uuid}", operation_id="get_schedule", summary="Get a schedule")
async def get_schedule(services: Needs, schedule_id: _ScheduleId) -> Response[Schedule]:
    async with services.database.reading() as connection:
        return _respond(await store.fetch(connection, schedule_id, now=services.clock.now()))


@patch(
    "/{schedule_id:uuid}",
    opt={COMPLETED_BY: options.complete_update},
    operation_id="update_schedule",
    summary="Change a schedule",
    description=(
        "Its host is told at once. Its kind and its host cannot change: make another schedule. The "
        "`kind` of the options may be left out."
    ),
)
async def update_schedule(
    request: OperatorRequest,
    services: Needs,
    schedule_id: _ScheduleId,
    data: JSONBody[UpdateSchedule],
    if_match: _IfMatch = None,
) -> Response[Schedule]:
    now = services.clock.now()
    async with services.database.writing() as connection:
        seen = await _fetch_matching(connection, schedule_id, if_match, now=now)
        if data == UpdateSchedule():
            return _respond(seen)
        changed, source = await _apply(connection, seen, data)
        if changed.timezone != seen.timezone:
            rules.refuse_zone_of_a_machine(changed.timezone)
        rules.check_schedule(changed, source)
        changed = await _settle_options(connection, services, changed)
        changed = msgspec.structs.replace(changed, updated_at=now, revision=seen.revision + 1)
        await store.update(connection, changed, seen_revision=seen.revision)
        await _record(connection, request.user, "schedule.update", changed, at=now)
        updated = await store.fetch(connection, schedule_id, now=now)
        touch(connection, seen.host_id)
    return _respond(updated)


@delete(
    "/{schedule_id:uuid}",
    operation_id="delete_schedule",
    summary="Delete a schedule",
    description="Its host is told at once. The jobs that it has fired stay.",
)
async def delete_schedule(
    request: OperatorRequest,
    services: Needs,
    schedule_id: _ScheduleId,
    if_match: _IfMatch = None,
) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        seen = await _fetch_matching(connection, schedule_id, if_match, now=now)
        await store.delete(connection, seen, now=now)
        await _record(connection, request.user, "schedule.delete", seen, at=now)
        touch(connection, seen.host_id)


async def _list(
    services: Services, host: str | None, limit: int, cursor: str | None
) -> Page[Schedule]:
    after = decode_cursor(cursor, tuple[UUID])[0] if cursor else None
    async with services.database.reading() as connection:
        host_id = (await hosts.fetch(connection, host)).id if host else None
        found = await store.fetch_page(
            connection, host_id=host_id, limit=limit + 1, after=after, now=services.clock.now()
        )
    items, has_more = split_page(found, limit)
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].id) if has_more else None)


async def _fetch_matching(
    connection: AsyncConnection, schedule_id: UUID, if_match: str | None, *, now: datetime
) -> Schedule:
    """Fetch the schedule as nobody else changes it before this transaction ends."""
    await store.take_turn(connection)
    seen = await store.fetch(connection, schedule_id, now=now)
    if not rules.matches_etag(if_match, seen.revision):
        raise PreconditionFailedError("schedule", schedule_id)
    return seen


async def _apply(
    connection: AsyncConnection, seen: Schedule, data: UpdateSchedule
) -> tuple[Schedule, Source | None]:
    """Build the schedule with the fields that the request names, and fetch its source."""
    changes: dict[str, Any] = {
        name: value
        for name, value in msgspec.structs.asdict(data).items()
        if value is not msgspec.UNSET
    }
    kept = None if seen.source_id is None else str(seen.source_id)
    source = await _fetch_source(connection, changes.get("source", kept))
    if source is not None:
        changes |= {"source_id": source.id, "source": source.name}
    if "repository" in changes:
        with named_in("repository"):
            repository = await repositories.fetch(connection, changes["repository"])
        rules.check_upkeep(seen, repository)
        changes |= {"repository_id": repository.id, "repository": repository.name}
    return msgspec.structs.replace(seen, **changes), source


async def _settle_options(
    connection: AsyncConnection, services: Services, schedule: Schedule
) -> Schedule:
    """Give the schedule with what its options name, looked up."""
    chosen = schedule.options
    if schedule.kind is ScheduleKind.COPY:
        chosen = await copy.settle_options(
            connection, services.keys, schedule.repository_id, chosen
        )
    elif isinstance(chosen, DrillOptions):
        chosen = await drill.settle_options(connection, chosen)
    return msgspec.structs.replace(schedule, options=chosen)


async def _fetch_source(connection: AsyncConnection, reference: str | None) -> Source | None:
    if reference is None:
        return None
    with named_in("source"):
        return await sources.fetch(connection, reference)


async def _record(
    connection: AsyncConnection, actor: Actor, action: str, schedule: Schedule, *, at: datetime
) -> None:
    await record(
        connection,
        actor,
        action,
        at=at,
        target_kind="schedule",
        target_id=schedule.id,
        target=f"{schedule.kind} on {schedule.host}: {schedule.cron}",
    )


def _respond(schedule: Schedule, *, status_code: int = 200) -> Response[Schedule]:
    return Response(
        schedule, status_code=status_code, headers={"ETag": rules.build_etag(schedule.revision)}
    )


routers = [
    Router(
        "/v1/hosts/{host:str}/schedules",
        route_handlers=[create_schedule, list_host_schedules],
        tags=["schedules"],
    ),
    Router(
        "/v1/schedules",
        route_handlers=[
            list_schedules,
            preview_cron,
            get_schedule,
            preview_schedule,
            update_schedule,
            delete_schedule,
        ],
        tags=["schedules"],
    ),
]
