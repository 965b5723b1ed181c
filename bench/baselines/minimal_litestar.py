"""Minimal Litestar handlers, without a database."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from litestar import Litestar, Request, post

from bench.baselines.parking import HOLD_S, Parking, build_receipts

_parking = Parking()


@post("/v1/agent/poll", status_code=200)
async def poll(request: Request[Any, Any, Any]) -> dict[str, Any]:
    token = request.headers["authorization"].removeprefix("Bearer ")
    asked_s = (await request.json())["hold"]
    event = _parking.enter(token)
    with suppress(TimeoutError):
        async with asyncio.timeout(min(HOLD_S, asked_s)):
            await event.wait()
    return _parking.build_reply(token)


@post("/v1/agent/envelopes", status_code=200)
async def send_envelopes(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return build_receipts((await request.json())["envelopes"])


@post("/v1/jobs")
async def create_job(request: Request[Any, Any, Any]) -> dict[str, str]:
    return _parking.wake((await request.json())["hosts"])


app = Litestar([poll, send_envelopes, create_job], openapi_config=None, logging_config=None)

if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off", ws="none"
    )
