"""Around every request: its id, what every answer carries, and one line in the log.

Outside of Litestar's own handling, so that it covers answers which no handler gave: an unknown
path, a body that is too large, a failure.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from litestar import Litestar
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul_api.ids import new_id
from backhaul_api.logs import current_request_id, facts

if TYPE_CHECKING:
    from litestar.types import Message, Receive, Scope, Send

    from backhaul_api.front import Front
    from backhaul_api.identity import Actor, AgentIdentity

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"

REQUEST_ID = "request_id"
"""Where in the state of a request its id is."""

_REQUEST_ID_NAME = REQUEST_ID_HEADER.lower().encode()
_PROTOCOL_NAME = PROTOCOL_HEADER.lower().encode()

_AGENT_PATHS = ("/v1/agent/", "/v1/agents/")


class Api(Litestar):
    """The app, with a log line for each request."""

    front: Front
    """What answers requests where they come past ASGI: see `http_protocol`."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Leave out those for pydantic, which Litestar loads where it happens to be installed: a
        quarter of a cold start."""
        return [*plugins, MsgspecDIPlugin()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What was worked on before, past ASGI, has one.
        request_id = scope.setdefault("state", {}).setdefault(REQUEST_ID, new_id().hex)
        bound = current_request_id.set(request_id)
        begun = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_headers(scope, message["headers"])]
            await send(message)

        try:
            await super().__call__(scope, receive, send_marked)
        finally:
            note(str(scope.get("method")), scope["path"], status, begun, scope.get("user"))
            current_request_id.reset(bound)


def _headers(scope: Scope, present: Any) -> Iterator[tuple[bytes, bytes]]:
    """Build what every answer carries."""
    yield _REQUEST_ID_NAME, scope["state"][REQUEST_ID].encode()
    yield b"x-content-type-options", b"nosniff"
    if not any(name.lower() == b"cache-control" for name, _ in present):
        yield b"cache-control", b"no-store"
    if scope["path"].startswith(_AGENT_PATHS):
        yield _PROTOCOL_NAME, str(PROTOCOL_VERSION).encode()


def note(
    method: str, path: str, status: int, begun: float, who: Actor | AgentIdentity | None
) -> None:
    """Write the line of a request that began when the performance counter said so.

    The query is left out: people put secrets into queries.
    """
    # Not even built for a log that would not have it.
    if not log.isEnabledFor(logging.INFO):
        return
    told: dict[str, object] = {
        "method": method,
        "path": path,
        # 0: the client hung up before there was an answer.
        "status": status,
        "duration_ms": round((time.perf_counter() - begun) * 1000, 1),
    }
    if who is not None:
        told["actor"] = who.name
    log.info("request.done", extra=facts(**told))
