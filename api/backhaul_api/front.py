"""What is asked most, answered on its connection: agents' polls and batches, and operators' jobs.

What is between it and a handler of Litestar's costs more than what they ask for, and most of what a
parked poll weighs.

Whatever is wrong with a request (its token, its body, a database that is away) passes it on to the
ordinary route, which says so. So errors are told in one place, and this is only ever a shorter way
to the same answer: a batch that was applied and comes again is a duplicate. A job, though, would be
made twice: once its transaction has begun, the ordinary route is only given the error to tell. The
poll of a quiet host is parked without any query and without a task: see `polling.memory`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from backhaul.wire.agents import PollReply, PollRequest
from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul.wire.job_batches import CreateJobs
from backhaul.wire.kinds import JobRequest
from backhaul.wire.tokens import hash_token
from backhaul_api.auth import ATTEMPT, Attempt, find_agent, find_operator
from backhaul_api.bodies import decode_body
from backhaul_api.errors import DomainError
from backhaul_api.idempotency import HEADER as KEY_HEADER
from backhaul_api.idempotency import Once, is_key
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id
from backhaul_api.jobs import creation
from backhaul_api.logs import current_request_id, facts
from backhaul_api.polling.parking import Connection
from backhaul_api.polling.poll import HeldPoll, Poll, build_farewell, build_refusal, is_crowded
from backhaul_api.polling.receive import receive as apply_batch
from backhaul_api.request_log import GIVEN_ID, note
from backhaul_api.services import Services

Headers = Sequence[tuple[bytes, bytes]]
"""With names in lower case."""

_BEARER_LENGTH = len("Bearer ")
_PROTOCOL = str(PROTOCOL_VERSION).encode()
_PROTOCOL_NAME = PROTOCOL_HEADER.lower().encode()
_KEY_NAME = KEY_HEADER.lower().encode()

log = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(PollRequest)
_encoder = msgspec.json.Encoder()


State = Mapping[str, object]

NOTHING_KNOWN: State = MappingProxyType({})


class Exchange(Connection, Protocol):
    """The connection of a request that came whole, and waits for its answer."""

    def respond(self, body: bytes) -> None:
        """Answer an agent with 200 and a JSON document."""

    def respond_created(self, body: bytes, request_id: str) -> None:
        """Answer an operator with 201 and a JSON document."""

    def pass_on(self, headers: Headers, body: bytes, state: State = NOTHING_KNOWN) -> None:
        """Leave the request, which has these, to the ordinary route, with what is known of it."""

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run what is to answer it."""


Answer = Callable[[Exchange, Headers, bytes], None]
"""Answers a request, or passes it on; now or later."""


@dataclass(frozen=True, slots=True)
class _Creation:
    """An address at which operators create something."""

    path: str
    takes: Any
    """The type of the body."""
    create: Callable[[Services, Actor, Any, Once], Awaitable[object]]


_CREATIONS = (
    _Creation("/v1/jobs", JobRequest, creation.create),
    _Creation("/v1/jobs/batch", CreateJobs, creation.create_many),
)


