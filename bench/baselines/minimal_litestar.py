"""Minimal Litestar handlers, without a database."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn
from litestar import Litestar, Request, post

HOLD_S = 25.0

_events: dict[str, asyncio.Event] = {}


@post("/v1/agent/poll", status_code=200)
async def poll(request: Request[Any, Any, Any]) -> dict[str, Any]:
    token = request.headers["authorization"].removeprefix("Bearer ")
    asked_s = (await request.json())["hold"]
    event = _events[token] = asyncio.Event()
    found = []
    try:
        async with asyncio.timeout(min(HOLD_S, asked_s)):
            await event.wait()
        found = [{"type": "command.run"}]
    except TimeoutError:
        pass
    return {"envelopes": found, "hold": HOLD_S, "pause": 0.0}


@post("/v1/jobs")
async def create_job(request: Request[Any, Any, Any]) -> dict[str, str]:
    _events[(await request.json())["host"]].set()
    return {"state": "queued"}


app = Litestar([poll, create_job], openapi_config=None, logging_config=None)

if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off", ws="none"
    )
