"""A path between an agent and the app, all in memory, that loses, delays, repeats and cuts.

What becomes of the next requests is planned by the test; without a plan they pass. The server's
side of a request goes on when the agent dies, as it does in the world.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, cast

import httpx
from litestar import Litestar

from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul_api.access_log import Api
from backhaul_api.front import NOTHING_KNOWN, Headers, State


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


class _Exchange:
    """A request that the app's front answers, as on a real server. Nobody hangs up here but by
    dying."""

    def __init__(self, app: Api, request: httpx.Request) -> None:
        self._app = app
        self._request = request
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_hang_up: Callable[[], None] | None = None
        self.answer: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()

    async def ask(self, body: bytes) -> httpx.Response:
        headers = [(name.lower(), value) for name, value in self._request.headers.raw]
        self._app.front.answers[self._request.url.raw_path](self, headers, body)
        try:
            return await self.answer
        finally:
            for task in self._tasks:
                task.cancel()
            if self.on_hang_up is not None:
                self.on_hang_up()

    def has_hung_up(self) -> bool:
        return self.answer.done()

    def respond(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json", PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
        self._set(httpx.Response(200, headers=headers, content=body))

    def respond_created(self, body: bytes, request_id: str) -> None:
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        self._set(httpx.Response(201, headers=headers, content=body))

    def pass_on(self, headers: Headers, body: bytes, state: State = NOTHING_KNOWN) -> None:
        self.run(self._take_the_long_way(headers, body, state))

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.answer.set_exception(error)

    async def _take_the_long_way(self, headers: Headers, body: bytes, state: State) -> None:
        self._set(await _call(self._app, self._request, headers, body, is_cut=False, state=state))

    def _set(self, answer: httpx.Response) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class _Cut(httpx.AsyncByteStream):
    def __init__(self, half: bytes) -> None:
        self._half = half

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._half
        raise httpx.RemoteProtocolError("peer closed connection")


async def _ask(
    app: Litestar, request: httpx.Request, body: bytes, *, is_cut: bool
) -> httpx.Response:
    assert isinstance(app, Api)
    if request.method == "POST" and request.url.raw_path in app.front.answers and not is_cut:
        return await _Exchange(app, request).ask(body)
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    return await _call(app, request, headers, body, is_cut=is_cut)


async def _call(
    app: Litestar,
    request: httpx.Request,
    headers: Headers,
    body: bytes,
    *,
    is_cut: bool,
    state: State = NOTHING_KNOWN,
) -> httpx.Response:
    messages: deque[dict[str, Any]] = deque(
        [{"type": "http.request", "body": body, "more_body": is_cut}]
    )
    status, answered, content = 500, [], b""

    async def receive() -> dict[str, Any]:
        return messages.popleft() if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, answered, content
        if message["type"] == "http.response.start":
            status, answered = message["status"], message["headers"]
        else:
            content += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": list(headers),
        "scheme": "http",
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": ("api", 80),
        "client": ("127.0.0.1", 1234),
        "root_path": "",
        "state": dict(state),
    }
    await app(cast("Any", scope), cast("Any", receive), cast("Any", send))
    return httpx.Response(status, headers=answered, content=content)