class Front:
    """Answers polls and batches, and creates jobs."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.answers: Mapping[bytes, Answer] = {
            b"/v1/agent/poll": self.poll,
            b"/v1/agent/envelopes": self.take,
            **{one.path.encode(): partial(self.create, one) for one in _CREATIONS},
        }
        """What takes the POSTs to a path."""

    def poll(self, exchange: Exchange, headers: Headers, raw: bytes) -> None:
        """Answer a poll."""
        try:
            header, body = _read_token(headers), _decoder.decode(raw)
            held = self._find_quiet(exchange, header, body)
        except Exception:  # noqa: BLE001 (whatever it is, the ordinary route meets it and says so)
            exchange.pass_on(headers, raw)
            return
        if held is None:
            exchange.run(self._look(exchange, header, body))
            return
        held.enter()
        self._park(exchange, header, held)

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

    def create(self, what: _Creation, exchange: Exchange, headers: Headers, raw: bytes) -> None:
        """Create what an operator asks for."""
        exchange.run(self._create(what, exchange, headers, raw))

    async def _create(
        self, what: _Creation, exchange: Exchange, headers: Headers, raw: bytes
    ) -> None:
        services, begun, request_id = self._services, time.perf_counter(), new_id().hex
        current_request_id.set(request_id)  # of this task alone
        known: dict[str, object] = {GIVEN_ID: request_id}
        try:
            token, key = _read_operators(headers)
            actor = await find_operator(services, token)
            data = decode_body(raw, what.takes)
        except Exception:  # noqa: BLE001 (as above)
            exchange.pass_on(headers, raw, known)
            return
        try:
            once = Once(services, actor, key, path=what.path, data=data)
            body = _encoder.encode(await what.create(services, actor, data, once))
        except Exception as error:  # noqa: BLE001 (as above; but nothing is begun again)
            if exchange.has_hung_up():
                _note_lost(what.path, begun, actor, error)
            else:
                exchange.pass_on(headers, raw, {**known, ATTEMPT: Attempt(actor, error)})
        else:
            exchange.respond_created(body, request_id)
            note("POST", what.path, 201, begun, actor)

    def _find_quiet(self, exchange: Exchange, header: str, body: PollRequest) -> HeldPoll | None:
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
        return HeldPoll(poll, exchange)

    def _park(self, exchange: Exchange, header: str, held: HeldPoll) -> None:
        # Of the request, no more is kept than what it says.
        held.park(lambda held: self._wake(exchange, header, held))

    def _wake(self, exchange: Exchange, header: str, held: HeldPoll) -> None:
        """Go on with a poll that was parked."""
        if held.has_to_look():
            exchange.run(self._look(exchange, header, held.body, held))
        else:
            exchange.respond(_encoder.encode(held.build_reply()))

    async def _look(
        self, exchange: Exchange, header: str, body: PollRequest, held: HeldPoll | None = None
    ) -> None:
        """Look for a poll, of a host that is known or not; answer it, or park it."""
        try:
            met = held or await self._meet(exchange, header, body)
            if isinstance(met, PollReply):
                reply = met
            elif (found := await met.look()) is None:
                self._park(exchange, header, met)
                return
            else:
                reply = found
        except Exception:  # noqa: BLE001 (as above)
            exchange.pass_on(_build_headers(header), _encoder.encode(body))
        else:
            exchange.respond(_encoder.encode(reply))

    async def _meet(
        self, exchange: Exchange, header: str, body: PollRequest
    ) -> HeldPoll | PollReply:
        """Find out whose poll it is, or the answer to one that is sent away."""
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
        return HeldPoll(poll, exchange)


def _note_lost(path: str, begun: float, actor: Actor, error: Exception) -> None:
    """Tell the log what nobody is there any more to be told."""
    if not isinstance(error, DomainError):
        told = facts(method="POST", path=path, error=type(error).__name__)
        log.error("request.failed", exc_info=error, extra=told)
    note("POST", path, 0, begun, actor)


class _UnreadableError(Exception):
    """A request that only the ordinary route can answer."""


def _read_token(headers: Headers) -> str:
    """Find the header with a bearer token, of an agent that speaks this protocol."""
    authorization, protocol = _read_headers(headers, _PROTOCOL_NAME)
    is_bearer = authorization[:_BEARER_LENGTH].lower() == b"bearer "
    if not is_bearer or protocol is None or protocol.strip() != _PROTOCOL:
        raise _UnreadableError
    return authorization.decode("latin-1")


def _read_operators(headers: Headers) -> tuple[str, str | None]:
    """Find the header with a token, and the key of a request that may be sent again."""
    authorization, key = _read_headers(headers, _KEY_NAME)
    if key is not None and not is_key(key):
        raise _UnreadableError
    return authorization.decode("latin-1"), None if key is None else key.decode("ascii")


def _read_headers(headers: Headers, name: bytes) -> tuple[bytes, bytes | None]:
    """Find who is asking, and another header.

    Raises:
        _UnreadableError: nobody says who asks, one of them is there twice (which counts is for the
            ordinary route to say), or the body is not said to be JSON as most say it.
    """
    authorization, other = None, None
    for each, value in headers:
        if each == b"authorization" and authorization is None:
            authorization = value
        elif each == name and other is None:
            other = value
        elif each in {b"authorization", name} or (
            each == b"content-type" and value != b"application/json"
        ):
            raise _UnreadableError
    if authorization is None:
        raise _UnreadableError
    return authorization, other


def _build_headers(header: str) -> Headers:
    """Build the headers of a poll anew, of which only the token was kept."""
    return [
        (b"authorization", header.encode("latin-1")),
        (_PROTOCOL_NAME, _PROTOCOL),
        (b"content-type", b"application/json"),
    ]
