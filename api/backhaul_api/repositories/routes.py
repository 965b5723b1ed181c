"""/v1/repositories, without the passwords of theirs that change."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from backhaul.wire.fleet import (
    Adoption,
    AdoptRepository,
    CreateRepository,
    Repository,
    RepositorySize,
    UpdateRepository,
)
from backhaul.wire.pages import Page
from backhaul_api.audit.store import record
from backhaul_api.auth import OperatorRequest
from backhaul_api.db.changes import touch
from backhaul_api.idempotency import IdempotencyKey, Once
from backhaul_api.jobs.store import fetch_hosts_at
from backhaul_api.names import check_name
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.repositories import rules, sizes, states, store
from backhaul_api.schedules import store as schedules
from backhaul_api.services import Needs
from backhaul_api.snapshots.store import vouch


@get("/", operation_id="list_repositories", summary="List repositories by name")
async def list_repositories(
    services: Needs, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Repository]:
    after = decode_cursor(cursor, tuple[str])[0] if cursor else None
    async with services.database.reading() as connection:
        found = await store.fetch_page(connection, limit=limit + 1, after=after)
        page, has_more = split_page(found, limit)
        items = await states.describe(connection, list(page), now=services.clock.now())
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].name) if has_more else None)


@post(
    "/",
    operation_id="create_repository",
    summary="Record a repository and its secrets",
    description=(
        "Nothing is created at its location until an `init` job has run. The location's password, "
        "the repository's password and the values of the environment are stored encrypted, are "
        "never shown again, and leave the server only sealed to the host that needs them. Those of "
        "the admin credential leave it only to the upkeep host, with jobs that delete."
    ),
)
async def create_repository(
    request: OperatorRequest,
    services: Needs,
    data: JSONBody[CreateRepository],
    idempotency_key: IdempotencyKey = None,
) -> Repository:
    check_name(data.name)
    rules.check_location(data.location)
    rules.check_environment(data.environment)
    rules.check_admin(data.admin, has_upkeep_host=data.upkeep_host is not None)
    now = services.clock.now()
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, Repository)) is not None:
            return made
        repository = await store.insert(connection, services.keys, data, now=now)
        await record(
            connection,
            request.user,
            "repository.create",
            at=now,
            target_kind="repository",
            target_id=repository.id,
            target=repository.name,
        )
        await once.keep(connection, repository)
    return repository


@get(
    "/{repository:str}",
    operation_id="get_repository",
    summary="Get a repository by name or id",
)
async def get_repository(services: Needs, repository: FromPath[str]) -> Repository:
    async with services.database.reading() as connection:
        found = await store.fetch(connection, repository)
        return (await states.describe(connection, [found], now=services.clock.now()))[0]


@get(
    "/{repository:str}/sizes",
    operation_id="list_repository_sizes",
    summary="List how large a repository was, newest first",
    description="What its `stats` jobs have measured.",
)
async def list_repository_sizes(
    services: Needs,
    repository: FromPath[str],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[RepositorySize]:
    before = decode_cursor(cursor, tuple[datetime, UUID]) if cursor else None
    async with services.database.reading() as connection:
        found = await store.fetch(connection, repository)
        rows = await sizes.fetch_page(connection, found.id, limit=limit + 1, before=before)
    items, has_more = split_page(rows, limit)
    next_cursor = encode_cursor(items[-1][1].measured_at, items[-1][0]) if has_more else None
    return Page(items=tuple(size for _, size in items), next_cursor=next_cursor)


@patch(
    "/{repository:str}",
    operation_id="update_repository",
    summary="Change the record of a repository",
    description=(
        "Changes what Backhaul knows; the repository's own keys are not touched: `password-change` "
        "gives it another password. Hosts that were "
        "given its secrets, to back up while they cannot reach this server, are given the new ones."
    ),
)
async def update_repository(
    request: OperatorRequest,
    services: Needs,
    repository: FromPath[str],
    data: JSONBody[UpdateRepository],
) -> Repository:
    check_name(data.name)
    if data.location is not UNSET:
        rules.check_location(data.location)
    if data.environment is not UNSET:
        rules.check_environment(data.environment)
    now = services.clock.now()
    async with services.database.writing() as connection:
        await schedules.take_turn(connection)
        carries = schedules.carries_credentials((await store.fetch(connection, repository)).id)
        await schedules.lock_hosts(connection, carries)
        found = await store.fetch(connection, repository, for_update=True)
        if data == UpdateRepository():
            return (await states.describe(connection, [found], now=now))[0]
        changed = await store.update(connection, services.keys, found, data, now=now)
        (changed,) = await states.describe(connection, [changed], now=now)
        concerned = await schedules.move_version(connection, carries, now=now)
        await record(
            connection,
            request.user,
            "repository.update",
            at=now,
            target_kind="repository",
            target_id=changed.id,
            target=changed.name,
        )
        # Jobs that could not be handed out for want of a secret wait for this.
        waiting = await fetch_hosts_at(connection, changed.id)
        touch(connection, *concerned, *waiting)
    return changed


@post(
    "/{repository:str}/adopt",
    operation_id="adopt_repository",
    summary="Take a repository over, with its snapshots",
    description=(
        "Vouches for snapshots that no job of Backhaul made, so that a forget counts and removes "
        "them, and notes that the repository exists. A `snapshots` job has to have listed it. Can "
        "be repeated."
    ),
    status_code=200,
)
async def adopt_repository(
    request: OperatorRequest,
    services: Needs,
    repository: FromPath[str],
    data: JSONBody[AdoptRepository],
) -> Adoption:
    now = services.clock.now()
    async with services.database.writing() as connection:
        found = await store.fetch(connection, repository, for_update=True)
        await store.require_listed(connection, found)
        adopted, doubted = await vouch(connection, found.id, data.snapshots, now=now)
        found = await store.note_existence(connection, found, now=now)
        (found,) = await states.describe(connection, [found], now=now)
        await record(
            connection,
            request.user,
            "repository.adopt",
            at=now,
            target_kind="repository",
            target_id=found.id,
            target=found.name,
        )
    return Adoption(repository=found, adopted=adopted, doubted=doubted)


@delete(
    "/{repository:str}",
    operation_id="delete_repository",
    summary="Forget a repository",
    description=(
        "Destroys the stored secrets and the list of snapshots. Nothing is deleted at the "
        "repository's location; finished jobs keep its name. Refused while jobs or schedules "
        "use it."
    ),
)
async def delete_repository(
    request: OperatorRequest, services: Needs, repository: FromPath[str]
) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        await schedules.take_turn(connection)
        found = await store.fetch(connection, repository, for_update=True)
        await store.remove(connection, found, now=now)
        await record(
            connection,
            request.user,
            "repository.delete",
            at=now,
            target_kind="repository",
            target_id=found.id,
            target=found.name,
        )


router = Router(
    "/v1/repositories",
    route_handlers=[
        list_repositories,
        create_repository,
        get_repository,
        list_repository_sizes,
        update_repository,
        adopt_repository,
        delete_repository,
    ],
    tags=["repositories"],
)
