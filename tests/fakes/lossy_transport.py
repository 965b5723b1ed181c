"""A path between an agent and the app, all in memory, that loses, delays, repeats and cuts.

What becomes of the next requests is planned by the test; without a plan they pass. The server's
side of a request goes on when the agent dies, as it does in the world.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, cast

import httpx
from litestar import Litestar

from backhaul_api.polling.parking import CONNECTION


class Fate(StrEnum):
    """What becomes of a request."""

    PASS = auto()
    NEVER_SENT = auto()
    CUT_IN_REQUEST = auto()
    ANSWER_LOST = auto()
    CUT_IN_ANSWER = auto()
    SENT_TWICE = auto()
    LATE = auto()
    """The agent gives up; the request arrives whenever the test lets it."""
    PAGE_OF_A_PROXY = auto()


@dataclass(frozen=True)
class LateRequest:
    """A request that is still somewhere on its way."""

    request: httpx.Request
    body: bytes


class LossyTransport(httpx.AsyncBaseTransport):
    """The agent's transport. `app` is None while the server is down."""

    def __init__(self, tick: Callable[[str], None]) -> None:
        self.app: Litestar | None = None
        self.plan: deque[Fate] = deque()
        self.late: list[LateRequest] = []
        self.calls: set[asyncio.Task[httpx.Response]] = set()
        """What the server works on."""
        self.is_server_dead: Callable[[], bool] = lambda: False
        self._tick = tick

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        self._tick("request")
        fate = self.plan.popleft() if self.plan else Fate.PASS
        if self.app is None or fate is Fate.NEVER_SENT:
            raise httpx.ConnectError("no way to the server", request=request)
        answer = await self._deliver(fate, request, body)
        self._tick("answer")
        return answer

    async def _deliver(self, fate: Fate, request: httpx.Request, body: bytes) -> httpx.Response:
        match fate:
            case Fate.CUT_IN_REQUEST:
                await self.call(request, body[: len(body) // 2], is_cut=True)
                raise httpx.WriteError("cut", request=request)
            case Fate.ANSWER_LOST:
                await self.call(request, body)
                raise httpx.ReadError("cut", request=request)
            case Fate.CUT_IN_ANSWER:
                whole = await self.call(request, body)
                half = whole.content[: len(whole.content) // 2]
                return httpx.Response(whole.status_code, headers=whole.headers, stream=_Cut(half))
            case Fate.SENT_TWICE:
                await self.call(request, body)
                return await self.call(request, body)
            case Fate.LATE:
                self.late.append(LateRequest(request, body))
                raise httpx.ReadTimeout("no answer", request=request)
            case Fate.PAGE_OF_A_PROXY:
                return httpx.Response(502, html="<h1>Bad Gateway</h1>")
            case _:
                return await self.call(request, body)

    async def arrive_late(self, number: int) -> None:
        """Let a late request arrive; nobody waits for its answer any more."""
        late = self.late.pop(number)
        if self.app is not None:
            with contextlib.suppress(httpx.ReadError):  # the server can die of it
                await self.call(late.request, late.body)

    async def call(
        self, request: httpx.Request, body: bytes, *, is_cut: bool = False
    ) -> httpx.Response:
        """Have the server work on a request. It goes on when the caller is cancelled."""
        assert self.app is not None
        task = asyncio.ensure_future(_ask(self.app, request, body, is_cut=is_cut))
        self.calls.add(task)
        task.add_done_callback(self._note_end)
        answer = await asyncio.shield(task)
        if self.is_server_dead():
            raise httpx.ReadError("the server died", request=request)
        return answer

    def _note_end(self, task: asyncio.Task[httpx.Response]) -> None:
        self.calls.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the agent may be dead


class _Connection:
    """Nobody hangs up here but by dying."""

    on_hang_up: Callable[[], None] | None = None


class _Cut(httpx.AsyncByteStream):
    def __init__(self, half: bytes) -> None:
        self._half = half

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._half
        raise httpx.RemoteProtocolError("peer closed connection")


async def _ask(
    app: Litestar, request: httpx.Request, body: bytes, *, is_cut: bool
) -> httpx.Response:
    messages: deque[dict[str, Any]] = deque(
        [{"type": "http.request", "body": body, "more_body": is_cut}]
    )
    status, headers, content = 500, [], b""

    async def receive() -> dict[str, Any]:
        return messages.popleft() if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers, content
        if message["type"] == "http.response.start":
            status, headers = message["status"], message["headers"]
        else:
            content += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": "http",
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": ("api", 80),
        "client": ("127.0.0.1", 1234),
        "root_path": "",
        # As on a real server: polls go the short way, past Litestar.
        CONNECTION: _Connection(),
    }
    await app(cast("Any", scope), cast("Any", receive), cast("Any", send))
    return httpx.Response(status, headers=headers, content=content)
