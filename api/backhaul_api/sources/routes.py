"""/v1/sources."""

from __future__ import annotations

from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from backhaul.wire.fleet import CreateSource, Source, UpdateSource
from backhaul.wire.pages import Page
from backhaul_api.audit.store import record
from backhaul_api.auth import OperatorRequest
from backhaul_api.db.changes import touch
from backhaul_api.idempotency import IdempotencyKey, Once
from backhaul_api.names import check_name
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.schedules import store as schedules
from backhaul_api.services import Needs
from backhaul_api.sources import rules, store


@get("/", operation_id="list_sources", summary="List sources by name")
async def list_sources(
    services: Needs, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Source]:
    after = decode_cursor(cursor, tuple[str])[0] if cursor else None
    async with services.database.reading() as connection:
        found = await store.fetch_page(connection, limit=limit + 1, after=after)
    items, has_more = split_page(found, limit)
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].name) if has_more else None)


@post("/", operation_id="create_source", summary="Create a source")
async def create_source(
    request: OperatorRequest,
    services: Needs,
    data: JSONBody[CreateSource],
    idempotency_key: IdempotencyKey = None,
) -> Source:
    check_name(data.name)
    rules.check_paths(data.paths)
    rules.check_paths(data.exclude_files, field="exclude_files")
    rules.check_choice(data)
    now = services.clock.now()
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, Source)) is not None:
            return made
        source = await store.insert(connection, data, now=now)
        await record(
            connection,
            request.user,
            "source.create",
            at=now,
            target_kind="source",
            target_id=source.id,
            target=source.name,
        )
        await once.keep(connection, source)
    return source


@get("/{source:str}", operation_id="get_source", summary="Get a source by name or id")
async def get_source(services: Needs, source: FromPath[str]) -> Source:
    async with services.database.reading() as connection:
        return await store.fetch(connection, source)


@patch(
    "/{source:str}",
    operation_id="update_source",
    summary="Change a source",
    description=(
        "Hosts with schedules of this source are told at once. After a new name, snapshots that "
        "exist keep the old name as their tag: a forget of this source no longer touches them."
    ),
)
async def update_source(
    request: OperatorRequest, services: Needs, source: FromPath[str], data: JSONBody[UpdateSource]
) -> Source:
    check_name(data.name)
    if isinstance(data.paths, tuple):
        rules.check_paths(data.paths)
    if isinstance(data.exclude_files, tuple):
        rules.check_paths(data.exclude_files, field="exclude_files")
    now = services.clock.now()
    async with services.database.writing() as connection:
        await schedules.take_turn(connection)
        found = await store.fetch(connection, source)
        await schedules.lock_hosts(connection, schedules.uses_source(found.id))
        if data == UpdateSource():
            return found
        changed = await store.update(connection, found, data, now=now)
        rules.check_choice(changed)
        await schedules.refuse_lost_keep_rule(connection, changed)
        concerned = await schedules.move_version(
            connection, schedules.uses_source(changed.id), now=now
        )
        await record(
            connection,
            request.user,
            "source.update",
            at=now,
            target_kind="source",
            target_id=changed.id,
            target=changed.name,
        )
        touch(connection, *concerned)
    return changed


@delete("/{source:str}", operation_id="delete_source", summary="Delete a source")
async def delete_source(request: OperatorRequest, services: Needs, source: FromPath[str]) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        await schedules.take_turn(connection)
        found = await store.fetch(connection, source)
        await store.delete(connection, found)
        await record(
            connection,
            request.user,
            "source.delete",
            at=now,
            target_kind="source",
            target_id=found.id,
            target=found.name,
        )


router = Router(
    "/v1/sources",
    route_handlers=[list_sources, create_source, get_source, update_source, delete_source],
    tags=["sources"],
)
