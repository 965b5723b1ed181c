"""Polls and batches, answered on their connection: what is between it and a handler of Litestar's
costs more than what they ask for, and most of what a parked poll weighs.

Whatever is wrong with a request (its token, its body, a database that is away) passes it on to the
ordinary route, which says so. So errors are told in one place, and this is only ever a shorter way
to the same answer: a batch that was applied and comes again is a duplicate. The poll of a quiet
host is parked without any query and without a task: see `memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from backhaul.wire.agents import PollReply, PollRequest
from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul.wire.tokens import hash_token
from backhaul_api.auth import find_agent
from backhaul_api.polling.parking import Connection
from backhaul_api.polling.poll import Poll, QuietPoll, build_farewell, build_refusal, is_crowded
from backhaul_api.polling.receive import receive as apply_batch
from backhaul_api.services import Services

Headers = Sequence[tuple[bytes, bytes]]
"""With names in lower case."""

_BEARER_LENGTH = len("Bearer ")
_PROTOCOL = str(PROTOCOL_VERSION).encode()
_PROTOCOL_NAME = PROTOCOL_HEADER.lower().encode()
_ONCE = frozenset({b"authorization", _PROTOCOL_NAME})

_decoder = msgspec.json.Decoder(PollRequest)
_encoder = msgspec.json.Encoder()


class Exchange(Connection, Protocol):
    """The connection of a request that came whole, and waits for its answer."""

    def respond(self, body: bytes) -> None:
        """Answer with 200 and a JSON document."""

    def pass_on(self, headers: Headers, body: bytes) -> None:
        """Leave the request, which has these, to the ordinary route."""

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run what is to answer it."""


Answer = Callable[[Exchange, Headers, bytes], None]
"""Answers a request, or passes it on; now or later."""


class Front:
    """Answers polls and batches."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.answers: Mapping[bytes, Answer] = {
            b"/v1/agent/poll": self.poll,
            b"/v1/agent/envelopes": self.take,
        }
        """What takes the POSTs to a path."""

    def poll(self, exchange: Exchange, headers: Headers, raw: bytes) -> None:
        """Answer a poll."""
        try:
            header, body = _read_token(headers), _decoder.decode(raw)
            quiet = self._find_quiet(exchange, header, body)
        except Exception:  # noqa: BLE001 (whatever it is, the ordinary route meets it and says so)
            exchange.pass_on(headers, raw)
            return
        if quiet is None:
            exchange.run(_answer(exchange, header, body, self._look(exchange, header, body)))
        elif body.hold <= 0:
            exchange.respond(_encoder.encode(quiet.build_empty_reply()))
        else:
            # Of the request, no more is kept than what it says.
            quiet.park(lambda quiet: self._wake(exchange, header, quiet))

    def take(self, exchange: Exchange, headers: Headers, raw: bytes) -> None:
        """Answer a batch."""
        exchange.run(self._take(exchange, headers, raw))

    async def _take(self, exchange: Exchange, headers: Headers, raw: bytes) -> None:
        try:
            agent = await find_agent(self._services, _read_token(headers))
            reply = await apply_batch(self._services, agent, raw)
        except Exception:  # noqa: BLE001 (as above)
            exchange.pass_on(headers, raw)
        else:
            exchange.respond(_encoder.encode(reply))

    def _find_quiet(self, exchange: Exchange, header: str, body: PollRequest) -> QuietPoll | None:
        """Find out whether the poll is of a quiet host. From here until it is parked nothing is
        awaited, so no wake-up can be missed."""
        services, memory = self._services, self._services.wakeups.memory
        if not memory.is_trusted or services.wakeups.is_draining:
            return None
        quiet = memory.find(hash_token(header[_BEARER_LENGTH:]))
        if quiet is None or not quiet.is_same(body):
            return None
        memory.hear(quiet.host_id, services.clock.now())
        poll = Poll(services, quiet.host_id, body, quiet.name, quiet.token_hash, exchange)
        return QuietPoll(poll, exchange)

    def _wake(self, exchange: Exchange, header: str, quiet: QuietPoll) -> None:
        """Go on with a poll that was parked."""
        if quiet.has_news():
            exchange.run(_answer(exchange, header, quiet.body, quiet.look()))
        else:
            exchange.respond(_encoder.encode(quiet.build_empty_reply()))

    async def _look(self, exchange: Exchange, header: str, body: PollRequest) -> PollReply:
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
        poll = Poll(services, agent.host_id, body, agent.name, agent.token_hash, exchange)
        return await poll.answer()


async def _answer(
    exchange: Exchange,
    header: str,
    body: PollRequest,
    replying: Coroutine[Any, Any, PollReply],
) -> None:
    """Answer a poll with what comes of it."""
    try:
        reply = await replying
    except Exception:  # noqa: BLE001 (as above)
        exchange.pass_on(_build_headers(header), _encoder.encode(body))
    else:
        exchange.respond(_encoder.encode(reply))


class _UnreadableError(Exception):
    """A request that only the ordinary route can answer."""


def _read_token(headers: Headers) -> str:
    """Find the header with a bearer token, of an agent that speaks this protocol and sends JSON.

    Which of two tokens counts is for the ordinary route to say.
    """
    authorization, protocol = None, None
    for name, value in headers:
        if name == b"authorization" and authorization is None:
            authorization = value
        elif name == _PROTOCOL_NAME and protocol is None:
            protocol = value.strip()
        elif name in _ONCE or (name == b"content-type" and value != b"application/json"):
            raise _UnreadableError
    if authorization is None or protocol != _PROTOCOL:
        raise _UnreadableError
    if authorization[:_BEARER_LENGTH].lower() != b"bearer ":
        raise _UnreadableError
    return authorization.decode("latin-1")


def _build_headers(header: str) -> Headers:
    """Build the headers of a poll anew, of which only the token was kept."""
    return [
        (b"authorization", header.encode("latin-1")),
        (_PROTOCOL_NAME, _PROTOCOL),
        (b"content-type", b"application/json"),
    ]
