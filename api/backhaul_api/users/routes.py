"""/v1/bootstrap, /v1/login, /v1/logout, /v1/me and /v1/api-tokens."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from litestar import Router, delete, get, post
from litestar.params import JSONBody, PathParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.accounts import (
    ApiToken,
    BootstrapRequest,
    CreateApiToken,
    LoginRequest,
    Me,
    NewApiToken,
    NewSession,
    User,
)
from backhaul.wire.jobs import ActorKind
from backhaul.wire.pages import Page
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.audit.store import record
from backhaul_api.auth import NOBODY, RATE_LIMITED, OperatorRequest
from backhaul_api.errors import ConflictError, NotAuthenticatedError
from backhaul_api.idempotency import IdempotencyKey, Once
from backhaul_api.identity import SYSTEM, Actor
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.services import Needs, Services
from backhaul_api.users import store, tokens
from backhaul_api.users.failed_logins import shorten

TokenId = Annotated[UUID, PathParameter(description="The token's id.")]


@post(
    "/bootstrap",
    opt=NOBODY | RATE_LIMITED,
    operation_id="bootstrap",
    summary="Create the first operator and sign in",
    description=(
        "`backhaul serve` prints the setup token when it starts on an empty database. It serves "
        "once, for 24 hours. On SQLite each start replaces it; on PostgreSQL, that of any instance "
        "serves. If the answer gets lost, the same request again signs in."
    ),
)
async def bootstrap(services: Needs, data: JSONBody[BootstrapRequest]) -> NewSession:
    now = services.clock.now()
    setup_hash = hash_token(data.setup_token)
    async with services.database.reading() as connection:
        # Looked at before the slow hash, so that a wrong token costs the server nothing.
        is_known = await store.has_setup_token(connection, setup_hash, now=now)
        is_over = await store.has_any(connection)
    if is_over and is_known:
        return await _sign_in_again(services, data)
    _refuse_bootstrap(is_over=is_over, is_known=is_known)
    password_hash = await services.passwords.hash(data.password)
    async with services.database.writing() as connection:
        await store.lock_setup_tokens(connection)
        is_known = await store.has_setup_token(connection, setup_hash, now=now)
        _refuse_bootstrap(is_over=await store.has_any(connection), is_known=is_known)
        user = await store.insert(connection, data.username, password_hash=password_hash, now=now)
        session = await _open_session(connection, services, user, now=now)
        await record(
            connection,
            _as_actor(user),
            "user.bootstrap",
            at=now,
            target_kind="user",
            target_id=user.id,
            target=user.username,
        )
    return session


async def _sign_in_again(services: Services, data: BootstrapRequest) -> NewSession:
    """Give the answer again to whoever has the token that was used, and the password."""
    request = LoginRequest(username=data.username, password=data.password)
    try:
        return await _sign_in(services, request)
    except NotAuthenticatedError:
        _refuse_bootstrap(is_over=True, is_known=True)
        raise


@post("/login", opt=NOBODY | RATE_LIMITED, operation_id="login", summary="Sign in")
async def login(services: Needs, data: JSONBody[LoginRequest]) -> NewSession:
    return await _sign_in(services, data)


async def _sign_in(services: Services, data: LoginRequest) -> NewSession:
    async with services.database.reading() as connection:
        account = await store.fetch_account(connection, data.username)
    # An unknown name is checked against a hash too, so that the time does not tell it apart.
    stored = account.password_hash if account else None
    if not await services.passwords.verify(stored, data.password) or account is None:
        await _note_failed_login(services, data.username)
        raise NotAuthenticatedError("The username or the password is wrong.")
    rehashed = (
        await services.passwords.hash(data.password)
        if services.passwords.needs_rehash(account.password_hash)
        else None
    )
    now = services.clock.now()
    async with services.database.writing() as connection:
        if rehashed is not None:
            await store.update_password(connection, account.user.id, password_hash=rehashed)
        session = await _open_session(connection, services, account.user, now=now)
        await record(
            connection,
            _as_actor(account.user),
            "session.create",
            at=now,
            target_kind="user",
            target_id=account.user.id,
            target=account.user.username,
        )
    return session


@post(
    "/logout",
    status_code=204,
    operation_id="logout",
    summary="Sign out",
    description="Ends the session whose token is sent. An API token is not revoked by it.",
)
async def logout(request: OperatorRequest, services: Needs) -> None:
    actor = request.user
    if actor.authenticated_by != "session" or actor.token_id is None:
        raise ConflictError(
            "An API token has no session to end. Revoke it with DELETE /v1/api-tokens/{id}."
        )
    now = services.clock.now()
    async with services.database.writing() as connection:
        await store.delete_session(connection, _user_id(actor), actor.token_id)
        await record(
            connection,
            actor,
            "session.delete",
            at=now,
            target_kind="user",
            target_id=actor.id,
            target=actor.name,
        )


@get("/me", operation_id="get_me", summary="Tell who is asking")
async def get_me(request: OperatorRequest, services: Needs) -> Me:
    actor = request.user
    async with services.database.reading() as connection:
        user = await store.fetch(connection, _user_id(actor))
    return Me(
        user=user,
        authenticated_by=actor.authenticated_by or "session",
        expires_at=actor.expires_at,
    )


@get("/", operation_id="list_api_tokens", summary="List your API tokens, oldest first")
async def list_api_tokens(
    request: OperatorRequest, services: Needs, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[ApiToken]:
    after = decode_cursor(cursor, tuple[UUID])[0] if cursor else None
    async with services.database.reading() as connection:
        found = await tokens.fetch_page(
            connection, _user_id(request.user), limit=limit + 1, after=after
        )
    items, has_more = split_page(found, limit)
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].id) if has_more else None)


@post(
    "/",
    operation_id="create_api_token",
    summary="Make an API token for scripts",
    description="The answer is the only place that ever shows the token.",
)
async def create_api_token(
    request: OperatorRequest,
    services: Needs,
    data: JSONBody[CreateApiToken],
    idempotency_key: IdempotencyKey = None,
) -> NewApiToken:
    now = services.clock.now()
    secret = build_token(TokenKind.API)
    token = tokens.build(data.name, now=now, expires_in=data.expires_in)
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, NewApiToken)) is not None:
            return made
        await tokens.insert(
            connection, _user_id(request.user), token, token_hash=hash_token(secret)
        )
        await record(
            connection,
            request.user,
            "api_token.create",
            at=now,
            target_kind="api_token",
            target_id=token.id,
            target=token.name,
        )
        answer = NewApiToken(token=secret, api_token=token)
        await once.keep(connection, answer)
    return answer


@delete("/{token_id:uuid}", operation_id="delete_api_token", summary="Revoke an API token")
async def delete_api_token(request: OperatorRequest, services: Needs, token_id: TokenId) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        token = await tokens.delete(connection, _user_id(request.user), token_id)
        await record(
            connection,
            request.user,
            "api_token.delete",
            at=now,
            target_kind="api_token",
            target_id=token.id,
            target=token.name,
        )


def _refuse_bootstrap(*, is_over: bool, is_known: bool) -> None:
    if is_over:
        raise ConflictError("This server has an operator already. Sign in instead: backhaul login")
    if not is_known:
        raise NotAuthenticatedError(
            "The setup token is wrong or has expired. `backhaul serve` prints a new one when it "
            "starts."
        )


async def _open_session(
    connection: AsyncConnection, services: Services, user: User, *, now: datetime
) -> NewSession:
    token = build_token(TokenKind.SESSION)
    expires_at = now + timedelta(seconds=services.settings.session_lifetime)
    await store.insert_session(
        connection, user.id, token_hash=hash_token(token), now=now, expires_at=expires_at
    )
    await store.note_login(connection, user.id, now=now)
    signed_in = User(
        id=user.id, username=user.username, created_at=user.created_at, last_login_at=now
    )
    return NewSession(token=token, expires_at=expires_at, user=signed_in)


async def _note_failed_login(services: Services, username: str) -> None:
    now = services.clock.now()
    tried = shorten(username)
    if services.failed_logins.is_worth_noting(tried, now=now):
        async with services.database.writing() as connection:
            await record(
                connection, SYSTEM, "account.login_failed", at=now, target_kind="user", target=tried
            )


def _as_actor(user: User) -> Actor:
    return Actor(kind=ActorKind.USER, id=user.id, name=user.username)


def _user_id(actor: Actor) -> UUID:
    if actor.id is None:
        raise NotAuthenticatedError("This needs an operator.")
    return actor.id


routers = [
    Router("/v1", route_handlers=[bootstrap, login, logout, get_me], tags=["account"]),
    Router(
        "/v1/api-tokens",
        route_handlers=[list_api_tokens, create_api_token, delete_api_token],
        tags=["api-tokens"],
    ),
]
