"""Thousands of agents in one process: plain connections that hold a poll each, and little else.

A real agent would cost the client more than the server that is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

_CONNECTING_AT_ONCE = 200


class PollConnection(asyncio.Protocol):
    """One agent's connection."""

    __slots__ = ("_awaited", "_buffer", "_length", "on_answer", "request", "transport")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.on_answer: Callable[[bytes, float], None] | None = None
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._length = -1
        self._awaited: asyncio.Future[tuple[bytes, float]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def poll(self, request: bytes | None = None) -> asyncio.Future[tuple[bytes, float]]:
        """Send the request; gives the body of the answer, and when it was here."""
        assert self.transport is not None
        self._awaited = asyncio.get_running_loop().create_future()
        self.transport.write(request or self.request)
        return self._awaited

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._length < 0:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lowered = head.lower()
            at = lowered.index(b"content-length:") + len(b"content-length:")
            self._length = int(lowered[at:].partition(b"\r\n")[0])
            self._buffer = rest
        if len(self._buffer) >= self._length:
            body, self._buffer, self._length = self._buffer, b"", -1
            awaited, self._awaited = self._awaited, None
            if awaited is not None and not awaited.done():
                awaited.set_result((body, time.perf_counter()))

    def connection_lost(self, exc: Exception | None) -> None:
        # Nobody may be waiting for it: a client that is done hangs up as well.
        if self._awaited is not None and not self._awaited.done():
            self._awaited.cancel()


async def connect(port: int, requests: list[bytes]) -> list[PollConnection]:
    """Open a connection for each request; nothing is sent yet."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(_CONNECTING_AT_ONCE)

    async def one(request: bytes) -> PollConnection:
        async with gate:
            _, protocol = await loop.create_connection(
                lambda: PollConnection(request), "127.0.0.1", port
            )
            return protocol

    return list(await asyncio.gather(*map(one, requests)))


def build_request(method: str, path: str, body: bytes, *, token: str) -> bytes:
    """Build a request as an agent's HTTP client sends it, headers and all."""
    return (
        f"{method} {path} HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        "Accept: application/json\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\n"
        "User-Agent: backhaul-agent/0.1.0\r\n"
        "Backhaul-Protocol: 1\r\n"
        f"Authorization: Bearer {token}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\n\r\n"
    ).encode() + body
