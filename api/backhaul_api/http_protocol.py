"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a handler can refuse anything.

uvicorn has none of its own: a client that sends headers without end fills the memory, and one that
never ends them, or their body, keeps its connection for ever. How long bodies are is bounded by the
app.

What is asked most is answered here, on its connection: see `front`. Of ten thousand parked polls,
uvicorn's and ASGI's share would be more than all the rest. What is out of the ordinary goes
uvicorn's own way, as do all other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Coroutine, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul.wire.problems import PROBLEM_MEDIA_TYPE, Problem, ProblemType
from backhaul_api.front import NOTHING_KNOWN, Answer, Front, Headers, State
from backhaul_api.ids import new_id

MAX_HEAD_BYTES = 64 * 1024
"""Of a request without its body: more than any proxy adds."""

HEAD_LIMIT_S = 10.0
"""From the connection, or the first byte of a request, to the end of its headers."""

BODY_STEP_S = 30.0
"""Without a word more of a body, and it is not waited for any longer: its client may be gone."""

LAST_BODY_S = 1.0
"""How long a server that stops waits for the rest of a body."""

MAX_SHORT_BODY_BYTES = 64 * 1024
"""What is longer goes the ordinary way, where a stranger's body is not read to the end."""

_FILES_BESIDES = 64  # the database, the log, and what the interpreter opens now and then

_HEADERS = (
    b"content-type: application/json\r\n"
    b"cache-control: no-store\r\n"
    b"x-content-type-options: nosniff\r\n"
)
_HEAD = b"".join(
    [STATUS_LINE[200], _HEADERS, f"{PROTOCOL_HEADER.lower()}: {PROTOCOL_VERSION}\r\n".encode()]
)
_HEAD_CREATED = STATUS_LINE[201] + _HEADERS


_REFUSALS = {
    400: (
        ProblemType.INVALID_REQUEST,
        "Invalid request",
        "This is not HTTP/1.1. In an address, write what is not ASCII as %XX.",
    ),
    408: (
        ProblemType.INVALID_REQUEST,
        "Request timeout",
        "The request did not come to its end in time. Send it again.",
    ),
    431: (
        ProblemType.TOO_LARGE,
        "Too large",
        f"The headers have more than {MAX_HEAD_BYTES} bytes. Send less.",
    ),
}


