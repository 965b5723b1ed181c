"""Who is asking. Every route asks for an operator unless it says otherwise.

A route that needs no token has `opt=NOBODY` (login, health, documentation), one for agents has
`opt=AGENT`, enrolment has `opt=ENROLLING`, and one that a timer may ask has `opt=TIMER`; a route
that says nothing refuses everybody but operators. What is found is `request.user`: an `Actor`, or
an `AgentIdentity`. Routes for agents also demand the protocol header.
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from backhaul.wire.base import PROTOCOL_HEADER, SPOKEN_PROTOCOLS
from backhaul.wire.problems import removal_message
from backhaul.wire.tokens import TokenKind, hash_token, parse_token_kind
from backhaul_api.db.changes import identity_topic
from backhaul_api.errors import (
    HostRemovedError,
    InvalidError,
    NotAuthenticatedError,
    NotReadyError,
    UnsupportedProtocolError,
)
from backhaul_api.hosts import store as hosts
from backhaul_api.identity import SYSTEM, Actor, AgentIdentity
from backhaul_api.parameters import check_query
from backhaul_api.polling.memory import KnownOperator
from backhaul_api.services import Services
from backhaul_api.users import store as users
from backhaul_api.users import tokens

NOBODY = {"authenticates": "nobody"}
AGENT = {"authenticates": "agent", "speaks_protocol": True}
ENROLLING = {"authenticates": "nobody", "speaks_protocol": True}
TIMER = {"authenticates": "timer"}
RATE_LIMITED = {"is_rate_limited": True}
"""Besides one of the others: it costs the server much, and may be told to come back later."""

ATTEMPT = "attempt"
"""Where in the state of a request is what became of it already, if anything."""

OperatorRequest = Request[Actor, str, State]
AgentRequest = Request[AgentIdentity, str, State]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that was worked on in vain, past ASGI: only the error is left to tell.

    It is not handled again, for nobody knows whether a commit that failed has left something.
    """

    actor: Actor
    error: Exception


class AuthenticationMiddleware(AbstractAuthenticationMiddleware):
    """Finds who is asking before a handler runs."""

    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        attempt: Attempt | None = connection.scope["state"].pop(ATTEMPT, None)
        if attempt is not None:
            connection.scope["user"] = attempt.actor
            raise attempt.error
        services: Services = connection.app.state.services
        if "\x00" in connection.scope["path"] or b"%00" in connection.scope["query_string"]:
            raise InvalidError.of("", "the address contains the NUL character; remove it")
        header = connection.headers.get("authorization")
        if connection.route_handler.opt.get("speaks_protocol"):
            check_protocol(connection.headers.get(PROTOCOL_HEADER))
        match connection.route_handler.opt.get("authenticates", "operator"):
            case "nobody":
                return AuthenticationResult(user=None, auth=None)
            case "agent":
                return AuthenticationResult(user=await find_agent(services, header), auth=None)
            case "timer" if _is_tick_token(services, header):
                return AuthenticationResult(user=SYSTEM, auth=None)
            case _:
                operator = await find_operator(services, header)
                # Agents may be newer than this server; what they send too much is ignored.
                if connection.scope["query_string"]:
                    check_query(connection.route_handler, connection.query_params.multi_items())
                return AuthenticationResult(user=operator, auth=None)


def check_protocol(header: str | None) -> None:
    """Demand a protocol version that this server speaks.

    Raises:
        UnsupportedProtocolError: none was named, or another.
    """
    spoken = range(SPOKEN_PROTOCOLS.minimum, SPOKEN_PROTOCOLS.maximum + 1)
    if header is None or header.strip() not in map(str, spoken):
        raise UnsupportedProtocolError(header or "none")


async def find_operator(services: Services, header: str | None) -> Actor:
    """Find the operator by a session token or an API token.

    Raises:
        NotAuthenticatedError: no token, or not one that is good here.
    """
    token = _read_token(header)
    token_hash = hash_token(token)
    memory, now = services.wakeups.memory, services.clock.now()
    mark = services.database.read_mark()
    if (known := memory.find_operator(token_hash, now, mark)) is not None:
        return known
    kind = _check_kind(token, TokenKind.SESSION, TokenKind.API)
    find = users.find_session if kind is TokenKind.SESSION else tokens.find
    with memory.introduce_operator() as remember:
        async with services.database.reading() as connection:
            actor = await find(connection, token_hash, now=now)
        if actor is None:
            raise NotAuthenticatedError("The token is not known, was revoked, or has expired.")
        assert actor.id is not None  # noqa: S101 (only operators have such tokens)
        remember(token_hash, KnownOperator.build(actor, now, mark), identity_topic(actor.id))
    if tokens.is_use_worth_noting(actor, now=now):
        # On a full disk, say, operators can still look: this much is worth nobody's answer.
        with suppress(NotReadyError):
            async with services.database.writing() as connection:
                await tokens.note_use(connection, actor, now=now)
    return actor


async def find_agent(services: Services, header: str | None) -> AgentIdentity:
    """Find the host by its agent token.

    Raises:
        NotAuthenticatedError: no token, or not one that is good here.
        HostRemovedError: the host was removed; the agent may retire.
    """
    token = _read_token(header)
    token_hash = hash_token(token)
    memory = services.wakeups.memory
    if (known := memory.find_agent(token_hash)) is not None:
        return known
    _check_kind(token, TokenKind.AGENT)
    with memory.agents.introduce() as remember:
        async with services.database.reading() as connection:
            agent = await hosts.find_agent(connection, token_hash)
        if agent is None:
            raise NotAuthenticatedError("The agent token is not known. Enrol the host again.")
        if not agent.is_removed:
            remember(token_hash, agent, identity_topic(agent.host_id))
    if agent.is_removed:
        signature = services.keys.sign(removal_message(agent.host_id))
        raise HostRemovedError(agent.host_id, signature)
    return agent


def _is_tick_token(services: Services, header: str | None) -> bool:
    wanted = services.settings.tick_token
    scheme, _, token = (header or "").partition(" ")
    if wanted is None or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(token.strip().encode(), wanted.encode())


def _read_token(header: str | None) -> str:
    scheme, _, token = (header or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticatedError(
            "This needs a token: send the header 'Authorization: Bearer <token>'."
        )
    return token


def _check_kind(token: str, *kinds: TokenKind) -> TokenKind:
    kind = parse_token_kind(token)
    if kind is None:
        raise NotAuthenticatedError("The token is cut or mistyped: its checksum is wrong.")
    if kind not in kinds:
        raise NotAuthenticatedError(f"A token that begins with {kind}_ does not serve here.")
    return kind
