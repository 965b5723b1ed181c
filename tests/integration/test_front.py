"""Agents' requests over real sockets: those that are answered on their connection, and those that
go the ordinary way, which must be told apart by nothing but the time that they take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from litestar import Litestar

from backhaul.wire.agents import BatchReply, PollReply
from backhaul.wire.jobs import LogLine
from backhaul.wire.reports import JobLog
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_agent, build_batch
from tests.fakes.served import serve

PATHS = {"poll": "/v1/agent/poll", "batch": "/v1/agent/envelopes"}


@pytest.fixture
async def agent(services: Services, app: Litestar) -> FakeAgent:
    """A quiet host, on a server that may remember that."""
    agent = await add_agent(services, app)
    await agent.say_hello()
    services.wakeups.memory.is_trusted = True
    await agent.poll()
    return agent


class Raw:
    """A connection of the agent, byte by byte."""

    def __init__(
        self,
        agent: FakeAgent,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        port: int,
    ) -> None:
        self.port = port
        self._agent = agent
        self.reader = reader
        self.writer = writer

    def build(
        self,
        what: str,
        body: bytes,
        *,
        version: str | None = "1.1",
        framing: str | None = "length",
        **headers: str | None,
    ) -> bytes:
        sent: dict[str, str | None] = {
            "Host": "api",
            "Authorization": self._agent.client.headers["Authorization"],
            "Backhaul-Protocol": "1",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if framing == "chunks":
            sent["Transfer-Encoding"] = "chunked"
            half = len(body) // 2
            parts = (body[:half], body[half:])
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        else:
            sent["Content-Length"] = str(len(body))
        lines = [f"{name}: {value}" for name, value in sent.items() if value is not None]
        return "\r\n".join([f"POST {PATHS[what]} HTTP/{version}", *lines, "", ""]).encode() + body

    async def read(self) -> tuple[int, dict[str, str], bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        status, *lines = head.decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(status.split()[1]), headers, body

    async def is_closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 5) == b""


@asynccontextmanager
async def connected(app: Litestar, agent: FakeAgent) -> AsyncIterator[Raw]:
    async with serve(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield Raw(agent, reader, writer, port)
        finally:
            writer.close()


def build_body(agent: FakeAgent, what: str, *, hold: float = 0.0) -> bytes:
    return agent.build_poll(hold=hold) if what == "poll" else build_batch()


@pytest.mark.parametrize("what", PATHS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"framing": "chunks"},
        {"Expect": "100-continue"},
        {"Content_Type": "application/json"},
        {"X_Filler": "x" * 10_000},
    ],
    ids=["plain", "chunks", "expect", "type", "long-head"],
)
async def test_request_is_answered_in_whatever_form_it_comes(
    app: Litestar, agent: FakeAgent, what: str, options: dict[str, str]
) -> None:
    async with connected(app, agent) as raw:
        for _ in range(2):
            raw.writer.write(raw.build(what, build_body(agent, what), **options))
            status, headers, body = await raw.read()
            if status == 100:
                status, headers, body = await raw.read()

            assert status == 200
            assert headers["content-type"].startswith("application/json")
            assert headers["backhaul-protocol"] == "1"
            assert headers["cache-control"] == "no-store"
            assert len(headers["x-request-id"]) == 32
            msgspec.json.decode(body, type=PollReply if what == "poll" else BatchReply)


@pytest.mark.parametrize("what", PATHS)
@pytest.mark.parametrize(
    "options", [{"version": "1.0"}, {"Connection": "close"}], ids=["old", "close"]
)
async def test_connection_ends_where_the_client_wants_that(
    app: Litestar, agent: FakeAgent, what: str, options: dict[str, str]
) -> None:
    async with connected(app, agent) as raw:
        raw.writer.write(raw.build(what, build_body(agent, what), **options))
        status, _, _ = await raw.read()

        assert status == 200
        assert await raw.is_closed()


@pytest.mark.parametrize("what", PATHS)
@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer bha_nonsense"}, 401),
        ({"Backhaul_Protocol": None}, 426),
        ({"Backhaul_Protocol": "99"}, 426),
    ],
    ids=["no-token", "bad-token", "no-protocol", "other-protocol"],
)
async def test_request_that_is_wrong_is_told_why_by_the_ordinary_route(
    app: Litestar, agent: FakeAgent, what: str, options: dict[str, str | None], status: int
) -> None:
    async with connected(app, agent) as raw:
        raw.writer.write(raw.build(what, build_body(agent, what), **options))
        refused, headers, _ = await raw.read()
        raw.writer.write(raw.build(what, build_body(agent, what)))
        next_one, _, _ = await raw.read()

    assert (refused, next_one) == (status, 200)
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("what", PATHS)
async def test_body_that_is_none_is_refused(app: Litestar, agent: FakeAgent, what: str) -> None:
    async with connected(app, agent) as raw:
        raw.writer.write(raw.build(what, b"[]"))
        status, headers, _ = await raw.read()

    assert status == 422
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("what", PATHS)
async def test_what_comes_after_the_body_is_no_header(
    app: Litestar, agent: FakeAgent, what: str
) -> None:
    """A proxy that looks at headers, or takes some out, does not look there."""
    async with connected(app, agent) as raw:
        body = build_body(agent, what)
        request = raw.build(what, body, framing="chunks", Authorization=None)
        token = agent.client.headers["Authorization"].encode()
        raw.writer.write(request[:-2] + b"Authorization: " + token + b"\r\n\r\n")
        status, _, _ = await raw.read()

    assert status == 401


@pytest.mark.parametrize("what", PATHS)
@pytest.mark.parametrize("is_first", [True, False])
async def test_of_two_tokens_the_same_one_counts_on_both_ways(
    app: Litestar, agent: FakeAgent, what: str, *, is_first: bool
) -> None:
    async with connected(app, agent) as raw:
        good = agent.client.headers["Authorization"]
        bad = "Bearer bha_nonsense"
        two = (good, bad) if is_first else (bad, good)
        request = raw.build(
            what, build_body(agent, what), Authorization="\r\nAuthorization: ".join(two)
        )
        statuses = []
        for way in (request, request.replace(b" HTTP/1.1", b"?ordinary HTTP/1.1", 1)):
            raw.writer.write(way)
            statuses.append((await raw.read())[0])

    assert statuses[0] == statuses[1]


async def test_poll_that_says_it_is_no_json_is_refused(app: Litestar, agent: FakeAgent) -> None:
    async with connected(app, agent) as raw:
        raw.writer.write(raw.build("poll", build_body(agent, "poll"), Content_Type="text/plain"))
        status, _, _ = await raw.read()

    assert status == 415


async def test_batch_that_is_long_is_taken(app: Litestar, agent: FakeAgent) -> None:
    lines = tuple(LogLine(at=START, stream="stdout", text="x" * 1000) for _ in range(200))
    report = JobLog(job_id=agent.host_id, attempt=1, seq=0, lines=lines)

    async with connected(app, agent) as raw:
        raw.writer.write(raw.build("batch", build_batch(report)))
        status, _, body = await raw.read()

    assert status == 200
    [receipt] = msgspec.json.decode(body, type=BatchReply).receipts
    assert receipt.problem is not None
    assert receipt.problem.status == 404


@pytest.mark.parametrize("is_together", [True, False])
async def test_whoever_asks_again_before_the_answer_is_answered_once(
    app: Litestar, agent: FakeAgent, services: Services, *, is_together: bool
) -> None:
    async with connected(app, agent) as raw:
        first = raw.build("poll", build_body(agent, "poll", hold=20.0))
        second = raw.build("batch", build_batch())
        raw.writer.write(first + second if is_together else first)
        while services.wakeups.waiting != 1:
            await asyncio.sleep(0.005)
        if not is_together:
            raw.writer.write(second)
            await asyncio.sleep(0.05)
        services.wakeups.drain()
        status, headers, body = await raw.read()

        assert status == 200
        assert headers["connection"] == "close"
        assert msgspec.json.decode(body, type=PollReply).envelopes == ()
        assert await raw.is_closed()


async def test_request_that_goes_the_ordinary_way_is_not_taken_for_the_next_one(
    app: Litestar, agent: FakeAgent
) -> None:
    """Another one came in one piece with it, when nobody knew yet that it would not be answered
    here."""
    async with connected(app, agent) as raw:
        refused = raw.build("batch", b"[]")
        for more in (b"GET /v1/jobs HTTP/1.1\r\nHost: api\r\n\r\n", b"GET /v1/jo", b"G"):
            reader, writer = await asyncio.open_connection("127.0.0.1", raw.port)
            other = Raw(agent, reader, writer, raw.port)
            writer.write(refused + more)
            status, _, body = await other.read()

            assert status == 422
            assert b"batch" in body or b"object" in body
            assert await other.is_closed()
            writer.close()


async def test_client_that_is_gone_before_its_poll_waits_leaves_nothing_behind(
    app: Litestar, agent: FakeAgent, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_go_on = asyncio.Event(), asyncio.Event()
    take = services.looks.take

    async def take_late(*arguments: Any) -> Any:
        asked.set()
        await may_go_on.wait()
        return await take(*arguments)

    monkeypatch.setattr(services.looks, "take", take_late)
    services.wakeups.wake(agent.host_id)  # what is remembered is old
    async with connected(app, agent) as raw:
        raw.writer.write(raw.build("poll", build_body(agent, "poll", hold=20.0)))
        await asyncio.wait_for(asked.wait(), 5)
        raw.writer.transport.abort()
        await asyncio.sleep(0.05)
        may_go_on.set()
        async with asyncio.timeout(5):
            while services.wakeups.waiting:
                await asyncio.sleep(0.005)


async def test_other_paths_and_methods_are_not_the_fronts(app: Litestar, agent: FakeAgent) -> None:
    async with connected(app, agent) as raw:
        asked = raw.build("poll", b"")
        raw.writer.write(asked.replace(b"POST", b"GET"))
        wrong_method, _, _ = await raw.read()
        raw.writer.write(asked.replace(b"/agent/poll", b"/agent/pole"))
        wrong_path, _, _ = await raw.read()

    assert (wrong_method, wrong_path) == (405, 404)
