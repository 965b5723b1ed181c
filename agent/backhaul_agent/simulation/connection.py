"""HTTP/1.1 over a bare connection: what a client that holds thousands of polls can afford.

One request at a time, each answer whole. What is no HTTP, or ends in the midst of an answer, is an
error of httpx, so that the rest of the agent sees the same as with the real client.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, cast

import httpx

_CHUNKED = -2
_NOT_READ = -1
_MAX_HEAD_BYTES = 64 * 1024


class Answer(NamedTuple):
    """An answer as it came: the head with the status line, and the body, still compressed."""

    head: bytes
    body: bytes
    size: int
    """Of all of it, in bytes."""


class Connection(asyncio.Protocol):
    """One connection, opened by `loop.create_connection`."""

    __slots__ = ("_awaited", "_buffer", "_head", "_length", "_size", "idle_since_s", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since_s = 0.0
        self._awaited: asyncio.Future[Answer] | None = None
        self._buffer = b""
        self._head = b""
        self._length = _NOT_READ
        self._size = 0

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def exchange(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; gives the answer.

        Raises (in the future):
            httpx.ReadError: the other side hung up.
            httpx.RemoteProtocolError: what came is no answer.
        """
        awaited = self._awaited = asyncio.get_running_loop().create_future()
        if self.transport is None or self.transport.is_closing():
            self._fail(httpx.ReadError("the connection is closed"))
        else:
            self.transport.write(request)
        return awaited

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail(httpx.ReadError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        self._buffer += data
        if self._length == _NOT_READ and not self._read_head():
            return
        try:
            body = self._find_body()
        except ValueError:
            self._refuse("a chunk of the answer does not say how long it is")
            return
        if body is not None:
            self._finish(body)

    def _find_body(self) -> bytes | None:
        if self._length == _CHUNKED:
            return join_chunks(self._buffer)
        return self._buffer if len(self._buffer) >= self._length else None

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                self._refuse("the head of the answer does not end")
            return False
        try:
            self._length = _read_length(head)
        except ValueError:
            self._refuse("the answer does not say how long it is")
            return False
        self._head, self._buffer = head, rest
        return True

    def _finish(self, body: bytes) -> None:
        head, size, awaited = self._head, self._size, self._awaited
        self._buffer = self._head = b""
        self._length, self._size, self._awaited = _NOT_READ, 0, None
        if awaited is not None and not awaited.done():
            awaited.set_result(Answer(head, body, size))

    def _refuse(self, reason: str) -> None:
        self._fail(httpx.RemoteProtocolError(reason))
        self.hang_up()

    def _fail(self, error: Exception) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None and not awaited.done():
            awaited.set_exception(error)


def _read_length(head: bytes) -> int:
    """Read how long a body is.

    Raises:
        ValueError: the head does not say.
    """
    lowered = head.lower()
    _, found, rest = lowered.partition(b"\r\ncontent-length:")
    if found:
        return int(rest.partition(b"\r\n")[0])
    if b"\r\ntransfer-encoding: chunked" in lowered:
        return _CHUNKED
    raise ValueError("no length")


def join_chunks(data: bytes) -> bytes | None:
    """Join the chunks of a body; None while the last one is not here.

    Raises:
        ValueError: a chunk does not say how long it is.
    """
    body, begin = b"", 0
    while (end := data.find(b"\r\n", begin)) >= 0:
        size = int(data[begin:end].partition(b";")[0], 16)
        if size == 0:
            return body if data.find(b"\r\n", end + 2) >= 0 else None
        begin = end + 2 + size + 2
        body += data[end + 2 : begin - 2]
    return None


def build_request(
    method: str,
    path: str,
    body: bytes,
    *,
    token: str | None,
    host: str = "127.0.0.1",
    agent: str = "backhaul-agent/0.1.0",
) -> bytes:
    """Build a request as an agent's HTTP client sends it, headers and all."""
    authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
    return (
        f"{method} {path} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Accept: */*\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\n"
        f"User-Agent: {agent}\r\n"
        "Backhaul-Protocol: 1\r\n"
        f"{authorization}"
        f"Content-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\n\r\n"
    ).encode() + body
