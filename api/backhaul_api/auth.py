"""Who is asking. Every route asks for an operator unless it says otherwise.

A route that needs no token has `opt=NOBODY` (login, health, documentation), one for agents has
`opt=AGENT`; a route that says nothing refuses everybody but operators. What is found is
`request.user`: an `Actor`, or an `AgentIdentity`.
"""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from backhaul.wire.problems import removal_message
from backhaul.wire.tokens import TokenKind, hash_token, parse_token_kind
from backhaul_api.errors import HostRemovedError, NotAuthenticatedError
from backhaul_api.hosts import store as hosts
from backhaul_api.identity import Actor, AgentIdentity
from backhaul_api.services import Services
from backhaul_api.users import store as users

NOBODY = {"authenticates": "nobody"}
AGENT = {"authenticates": "agent"}

OperatorRequest = Request[Actor, str, State]
AgentRequest = Request[AgentIdentity, str, State]


class AuthenticationMiddleware(AbstractAuthenticationMiddleware):
    """Finds who is asking before a handler runs."""

    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        services: Services = connection.app.state.services
        header = connection.headers.get("authorization")
        match connection.route_handler.opt.get("authenticates", "operator"):
            case "nobody":
                return AuthenticationResult(user=None, auth=None)
            case "agent":
                return AuthenticationResult(user=await find_agent(services, header), auth=None)
            case _:
                return AuthenticationResult(user=await find_operator(services, header), auth=None)


async def find_operator(services: Services, header: str | None) -> Actor:
    """Find the operator by a session token or an API token.

    Raises:
        NotAuthenticatedError: no token, or not one that is good here.
    """
    kind, token_hash = _read_token(header, TokenKind.SESSION, TokenKind.API)
    find = users.find_session if kind is TokenKind.SESSION else users.find_api_token
    async with services.database.reading() as connection:
        actor = await find(connection, token_hash, now=services.clock.now())
    if actor is None:
        raise NotAuthenticatedError(
            "The token is not known, was revoked, or has expired. Sign in again: backhaul login"
        )
    return actor


async def find_agent(services: Services, header: str | None) -> AgentIdentity:
    """Find the host by its agent token.

    Raises:
        NotAuthenticatedError: no token, or not one that is good here.
        HostRemovedError: the host was removed; the agent may retire.
    """
    _, token_hash = _read_token(header, TokenKind.AGENT)
    async with services.database.reading() as connection:
        agent = await hosts.find_agent(connection, token_hash)
    if agent is None:
        raise NotAuthenticatedError("The agent token is not known. Enrol the host again.")
    if agent.is_removed:
        signature = services.keys.sign(removal_message(agent.host_id))
        raise HostRemovedError(agent.host_id, signature)
    return agent


def _read_token(header: str | None, *kinds: TokenKind) -> tuple[TokenKind, bytes]:
    scheme, _, token = (header or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticatedError(
            "This needs a token: send the header 'Authorization: Bearer <token>'."
        )
    kind = parse_token_kind(token)
    if kind is None:
        raise NotAuthenticatedError("The token is cut or mistyped: its checksum is wrong.")
    if kind not in kinds:
        raise NotAuthenticatedError(f"A token that begins with {kind}_ does not serve here.")
    return kind, hash_token(token)
