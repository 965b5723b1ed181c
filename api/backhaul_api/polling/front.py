"""Polls and batches, answered in front of Litestar: its stack costs more than what they ask for.

Whatever is wrong with a request (its token, its body, a database that is away) sends it on to
Litestar and the ordinary route, which say so. So errors are told in one place, and this is only
ever a shorter way to the same answer: a batch that was applied and comes again is a duplicate. The
poll of a quiet host is parked without any query: see `memory`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from backhaul.wire.agents import MAX_BATCH_BYTES, BatchReply, PollReply, PollRequest
from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul.wire.tokens import hash_token
from backhaul_api.auth import find_agent
from backhaul_api.ids import new_id
from backhaul_api.polling.parking import CONNECTION
from backhaul_api.polling.poll import Poll, build_farewell, build_refusal, is_crowded
from backhaul_api.polling.receive import receive as apply_batch
from backhaul_api.services import Services

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

    App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BEARER_LENGTH = len("Bearer ")
_PROTOCOL = str(PROTOCOL_VERSION).encode()
_PROTOCOL_NAME = PROTOCOL_HEADER.lower().encode()
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (_PROTOCOL_NAME, _PROTOCOL),
]

_decoder = msgspec.json.Decoder(PollRequest)
_encoder = msgspec.json.Encoder()


class Front:
    """Answers polls and batches."""

    def __init__(self, services: Services, app: App) -> None:
        self._services = services
        self._app = app

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request for the path of polls."""
        message = await receive()
        try:
            reply = await self._reply(scope, message, receive)
        except Exception:  # noqa: BLE001 (whatever it is, the ordinary route meets it and says so)
            reply = None
        if reply is None:
            return await self._app(scope, _again([message], receive), send)
        return await _send(send, _encoder.encode(reply))

    async def take(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request for the path of batches."""
        messages: list[Any] = []
        try:
            reply = await self._apply(scope, messages, receive)
        except Exception:  # noqa: BLE001 (as above)
            reply = None
        if reply is None:
            return await self._app(scope, _again(messages, receive), send)
        return await _send(send, _encoder.encode(reply))

    async def _apply(self, scope: Any, messages: list[Any], receive: Any) -> BatchReply | None:
        """Apply a batch; `messages` gets what was taken of the request."""
        header, protocol = _read_headers(scope["headers"])
        if header is None or protocol != _PROTOCOL:
            return None
        # First, for a stranger's body is not worth reading.
        agent = await find_agent(self._services, header)
        body = bytearray()
        while True:
            message = await receive()
            messages.append(message)
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > MAX_BATCH_BYTES:
                return None
            if not message.get("more_body"):
                break
        return await apply_batch(self._services, agent, bytes(body))

    async def _reply(self, scope: Any, message: Any, receive: Any) -> PollReply | None:
        """Build the answer; None where the ordinary route has to say what is wrong."""
        services, connection = self._services, scope.get(CONNECTION)
        if connection is None or message["type"] != "http.request" or message.get("more_body"):
            return None
        header, protocol = _read_headers(scope["headers"])
        if header is None or protocol != _PROTOCOL:
            return None
        body = _decoder.decode(message.get("body", b""))
        if services.wakeups.is_draining:
            # Whoever it is: there is nothing in it, and the database may be slow.
            return build_farewell(services)
        memory = services.wakeups.memory
        quiet = memory.find(hash_token(header[_BEARER_LENGTH:])) if memory.is_trusted else None
        # From here to the wait nothing is awaited: no wake-up can be missed.
        if quiet is not None and quiet.is_same(body):
            memory.hear(quiet.host_id, services.clock.now())
            poll = Poll(
                services, quiet.host_id, body, receive, quiet.name, quiet.token_hash, connection
            )
            return await poll.wait_quietly()
        if is_crowded(services):
            # Nor is the database asked who it is: that would be the same crowd before another door.
            return build_refusal(services)
        with services.wakeups.cuttable() as cut:
            agent = await find_agent(services, header)
        if cut.is_cut:
            return build_farewell(services)
        poll = Poll(
            services, agent.host_id, body, receive, agent.name, agent.token_hash, connection
        )
        return await poll.answer()


def _read_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, bytes | None]:
    """Find the header with a bearer token, and the protocol."""
    authorization, protocol = None, None
    for name, value in headers:
        if name == b"authorization" and value[:_BEARER_LENGTH].lower() == b"bearer ":
            authorization = value.decode("latin-1")
        elif name == _PROTOCOL_NAME:
            protocol = value.strip()
    return authorization, protocol


def _again(messages: list[Any], receive: Any) -> Any:
    """Give messages that were taken once more, and what follows after them."""
    waiting = deque(messages)

    async def receive_again() -> Any:
        return waiting.popleft() if waiting else await receive()

    return receive_again


async def _send(send: Send, body: bytes) -> None:
    headers = [
        *_HEADERS,
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", new_id().hex.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
