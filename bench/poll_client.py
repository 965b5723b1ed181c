"""Thousands of agents in one process: plain connections that hold a poll each, and little else.

A real agent would cost the client more than the server that is measured. The connections are those
of `backhaul simulate`.
"""

from __future__ import annotations

import asyncio
import time

from backhaul_agent.simulation.connection import Connection, build_request

__all__ = ["PollConnection", "build_request", "connect"]

_CONNECTING_AT_ONCE = 200


class PollConnection(Connection):
    """One agent's connection."""

    __slots__ = ("request",)

    def __init__(self, request: bytes) -> None:
        super().__init__()
        self.request = request

    def poll(self, request: bytes | None = None) -> asyncio.Future[tuple[bytes, float]]:
        """Send the request; gives the body of the answer, and when it was here."""
        return self.exchange(request or self.request)

    def build_answer(self, head: bytes, body: bytes, size: int) -> tuple[bytes, float]:
        return body, time.perf_counter()

    def connection_lost(self, exc: Exception | None) -> None:
        # Nobody may be waiting for it: a client that is done hangs up as well.
        if self._awaited is not None:
            self._awaited.cancel()
        super().connection_lost(exc)


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
