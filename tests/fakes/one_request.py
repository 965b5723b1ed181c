"""A server in which each process lives for one request, as on the meanest of platforms.

    python -m tests.fakes.one_request

For each connection a process is forked that has nothing but the code loaded. It opens the database,
answers one request, and is killed the moment the last byte of the answer is out: what it meant to
do after that is never done. Every other request comes as the event of a gateway, to the function.

Prints its address, and a line for each process that has ended: what it was asked, and the signal
that ended it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from http import HTTPStatus
from typing import Any, NoReturn

from backhaul_api.aws_events import Handler
from backhaul_api.hosted import build_app
from tests.fakes.gateways import Asked, build_http_event_2

_ACCEPT_LIMIT_S = 0.2  # then it looks for processes that have ended


def serve_forever() -> None:
    """Serve until a signal ends it, and leave no process behind."""
    running: dict[int, str] = {}
    count = 0
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.settimeout(_ACCEPT_LIMIT_S)
        _say(f"One request each on http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            while True:
                _say_who_ended(running)
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                count += 1
                kind = "function" if count % 2 else "app"
                pid = os.fork()
                if pid == 0:
                    listener.close()
                    _serve_one(connection, kind)
                connection.close()
                running[pid] = kind
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)


def _say_who_ended(running: dict[int, str]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _say(f"{running.pop(pid)} ended with {os.waitstatus_to_exitcode(status)}")


def _serve_one(connection: socket.socket, kind: str) -> NoReturn:
    connection.settimeout(60)
    asked = _read(connection)
    if asked is None:  # a client that connects and says nothing
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
    if kind == "function":
        answer = Handler(os.environ)(build_http_event_2(asked), None)
        assert not answer["isBase64Encoded"], asked.path
        headers = [(name.encode(), value.encode()) for name, value in answer["headers"].items()]
        _answer(connection, answer["statusCode"], headers, answer["body"].encode())
    asyncio.run(_ask_app(connection, asked))
    os._exit(1)  # it has not answered


async def _ask_app(connection: socket.socket, asked: Asked) -> None:
    app = build_app(os.environ)
    messages: list[Any] = [{"type": "http.request", "body": asked.body or b"", "more_body": False}]
    started: dict[str, Any] = {}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": asked.query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), v.encode()) for name, v in asked.headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            assert not message.get("more_body")
            _answer(connection, started["status"], started["headers"], message["body"])

    await app(scope, receive, send)


def _read(connection: socket.socket) -> Asked | None:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            return None
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.title(): value for name, _, value in pairs}
    while len(body) < int(headers.get("Content-Length", 0)):
        body += connection.recv(65536)
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    return Asked(method=method, path=path, query=query, headers=headers, body=body or None)


def _answer(
    connection: socket.socket, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> NoReturn:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers if name != b"content-length"]
    lines += [b"content-length: %d" % len(body), b"connection: close", b"", b""]
    connection.sendall(b"\r\n".join(lines) + body)
    connection.shutdown(socket.SHUT_WR)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve_forever()
