"""/v1/users: operators manage operators. All are equal; the last one who can sign in stays."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Router, delete, get, patch, post
from litestar.params import JSONBody, PathParameter
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.accounts import CreateUser, UpdateUser, User
from backhaul.wire.pages import Page
from backhaul_api.audit.store import record
from backhaul_api.auth import RATE_LIMITED, OperatorRequest
from backhaul_api.idempotency import IdempotencyKey, Once
from backhaul_api.identity import Actor
from backhaul_api.names import check_name
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.services import Needs
from backhaul_api.users import store, tokens

_User = Annotated[str, PathParameter(description="The operator's username or id.")]


@get("/", operation_id="list_users", summary="List the operators, oldest first")
async def list_users(
    services: Needs, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[User]:
    after = decode_cursor(cursor, tuple[UUID])[0] if cursor else None
    async with services.database.reading() as connection:
        found = await store.fetch_page(connection, limit=limit + 1, after=after)
    items, has_more = split_page(found, limit)
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].id) if has_more else None)


@post("/", opt=RATE_LIMITED, operation_id="create_user", summary="Create an operator")
async def create_user(
    request: OperatorRequest,
    services: Needs,
    data: JSONBody[CreateUser],
    idempotency_key: IdempotencyKey = None,
) -> User:
    check_name(data.username, field="username")
    password_hash = await services.passwords.hash(data.password)
    now = services.clock.now()
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, User)) is not None:
            return made
        user = await store.insert(connection, data.username, password_hash=password_hash, now=now)
        await _record(connection, request.user, "user.create", user, at=now)
        await once.keep(connection, user)
    return user


@get("/{user:str}", operation_id="get_user", summary="Get an operator by username or id")
async def get_user(services: Needs, user: _User) -> User:
    async with services.database.reading() as connection:
        return await store.find(connection, user)


@patch(
    "/{user:str}",
    opt=RATE_LIMITED,
    operation_id="update_user",
    summary="Give an operator a new password, or shut one out",
    description=(
        "A new password ends the operator's sessions, but for the one that asks, and revokes the "
        "API tokens unless `keep_tokens` is set: whoever had the old one could have made some. "
        "While an operator is disabled, neither password nor API tokens serve; the sessions end."
    ),
)
async def update_user(
    request: OperatorRequest, services: Needs, user: _User, data: JSONBody[UpdateUser]
) -> User:
    password_hash = None if data.password is UNSET else await services.passwords.hash(data.password)
    now = services.clock.now()
    async with services.database.writing() as connection:
        found = await store.find(connection, user)
        if password_hash is not None:
            await store.update_password(connection, found.id, password_hash=password_hash)
            await store.delete_sessions_of(connection, found.id, but=request.user.token_id)
            if not data.keep_tokens:
                await tokens.delete_all_of(connection, found.id)
            await _record(connection, request.user, "user.reset_password", found, at=now)
        if data.disabled is not UNSET and data.disabled != (found.disabled_at is not None):
            if data.disabled:
                await store.refuse_last(connection, found)
                await store.delete_sessions_of(connection, found.id)
            await store.set_disabled(connection, found.id, at=now if data.disabled else None)
            action = "user.disable" if data.disabled else "user.enable"
            await _record(connection, request.user, action, found, at=now)
        return await store.fetch(connection, found.id)


@delete(
    "/{user:str}",
    operation_id="delete_user",
    summary="Remove an operator",
    description=(
        "Sessions, API tokens and enrollment tokens of the operator go too; hosts that joined "
        "stay, and so does what the audit log tells."
    ),
)
async def delete_user(request: OperatorRequest, services: Needs, user: _User) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        found = await store.find(connection, user)
        await store.refuse_last(connection, found)
        await store.delete(connection, found.id)
        await _record(connection, request.user, "user.delete", found, at=now)


async def _record(
    connection: AsyncConnection, actor: Actor, action: str, user: User, *, at: datetime
) -> None:
    await record(
        connection,
        actor,
        action,
        at=at,
        target_kind="user",
        target_id=user.id,
        target=user.username,
    )


router = Router(
    "/v1/users",
    route_handlers=[list_users, create_user, get_user, update_user, delete_user],
    tags=["users"],
)
