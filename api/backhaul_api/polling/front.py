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
from backhaul_api.polling.poll import Poll, QuietPoll, build_farewell, build_refusal, is_crowded
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
            header, body = _read(scope, message)
            quiet = self._find_quiet(scope, header, body, receive)
            if quiet is None:
                reply = await self._reply(scope, header, body, receive)
            elif body.hold <= 0:
                reply = quiet.answer_at_once()
            else:
                # Neither the message nor a coroutine below this one is kept while it is parked.
                message = None
                waiting = quiet.park()
                try:
                    await waiting
                finally:
                    quiet.leave()
                reply = await quiet.answer()
        except Exception:  # noqa: BLE001 (whatever it is, the ordinary route meets it and says so)
            message = message or _build_message(body)
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

    def _find_quiet(
        self, scope: Any, header: str, body: PollRequest, receive: Any
    ) -> QuietPoll | None:
        """Find out whether the poll is of a quiet host. From here until it is parked nothing is
        awaited, so no wake-up can be missed."""
        services, memory = self._services, self._services.wakeups.memory
        if not memory.is_trusted or services.wakeups.is_draining:
            return None
        quiet = memory.find(hash_token(header[_BEARER_LENGTH:]))
        if quiet is None or not quiet.is_same(body):
            return None
        memory.hear(quiet.host_id, services.clock.now())
        poll = Poll(
            services,
            quiet.host_id,
            body,
            receive,
            quiet.name,
            quiet.token_hash,
            scope[CONNECTION],
        )
        return QuietPoll(poll)

    async def _reply(self, scope: Any, header: str, body: PollRequest, receive: Any) -> PollReply:
        """Build the answer of a poll that has to look."""
        services = self._services
        if services.wakeups.is_draining:
            # Whoever it is: there is nothing in it, and the database may be slow.
            return build_farewell(services)
        if is_crowded(services):
            # Nor is the database asked who it is: that would be the same crowd before another door.
            return build_refusal(services)
        with services.wakeups.cuttable() as cut:
            agent = await find_agent(services, header)
        if cut.is_cut:
            return build_farewell(services)
        poll = Poll(
            services, agent.host_id, body, receive, agent.name, agent.token_hash, scope[CONNECTION]
        )
        return await poll.answer()


class _UnreadableError(Exception):
    """A request that only the ordinary route can answer."""


def _read(scope: Any, message: Any) -> tuple[str, PollRequest]:
    """Read the header with the token, and the body."""
    header, protocol = _read_headers(scope["headers"])
    is_whole = message["type"] == "http.request" and not message.get("more_body")
    if scope.get(CONNECTION) is None or not is_whole or header is None or protocol != _PROTOCOL:
        raise _UnreadableError
    return header, _decoder.decode(message.get("body", b""))


def _build_message(body: PollRequest) -> dict[str, Any]:
    return {"type": "http.request", "body": _encoder.encode(body), "more_body": False}


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
