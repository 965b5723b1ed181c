"""The agent's link over bare connections: what an answer means is decided by the real one."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec

import backhaul
from backhaul.wire.agents import PollReply, PollRequest, Receipt
from backhaul_agent.errors import LinkError, LinkLostError
from backhaul_agent.identity import Identity
from backhaul_agent.link import CONNECT_TIMEOUT_S, DEAD_CONNECTION_S, Link
from backhaul_agent.reply import Reply, read_reply
from backhaul_agent.simulation.connection import Answer, Connection, build_request
from backhaul_agent.simulation.figures import Figures, Traffic

KEPT_S = 5.0
"""For so long an idle connection is used again, as by the agent's own client."""
_USER_AGENT = f"backhaul-agent/{backhaul.__version__}"
_POLL = "/v1/agent/poll"
_REQUEST = httpx.Request("POST", "http://server")
"""For errors of httpx, which want one."""


class Target(NamedTuple):
    """A server, looked up once for all."""

    address: str
    port: int
    name: str
    host_header: str
    prefix: str
    tls: ssl.SSLContext | None


def find_target(url: str, ca_file: str | None) -> Target:
    """Look a server up.

    Raises:
        OSError: its name has no address, or the certificates cannot be read.
    """
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    name = parts.hostname or ""
    port = parts.port or (443 if is_tls else 80)
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    tls = ssl.create_default_context(cafile=ca_file) if is_tls else None
    return Target(
        address=str(found[0][4][0]),
        port=port,
        name=name,
        host_header=parts.netloc,
        prefix=parts.path.rstrip("/"),
        tls=tls,
    )


class LightLink(Link):
    """One agent's way to the server. Without an identity, for enrolment."""

    def __init__(self, target: Target, figures: Figures, identity: Identity | None = None) -> None:
        # Not the client of the real one, which is what a process can have a few hundred of.
        self._target = target
        self._figures = figures
        self._identity = identity
        self._idle: list[Connection] = []
        self._polled = Traffic()
        """Of the poll that was answered last."""

    async def poll(self, request: PollRequest) -> PollReply:
        try:
            reply = await super().poll(request)
        except LinkError as error:
            self._figures.count_error("poll", _name(error))
            raise
        self._figures.note_poll(self._polled, is_quiet=not reply.envelopes)
        return reply

    async def send(self, envelopes: tuple[msgspec.Raw, ...]) -> tuple[Receipt, ...]:
        try:
            return await super().send(envelopes)
        except LinkError as error:
            self._figures.count_error("envelopes", _name(error))
            raise

    async def close(self) -> None:
        for one in self._idle:
            one.hang_up()
        self._idle.clear()

    async def _send(self, path: str, body: bytes, timeout_s: float) -> Reply:
        """Send once; a kept connection that turns out to be dead is replaced, once."""
        token = None if self._identity is None else self._identity.agent_token
        request = build_request(
            "POST",
            self._target.prefix + path,
            body,
            token=token,
            host=self._target.host_header,
            agent=_USER_AGENT,
        )
        if (kept := self._take_idle()) is not None:
            begun_s = time.monotonic()
            try:
                return await self._exchange(kept, path, request, timeout_s)
            except httpx.ReadError:
                if time.monotonic() - begun_s > DEAD_CONNECTION_S:
                    raise
        return await self._exchange(await self._connect(), path, request, timeout_s)

    def _take_idle(self) -> Connection | None:
        now_s = time.monotonic()
        while self._idle:
            kept = self._idle.pop()
            if kept.is_open and now_s - kept.idle_since_s < KEPT_S:
                return kept
            kept.hang_up()
        return None

    async def _connect(self) -> Connection:
        target = self._target
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection,
                    target.address,
                    target.port,
                    ssl=target.tls,
                    server_hostname=target.name if target.tls else None,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    async def _exchange(
        self, connection: Connection, path: str, request: bytes, timeout_s: float
    ) -> Reply:
        is_poll = path == _POLL
        if is_poll:
            self._figures.note_parked()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await connection.exchange(request)
        except TimeoutError as error:
            connection.hang_up()
            raise httpx.ReadTimeout("no answer in time") from error
        except BaseException:
            connection.hang_up()
            raise
        finally:
            self._figures.parked -= is_poll
        connection.idle_since_s = time.monotonic()
        if connection.is_open:
            self._idle.append(connection)
        if is_poll:
            self._polled = Traffic(len(request), answer.size)
        elif self._identity is not None:
            self._figures.note_busy(Traffic(len(request), answer.size))
        return await read_reply(_build_response(answer))


def _build_response(answer: Answer) -> httpx.Response:
    """Build what the real client would have read.

    Raises:
        httpx.RemoteProtocolError: the head is none of HTTP.
    """
    status, *lines = answer.head.split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    headers = [(name, value.strip()) for name, _, value in pairs]
    try:
        return httpx.Response(
            int(status.split(b" ", 2)[1]),
            headers=headers,
            stream=httpx.ByteStream(answer.body),
            request=_REQUEST,
        )
    except (ValueError, IndexError) as error:
        raise httpx.RemoteProtocolError("what came is no HTTP") from error


def _name(error: LinkError) -> str:
    if isinstance(error, LinkLostError):
        return error.loss.value
    return type(error).__name__.removesuffix("Error").lower()
