"""/v1/hosts, /v1/enrollment-tokens and /v1/agents/enroll."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody, PathParameter, QueryParameter

from backhaul.wire.accounts import CreateEnrollmentToken, EnrollmentToken, NewEnrollmentToken
from backhaul.wire.agents import EnrollReply, EnrollRequest
from backhaul.wire.fleet import Host, HostState, UpdateHost
from backhaul.wire.pages import Page
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.audit.store import record
from backhaul_api.auth import ENROLLING, OperatorRequest
from backhaul_api.db.changes import identity_topic, touch
from backhaul_api.errors import InvalidError, NotAuthenticatedError
from backhaul_api.hosts import enrolment, presence, store
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
from backhaul_api.services import Needs

Labels = Annotated[
    list[str] | None,
    QueryParameter(
        description="`key=value`; only hosts with this label. May be repeated: all must match.",
    ),
]

State = Annotated[
    HostState | None, QueryParameter(name="state", description="Only hosts in this state.")
]

Force = Annotated[
    bool,
    QueryParameter(
        description="Remove it although it has begun jobs that are not over: they count as lost. "
        "For a host that is gone for good."
    ),
]


@get("/", operation_id="list_hosts", summary="List hosts by name")
async def list_hosts(
    services: Needs,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    label: Labels = None,
    *,
    in_state: State = None,
) -> Page[Host]:
    after = decode_cursor(cursor, tuple[str])[0] if cursor else None
    wanted = _parse_labels(label or [])
    now = services.clock.now()
    async with services.database.reading() as connection:
        found = await store.fetch_page(
            connection,
            limit=limit + 1,
            after=after,
            labels=wanted,
            condition=None if in_state is None else presence.is_in_state(in_state, now),
        )
        items, has_more = split_page(found, limit)
        items = await presence.complete(connection, items, now=now)
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].name) if has_more else None)


@get("/{host:str}", operation_id="get_host", summary="Get a host by name or id")
async def get_host(services: Needs, host: FromPath[str]) -> Host:
    async with services.database.reading() as connection:
        found = await store.fetch(connection, host)
        return (await presence.complete(connection, [found], now=services.clock.now()))[0]


@patch(
    "/{host:str}",
    operation_id="update_host",
    summary="Rename or relabel a host",
    description="`labels` replaces all labels that the host has.",
)
async def update_host(
    request: OperatorRequest, services: Needs, host: FromPath[str], data: JSONBody[UpdateHost]
) -> Host:
    check_name(data.name)
    now = services.clock.now()
    async with services.database.writing() as connection:
        found = await store.fetch(connection, host, for_update=True)
        if data == UpdateHost():
            changed = found
        else:
            changed = await store.update(connection, found, data)
            await record(
                connection,
                request.user,
                "host.update",
                at=now,
                target_kind="host",
                target_id=changed.id,
                target=changed.name,
            )
        return (await presence.complete(connection, [changed], now=now))[0]


@delete(
    "/{host:str}",
    operation_id="delete_host",
    summary="Remove a host",
    description=(
        "Its agent is told so when it asks next, and retires. Jobs that it has not begun are "
        "cancelled. Refused while the host has schedules, or jobs that it has begun and that are "
        "not over. Its finished jobs and snapshots stay."
    ),
)
async def delete_host(
    request: OperatorRequest, services: Needs, host: FromPath[str], force: Force = False
) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        found = await store.fetch(connection, host, for_update=True)
        ended = await store.remove(connection, found, now=now, force=force)
        await record(
            connection,
            request.user,
            "host.delete",
            at=now,
            target_kind="host",
            target_id=found.id,
            target=found.name,
        )
        # A poll that is parked now ends, and the next one is told.
        touch(connection, found.id, identity_topic(found.id), *ended)


@get(
    "/",
    operation_id="list_enrollment_tokens",
    summary="List the enrollment tokens that can still be used, oldest first",
)
async def list_enrollment_tokens(
    services: Needs, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[EnrollmentToken]:
    after = decode_cursor(cursor, tuple[UUID])[0] if cursor else None
    async with services.database.reading() as connection:
        found = await enrolment.fetch_tokens(
            connection, now=services.clock.now(), limit=limit + 1, after=after
        )
    items, has_more = split_page(found, limit)
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].id) if has_more else None)


@post(
    "/",
    operation_id="create_enrollment_token",
    summary="Make a token with which hosts can join",
    description=(
        "It serves once and for an hour unless the request says otherwise. The answer is the only "
        "place that ever shows the token."
    ),
)
async def create_enrollment_token(
    request: OperatorRequest,
    services: Needs,
    data: JSONBody[CreateEnrollmentToken],
    idempotency_key: IdempotencyKey = None,
) -> NewEnrollmentToken:
    check_name(data.host_name, field="host_name")
    if data.host_name is not None and data.uses != 1:
        raise InvalidError.of(
            "host_name", "one name serves one host; leave it out, or set uses to 1"
        )
    if request.user.id is None:
        raise NotAuthenticatedError("This needs an operator.")
    now = services.clock.now()
    secret = build_token(TokenKind.ENROLLMENT)
    async with services.database.writing() as connection:
        once = Once.of(request, services, idempotency_key, data)
        if (made := await once.recall(connection, NewEnrollmentToken)) is not None:
            return made
        token = await enrolment.insert_token(
            connection,
            data,
            created_by=request.user.id,
            token_hash=hash_token(secret),
            now=now,
        )
        await record(
            connection,
            request.user,
            "enrollment_token.create",
            at=now,
            target_kind="enrollment_token",
            target_id=token.id,
            target=token.host_name,
        )
        answer = NewEnrollmentToken(token=secret, enrollment_token=token)
        await once.keep(connection, answer)
    return answer


@delete(
    "/{token_id:uuid}",
    operation_id="delete_enrollment_token",
    summary="Revoke an enrollment token",
    description="Hosts that joined with it stay.",
)
async def delete_enrollment_token(
    request: OperatorRequest,
    services: Needs,
    token_id: Annotated[UUID, PathParameter(description="The token's id.")],
) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        await enrolment.delete_token(connection, token_id)
        await record(
            connection,
            request.user,
            "enrollment_token.delete",
            at=now,
            target_kind="enrollment_token",
            target_id=token_id,
        )


@post(
    "/enroll",
    opt=ENROLLING,
    operation_id="enroll_agent",
    summary="Join with an enrollment token",
    description=(
        "Sent by `backhaul agent enroll`. The host's name is the one that the token carries, else "
        "the one in the request, else the host's own name made acceptable. The answer is the only "
        "place that ever shows the agent's token. If it gets lost, the same token with the same "
        "public key is answered again, for the same host, until the token expires or the agent is "
        "heard of."
    ),
)
async def enroll_agent(services: Needs, data: JSONBody[EnrollRequest]) -> EnrollReply:
    async with services.database.writing() as connection:
        return await enrolment.enroll(
            connection, data, now=services.clock.now(), keys=services.keys
        )


def _parse_labels(texts: list[str]) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidError.of("label", "write key=value, like label=site=berlin")
        if wanted.setdefault(key, value) != value:
            raise InvalidError.of("label", f"{key} cannot have two values at once")
    return wanted


routers = [
    Router(
        "/v1/hosts", route_handlers=[list_hosts, get_host, update_host, delete_host], tags=["hosts"]
    ),
    Router(
        "/v1/enrollment-tokens",
        route_handlers=[list_enrollment_tokens, create_enrollment_token, delete_enrollment_token],
        tags=["enrollment-tokens"],
    ),
    Router("/v1/agents", route_handlers=[enroll_agent], tags=["agent protocol"]),
]