class _HeadTooLongError(Exception):
    """Stops the parser."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which refuses a head that is too long, or that takes too long, and
    answers itself what is asked most."""

    # Python lets instances share the keys of up to thirty attributes, and uvicorn has nearly as
    # many: with ours among them, each connection would cost a kilobyte more.
    __slots__ = (
        "_answer",
        "_body",
        "_has_head",
        "_has_more_body",
        "_head_bytes",
        "_is_answering",
        "_is_last",
        "_timer",
        "on_hang_up",
    )

    answers: Mapping[bytes, Answer] = MappingProxyType({})
    """What answers the POSTs to a path: see `build_protocol`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._has_head = False
        self._has_more_body = False
        """Some of the body came since somebody looked."""
        self._timer: asyncio.TimerHandle | None = None
        self._answer: Answer | None = None
        """What answers the request that is being read, if it does not go the ordinary way."""
        self._body = b""
        self._is_answering = False
        """A request was read to its end, and its answer is awaited."""
        self._is_last = False
        """The connection ends with this answer."""
        self.on_hang_up: Callable[[], None] | None = None
        # For requests that come early: a deque takes most of a kilobyte, and none ever does.
        self.pipeline = _Pipeline()  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # (uvicorn narrows asyncio's own type here too)
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self.on_hang_up is not None:
            self.on_hang_up()

    def shutdown(self) -> None:
        if self._is_answering:
            self._is_last = True
            return
        super().shutdown()
        if self._has_head and not self.transport.is_closing():
            self._stop_timer()
            self._timer = self.loop.call_later(LAST_BODY_S, self._refuse_body)

    # What comes --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_answering:
            # Nobody of ours asks again before the answer. Whoever does is answered once, and asks
            # the rest on another connection.
            self._is_last = True
            return
        if not self._has_head:
            self._start_timer()
        # Everything counts, and what turns out to be body is taken off again: so the trailers and
        # the frames of a chunked body are bounded as well as the headers.
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head(431)

    def on_message_begin(self) -> None:
        if self._is_answering:
            self._is_last = True  # it came in one piece with the request that is being answered
            return
        self._start_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_answering:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # What stands after a body is none: no proxy has looked at it.
        if not (self._is_answering or self._has_head):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_answering:
            return
        self._has_head = True
        self._has_more_body = True  # as if: its time begins now
        if self._measure_head() > MAX_HEAD_BYTES:
            # All of it came at once. The parser stops, and `send_400_response` is asked to answer.
            raise _HeadTooLongError
        self._answer = self._choose_answer()
        if self._answer is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._is_answering:
            return
        self._has_more_body = True
        self._head_bytes = max(0, self._head_bytes - len(body))
        if self._answer is None:
            super().on_body(body)
            return
        self._body += body
        if len(self._body) > MAX_SHORT_BODY_BYTES:
            self._answer, body, self._body = None, self._body, b""
            super().on_headers_complete()
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_answering:
            return
        self._stop_timer()
        self._has_head = False
        self._head_bytes = 0
        if self._answer is None:
            super().on_message_complete()
            return
        answer, headers, body = self._answer, self.headers, self._body
        # A parked poll keeps none of it.
        self._answer, self._body, self.headers = None, b"", []
        self.scope = None  # type: ignore[assignment]
        self._is_answering = True
        is_old = self.parser.get_http_version() == "1.0"
        self._is_last = is_old or not self.parser.should_keep_alive()
        answer(self, headers, body)

    def _choose_answer(self) -> Answer | None:
        """Choose what answers the request; None for what is not just as agents send it."""
        answer = self.answers.get(self.url)
        is_ordinary = (
            answer is None
            or self.parser.get_method() != b"POST"
            or self.parser.should_upgrade()
            or self.expect_100_continue
            # A client that does not read what it asks for: uvicorn's own way waits for it.
            or self.flow.write_paused
            or not (self.cycle is None or self.cycle.response_complete)
            or (
                self.limit_concurrency is not None
                and len(self.connections) >= self.limit_concurrency
            )
        )
        return None if is_ordinary else answer

    # What goes ---------------------------------------------------------------------------------

    def respond(self, body: bytes) -> None:
        """Answer the request that was read, of an agent, with 200 and a JSON document."""
        self._respond(_HEAD, body, new_id().hex)

    def respond_created(self, body: bytes, request_id: str) -> None:
        """Answer the request that was read, of an operator, with 201 and a JSON document."""
        self._respond(_HEAD_CREATED, body, request_id)

    def _respond(self, head: bytes, body: bytes, request_id: str) -> None:
        self._is_answering = False
        if self.transport.is_closing():
            return
        parts = [head]
        for name, value in self.server_state.default_headers:
            parts += [name, b": ", value, b"\r\n"]
        if self._is_last:
            parts.append(b"connection: close\r\n")
        parts.append(
            b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (request_id.encode(), len(body))
        )
        parts.append(body)
        self.transport.write(b"".join(parts))
        if self._is_last:
            self.transport.close()
        self.on_response_complete()

    def pass_on(self, headers: Headers, body: bytes, state: State = NOTHING_KNOWN) -> None:
        """Let the request that was read, which has these, go the ordinary way, and with it what is
        known of it."""
        self._is_answering = False
        if self.transport.is_closing():
            return
        url = self.url
        super().on_message_begin()
        self.url = url
        self.headers += headers
        super().on_headers_complete()
        # The parser may have gone on to another request, which is not answered any more.
        self.scope["method"] = "POST"
        self.scope["state"].update(state)
        if self._is_last:
            self.cycle.keep_alive = False
        super().on_body(body)
        super().on_message_complete()

    def has_hung_up(self) -> bool:
        """Tell whether the client is gone."""
        return self.transport.is_closing()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run what is to answer the request, and let the server wait for it before it stops."""
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # Refusals ----------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        if self._has_head and self._measure_head() > MAX_HEAD_BYTES:
            self._refuse_head(431)
        else:
            self._refuse_head(400)

    def _measure_head(self) -> int:
        lengths = (len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        return len(self.url) + sum(lengths)

    def _refuse_head(self, status: int) -> None:
        if status == 431:
            self.logger.warning("request.head_too_long")
        if self._is_answering:
            self._is_last = True
            return
        # Else an answer is on its way already, and a second one within it would make no sense.
        if self.cycle is None or self.cycle.response_complete:
            self._say(status)
        self.transport.close()

    def _say(self, status: int) -> None:
        type_, title, detail = _REFUSALS[status]
        problem = Problem(type=type_, title=title, status=status, detail=detail)
        body = msgspec.json.encode(problem)
        head = (
            f"content-type: {PROBLEM_MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(b"".join([STATUS_LINE[status], head.encode(), body]))

    def _start_timer(self) -> None:
        """Begin to count the time of a head, and of the body that may come later."""
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_LIMIT_S, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._has_head:
            self._wait_for_body()
        elif self.cycle is not None and not self.cycle.response_complete:
            # Whoever sends the next request early is not cut off from the answer to this one.
            self._start_timer()
        else:
            self.transport.close()

    def _wait_for_body(self) -> None:
        """Wait on for the rest of a body, if its client is still there and it is wanted."""
        is_ordinary = self._answer is None
        is_refused = is_ordinary and self.cycle.response_complete
        if (self._has_more_body or self.flow.read_paused) and not is_refused:
            self._has_more_body = False
            self._timer = self.loop.call_later(BODY_STEP_S, self._give_up)
        else:
            self._refuse_body()

    def _refuse_body(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._answer is not None or not self.cycle.response_started:
            self._say(408)
        self.transport.close()


def build_protocol(front: Front) -> type[BoundedHttpProtocol]:
    """Build the protocol of a server with this front."""
    return type("HttpProtocol", (BoundedHttpProtocol,), {"__slots__": (), "answers": front.answers})


class _Pipeline(list[Any]):
    """What uvicorn uses of a deque."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class _Flow(FlowControl):
    """uvicorn's flow control, whose event is there once somebody writes more than goes out."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False

    @cached_property
    def _is_writable_event(self) -> asyncio.Event:  # type: ignore[override]
        event = asyncio.Event()
        event.set()
        return event


def choose_connection_limit() -> int | None:
    """Choose how many connections to serve at a time: as many as this process may open files.

    One more would not be answered at all; so it is told to come back (503).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems have a limit beyond the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return None if soft == resource.RLIM_INFINITY else max(1, soft - _FILES_BESIDES)
