"""The bounds on what a client can send before a handler is asked, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvicorn

from backhaul.wire.problems import Problem
from backhaul_api import http_protocol
from backhaul_api.http_protocol import MAX_HEAD_BYTES, BoundedHttpProtocol, choose_connection_limit

HEAD = b"GET / HTTP/1.1\r\nHost: api\r\n"
LONG = b"x: " + b"y" * MAX_HEAD_BYTES


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the number of bytes of the body, once all of it is there."""
    length, has_more = 0, True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
        has_more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


@asynccontextmanager
async def _serving(app: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, http=BoundedHttpProtocol, lifespan="off", ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def _ask(*parts: bytes, app: Any = _echo) -> bytes:
    """Send the parts one after another, and give all that comes back until the server closes."""
    async with _serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)  # so that each arrives alone
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.mark.parametrize(
    "parts",
    [
        (HEAD, LONG),
        (HEAD + LONG + b"\r\n\r\n",),
        (HEAD, *[b"x: " + b"y" * 8000 + b"\r\n"] * 9),
        (b"GET /" + b"x" * (MAX_HEAD_BYTES + 1),),
        (b"\r\n" * MAX_HEAD_BYTES,),
    ],
    ids=["one-header", "all-at-once", "many-headers", "address", "nothing"],
)
async def test_head_that_is_too_long_is_refused(parts: tuple[bytes, ...]) -> None:
    answer = await _ask(*parts)

    # What was still on its way when the server closed can cost the client the answer.
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""


@pytest.mark.parametrize(
    ("request_", "status", "why"),
    [
        (HEAD + LONG + b"\r\n\r\n", 431, "The headers have more than 65536 bytes. Send less."),
        (
            "GET /?label=ort=Köln HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
            400,
            "This is not HTTP/1.1. In an address, write what is not ASCII as %XX.",
        ),
    ],
    ids=["long", "foreign"],
)
async def test_refusal_says_why(request_: bytes, status: int, why: str) -> None:
    head, _, body = (await _ask(request_)).partition(b"\r\n\r\n")

    problem = msgspec.json.decode(body, type=Problem)
    assert (problem.status, problem.detail) == (status, why)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"content-length: {len(body)}".encode() in head
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head


async def test_trailers_without_end_are_cut_off() -> None:
    head = b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"

    assert b"200" not in await _ask(head, LONG, b"\r\n\r\n")


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_body_does_not_count(framing: str) -> None:
    body = b"z" * 1_000_000
    if framing == "length":
        rest = b"Content-Length: 1000000\r\nConnection: close\r\n\r\n" + body
    else:
        chunk = b"3e8\r\n" + b"z" * 1000 + b"\r\n"
        rest = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk * 1000
        rest += b"0\r\n\r\n"

    answer = await _ask(b"POST / HTTP/1.1\r\nHost: api\r\n" + rest)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"1000000" in answer


async def test_head_up_to_the_limit_is_taken() -> None:
    header = b"x: " + b"y" * (MAX_HEAD_BYTES - 1000) + b"\r\n"

    assert (await _ask(HEAD + header + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "parts",
    [(), (HEAD,), (b"\r\n",), (HEAD + b"\r\n", HEAD)],
    ids=["nothing", "half-a-head", "empty-line", "half-a-second-head"],
)
async def test_connection_whose_head_takes_too_long_is_closed(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_LIMIT_S", 0.2)

    answer = await _ask(*parts)

    assert answer.count(b"HTTP/1.1 200 ") == len(parts) // 2


POST = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize("parts", [(POST,), (POST, b"a")], ids=["no-body", "half-a-body"])
async def test_connection_whose_body_does_not_go_on_is_closed(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_LIMIT_S", 0.1)
    monkeypatch.setattr(http_protocol, "BODY_STEP_S", 0.1)

    assert (await _ask(*parts)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("parts", [(POST,), (POST, b"a")], ids=["no-body", "half-a-body"])
async def test_server_that_stops_waits_for_no_body(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(http_protocol, "LAST_BODY_S", 0.1)
    async with asyncio.timeout(5):
        async with _serving(_echo) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.writelines(parts)
            await asyncio.sleep(0.05)
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_body_that_goes_on_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_LIMIT_S", 0.01)
    monkeypatch.setattr(http_protocol, "BODY_STEP_S", 0.2)
    head = POST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    answer = await _ask(head, *[b"abcde"] * 20)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"100" in answer


async def test_connection_of_a_body_that_nobody_reads_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is out, and the client sends a byte now and then."""
    monkeypatch.setattr(http_protocol, "HEAD_LIMIT_S", 0.1)
    monkeypatch.setattr(http_protocol, "BODY_STEP_S", 0.1)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answer = await _ask(POST, *[b"a"] * 3, app=refuse)

    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_requests_follow_one_another_on_one_connection() -> None:
    last = HEAD + b"Connection: close\r\n\r\n"

    together = await _ask((HEAD + b"\r\n") * 3 + last)
    apart = await _ask(*[HEAD + b"\r\n"] * 3, last)

    assert together.count(b"HTTP/1.1 200 ") == apart.count(b"HTTP/1.1 200 ") == 4


async def test_slow_answer_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_LIMIT_S", 0.01)
    head = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"

    assert (await _ask(head, b"a", b"b")).startswith(b"HTTP/1.1 200 ")


def test_connections_are_limited_below_the_files_that_may_be_open() -> None:
    limit = choose_connection_limit()

    assert limit is None or limit > 0
