"""Around every request: its id, what every answer carries, and one line in the log.

Outside of Litestar's own handling, so that it covers answers which no handler gave: an unknown
path, a body that is too large, a failure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from litestar import Litestar
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul_api.front import Front
from backhaul_api.ids import new_id
from backhaul_api.logs import current_request_id
from backhaul_api.request_log import GIVEN_ID, REQUEST_ID, note

if TYPE_CHECKING:
    from litestar.types import Message, Receive, Scope, Send


REQUEST_ID_HEADER = "X-Request-Id"

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
        state = scope.setdefault("state", {})
        # What was worked on before, past ASGI, has one.
        request_id = state[REQUEST_ID] = state.pop(GIVEN_ID, None) or new_id().hex
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
