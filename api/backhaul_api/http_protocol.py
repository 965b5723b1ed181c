"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a handler can refuse anything.

uvicorn has none of its own: a client that sends headers without end fills the memory, and one that
never ends them keeps its connection for ever. Bodies are bounded by the app.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backhaul_api.polling.parking import CONNECTION

MAX_HEAD_BYTES = 64 * 1024
"""Of a request without its body: more than any proxy adds."""

HEAD_LIMIT_S = 10.0
"""From the connection, or the first byte of a request, to the end of its headers."""

_FILES_BESIDES = 64  # the database, the log, and what the interpreter opens now and then


class _HeadTooLongError(Exception):
    """Stops the parser."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which refuses a head that is too long, or that takes too long."""

    # Python lets instances share the keys of up to thirty attributes, and uvicorn has nearly as
    # many: with ours among them, each connection would cost a kilobyte more.
    __slots__ = ("_has_head", "_head_bytes", "_timer", "on_hang_up")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._has_head = False
        self._timer: asyncio.TimerHandle | None = None
        self.on_hang_up: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # (uvicorn narrows asyncio's own type here too)
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self.on_hang_up is not None:
            self.on_hang_up()

    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            self._start_timer()
        # Everything counts, and what turns out to be body is taken off again: so the trailers and
        # the frames of a chunked body are bounded as well as the headers.
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        self._start_timer()
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._has_head = True
        if self._measure_head() > MAX_HEAD_BYTES:
            # All of it came at once. The parser stops, and `send_400_response` is asked to answer.
            raise _HeadTooLongError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = max(0, self._head_bytes - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_head = False
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._has_head and self._measure_head() > MAX_HEAD_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _measure_head(self) -> int:
        lengths = (len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        return len(self.url) + sum(lengths)

    def _refuse(self) -> None:
        self.logger.warning("request.head_too_long")
        if self.cycle is None or self.cycle.response_complete:
            answer = [STATUS_LINE[431], b"content-length: 0\r\n", b"connection: close\r\n\r\n"]
            self.transport.write(b"".join(answer))
        # Else an answer is on its way already, and a second one within it would make no sense.
        self.transport.close()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_LIMIT_S, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # Whoever sends the next request early is not cut off from the answer to this one.
            self._start_timer()
        else:
            self.transport.close()


def choose_connection_limit() -> int | None:
    """Choose how many connections to serve at a time: as many as this process may open files.

    One more would not be answered at all; so it is told to come back (503).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems have a limit beyond the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return None if soft == resource.RLIM_INFINITY else max(1, soft - _FILES_BESIDES)
