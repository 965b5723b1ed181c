"""A bare ASGI app on uvicorn, as one would write it."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

import uvicorn

from bench.baselines.parking import HOLD_S, Parking, build_receipts

_parking = Parking()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/v1/agent/poll":
        headers = dict(scope["headers"])
        token = headers[b"authorization"].decode().removeprefix("Bearer ")
        event = _parking.enter(token)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(HOLD_S, json.loads(body)["hold"])):
                await event.wait()
        await _answer(send, 200, _parking.build_reply(token))
    elif scope["path"] == "/v1/agent/envelopes":
        await _answer(send, 200, build_receipts(json.loads(body)["envelopes"]))
    elif scope["path"] == "/v1/jobs":
        await _answer(send, 201, _parking.wake(json.loads(body)["hosts"]))
    else:
        await _answer(send, 200, {})


async def _answer(send: Any, status: int, value: object) -> None:
    body = json.dumps(value).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"backhaul-protocol", b"1"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off", ws="none"
    )
