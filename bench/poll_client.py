"""Thousands of agents in one process: plain connections that wait for an answer, and little else.

A real agent would cost the client more than the server that is measured. `PollConnection` speaks
HTTP; `WebSocketConnection` the other design, with the same two methods.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from backhaul_agent.simulation.connection import build_request

__all__ = [
    "PollConnection",
    "WebSocketConnection",
    "build_handshake",
    "build_request",
    "connect",
    "hang_up",
]

CONNECTING_AT_ONCE = 200

Answer = tuple[bytes, float]
"""The body, and when it was here by `time.perf_counter`."""


class PollConnection(asyncio.Protocol):
    """One agent's connection, or an operator's."""

    __slots__ = (
        "_awaited",
        "_buffer",
        "_length",
        "on_lost",
        "request",
        "status",
        "transport",
    )

    def __init__(self, request: bytes = b"") -> None:
        self.request = request
        self.status = 0
        """Of the last answer; 0 before the first."""
        self.on_lost: Callable[[], None] | None = None
        """Called when the connection ends while an answer is awaited."""
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._length = -1
        self._awaited: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    async def open(self) -> None:
        """Do what comes before the first request."""

    def poll(self, request: bytes | None = None) -> asyncio.Future[Answer]:
        """Send the request, by default the connection's own; gives the answer.

        The answer is cancelled when the connection ends before it came.
        """
        self._send(request or self.request)
        return self._await_answer()

    def hang_up(self) -> None:
        """End it at once. Nobody is told."""
        self.on_lost = None
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._length < 0:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lowered = head.lower()
            at = lowered.index(b"content-length:") + len(b"content-length:")
            self._length = int(lowered[at:].partition(b"\r\n")[0])
            self.status = int(head[9:12])
            self._buffer = rest
        if len(self._buffer) >= self._length:
            body, self._buffer, self._length = self._buffer, b"", -1
            self._give(body)

    def connection_lost(self, exc: Exception | None) -> None:
        # Nobody may be waiting for it: a client that is done hangs up as well.
        if self._awaited is not None and not self._awaited.done():
            self._awaited.cancel()
            if self.on_lost is not None:
                self.on_lost()

    def _send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def _await_answer(self) -> asyncio.Future[Answer]:
        self._awaited = asyncio.get_running_loop().create_future()
        return self._awaited

    def _give(self, body: bytes) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None and not awaited.done():
            awaited.set_result((body, time.perf_counter()))


class WebSocketConnection(PollConnection):
    """One agent's connection to a WebSocket server: what comes is pushed. Reads frames of up
    to 64 KiB.

    Here `request` is the handshake, see `build_handshake`; `poll()` only waits for what comes next,
    and `poll(message)` sends first.
    """

    __slots__ = ("_is_open", "_opened")

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self._is_open = False
        self._opened = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        self._send(self.request)
        await self._opened

    def poll(self, request: bytes | None = None) -> asyncio.Future[Answer]:
        if request:
            self._send(_build_frame(_TEXT, request))
        return self._await_answer()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._is_open, self._buffer = True, rest
            self._opened.set_result(None)
        while (frame := self._take_frame()) is not None:
            opcode, payload = frame
            if opcode == _PING:
                self._send(_build_frame(_PONG, payload))
            elif opcode == _TEXT:
                self._give(payload)

    def _take_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, begin = buffer[1] & 0x7F, 2
        if length == _LENGTH_OF_16_BITS:
            length, begin = int.from_bytes(buffer[2:4]), 4
        if len(buffer) < begin + length:
            return None
        self._buffer = buffer[begin + length :]
        return buffer[0] & 0x0F, buffer[begin : begin + length]


_TEXT: Final = 0x1
_PING: Final = 0x9
_PONG: Final = 0xA
_LENGTH_OF_16_BITS: Final = 126
_LENGTH_OF_64_BITS: Final = 127


def _build_frame(opcode: int, payload: bytes) -> bytes:
    """Build a frame of a client, masked with zeros: what the mask guards against is not here."""
    length = len(payload)
    if length < _LENGTH_OF_16_BITS:
        size = bytes([0x80 | length])
    elif length < 2**16:
        size = bytes([0x80 | _LENGTH_OF_16_BITS]) + length.to_bytes(2)
    else:
        size = bytes([0x80 | _LENGTH_OF_64_BITS]) + length.to_bytes(8)
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


async def connect(
    port: int,
    requests: Sequence[bytes],
    build: Callable[[bytes], PollConnection] = PollConnection,
) -> list[PollConnection]:
    """Open a connection for each request; nothing is sent yet but handshakes."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def one(request: bytes) -> PollConnection:
        async with gate:
            _, connection = await loop.create_connection(lambda: build(request), "127.0.0.1", port)
            await connection.open()
            return connection

    return list(await asyncio.gather(*map(one, requests)))


def hang_up(connections: Sequence[PollConnection]) -> None:
    """End connections at once."""
    for one in connections:
        one.hang_up()


def build_handshake(token: str) -> bytes:
    """Build the request that turns a connection into a WebSocket, offering what browsers offer."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        "GET /v1/agent/socket HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()
