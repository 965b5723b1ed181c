"""A TCP proxy with bad manners: it drops, delays, repeats and cuts what passes through it.

It runs in a thread of its own. Each piece that it reads from a client is, as far as agents of
Backhaul are concerned, one request; the dice are thrown for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

CHUNK_BYTES = 256 * 1024
_LONGEST_HOLE_S = 6.0
_HTML = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 36\r\n"
    b"Connection: close\r\n\r\n<html><h1>502 Bad Gateway</h1></html"
)


class FaultProxy:
    """Forwards to a port of this machine. `share` of the requests meet a fault."""

    def __init__(self, target_port: int, *, dice: random.Random) -> None:
        self.target_port = target_port
        self.share = 0.0
        self.is_cut = False
        """Nothing gets through, in either direction, and nobody is told."""
        self.faults: Counter[str] = Counter()
        self._dice = dice
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0)).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._on_request: dict[str, Callable[..., Awaitable[bool]]] = {
            "refused": self._refuse,
            "cut in the request": self._cut_request,
            "answer lost": self._lose_answer,
            "delayed": self._delay,
            "sent twice": self._send_twice,
            "black hole": self._swallow,
            "page of a proxy": self._answer_html,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def heal(self) -> None:
        """Behave, from now on."""
        self.share, self.is_cut = 0.0, False

    def hang_up(self) -> None:
        """Cut every connection there is."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._abort_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self, work: Awaitable[asyncio.Server]) -> Future[asyncio.Server]:
        async def wait() -> asyncio.Server:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop)

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            from_server, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers.add(upstream)
            await asyncio.gather(
                self._pump_up(reader, writer, upstream), self._pump_down(from_server, writer)
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, upstream):
                if one is not None:
                    self._writers.discard(one)
                    _reset(one)

    async def _pump_up(
        self,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        upstream: asyncio.StreamWriter,
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if self.is_cut:
                continue
            goes_on = True
            if self._dice.random() < self.share:
                name = self._dice.choice(list(self._on_request))
                self.faults[name] += 1
                goes_on = await self._on_request[name](chunk, client, upstream)
            else:
                upstream.write(chunk)
            if not goes_on:
                raise ConnectionResetError
            await upstream.drain()
        raise ConnectionResetError

    async def _pump_down(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if self.is_cut:
                continue
            if self._dice.random() < self.share / 4:
                self.faults["cut in the answer"] += 1
                client.write(chunk[: len(chunk) // 2])
                await client.drain()
                raise ConnectionResetError
            client.write(chunk)
            await client.drain()
        raise ConnectionResetError

    # What happens to a request; False: the connection is at its end ---------------------------

    async def _refuse(self, *_: object) -> bool:
        return False

    async def _cut_request(self, chunk: bytes, _: object, upstream: asyncio.StreamWriter) -> bool:
        upstream.write(chunk[: len(chunk) // 2])
        await upstream.drain()
        return False

    async def _lose_answer(self, chunk: bytes, _: object, upstream: asyncio.StreamWriter) -> bool:
        upstream.write(chunk)
        await upstream.drain()
        await asyncio.sleep(self._dice.uniform(0.0, 0.2))
        return False

    async def _delay(self, chunk: bytes, _: object, upstream: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(self._dice.uniform(0.1, 2.0))
        upstream.write(chunk)
        return True

    async def _send_twice(self, chunk: bytes, _: object, upstream: asyncio.StreamWriter) -> bool:
        upstream.write(chunk)
        task = asyncio.ensure_future(self._repeat(chunk, self._dice.uniform(0.0, 3.0)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _repeat(self, chunk: bytes, after_s: float) -> None:
        """Send a request again, on a connection of its own, and drop the answer."""
        await asyncio.sleep(after_s)
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            writer.write(chunk)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(CHUNK_BYTES), 2.0)
            writer.close()

    async def _swallow(self, *_: object) -> bool:
        await asyncio.sleep(self._dice.uniform(1.0, _LONGEST_HOLE_S))
        return False

    async def _answer_html(self, _: bytes, client: asyncio.StreamWriter, __: object) -> bool:
        client.write(_HTML)
        await client.drain()
        return False


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as a machine does that knows nothing of the connection."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
