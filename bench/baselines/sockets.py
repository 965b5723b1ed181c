"""The design that long-polling replaces: a WebSocket for each agent, on the package `websockets`.

    python -m bench.baselines.sockets PORT [--no-compression]

An agent gets its jobs pushed. `{"hosts": [TOKEN]}` over any connection makes jobs, `{"envelopes":
[…]}` gets a receipt for each.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench.baselines.parking import build_receipts

_connections: dict[str, ServerConnection] = {}
_JOB = json.dumps({"envelopes": [{"type": "command.run"}]})
_QUEUED = json.dumps({"state": "queued"})


async def serve_one(connection: ServerConnection) -> None:
    assert connection.request is not None
    token = connection.request.headers["Authorization"].removeprefix("Bearer ")
    _connections[token] = connection
    with suppress(ConnectionClosed):
        async for text in connection:
            message = json.loads(text)
            if "envelopes" in message:
                await connection.send(json.dumps(build_receipts(message["envelopes"])))
            else:
                for host in message["hosts"]:
                    await _connections[host].send(_JOB)
                await connection.send(_QUEUED)


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    compression = None if "--no-compression" in sys.argv else "deflate"
    async with serve(
        serve_one,
        "127.0.0.1",
        int(sys.argv[1]),
        compression=compression,
        backlog=2048,
        # Its clients say no goodbye, and what comes after the measure is nobody's time.
        close_timeout=0.2,
    ):
        await stop.wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
