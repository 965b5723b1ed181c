"""The app on a real loopback socket, and raw requests whose client can vanish."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from litestar import Litestar

from backhaul_api.access_log import Api
from backhaul_api.http_protocol import build_protocol


@asynccontextmanager
async def serve(app: Litestar) -> AsyncIterator[int]:
    """Run uvicorn in this event loop, as `backhaul serve` does; gives the port."""
    assert isinstance(app, Api)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=build_protocol(app.front),
        proxy_headers=False,
        lifespan="off",
        log_config=None,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await running
        listener.close()


async def send_request(
    port: int, method: str, path: str, *, headers: dict[str, str], body: bytes = b""
) -> asyncio.StreamWriter:
    """Send a request and do not wait for an answer; abort the writer's transport to hang up."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", "Host: api", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()
    return writer
