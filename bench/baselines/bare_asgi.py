"""A bare ASGI app on uvicorn, as one would write it: an Event and a timeout for each poll."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn

HOLD_S = 25.0

_events: dict[str, asyncio.Event] = {}


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
        asked_s = json.loads(body)["hold"]
        event = _events[token] = asyncio.Event()
        found = []
        try:
            async with asyncio.timeout(min(HOLD_S, asked_s)):
                await event.wait()
            found = [{"type": "command.run"}]
        except TimeoutError:
            pass
        await _answer(send, 200, {"envelopes": found, "hold": HOLD_S, "pause": 0.0})
    elif scope["path"] == "/v1/jobs":
        event = _events[json.loads(body)["host"]]
        event.set()
        await _answer(send, 201, {"state": "queued"})
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
