"""The way to the API: requests out, typed answers or one of a few errors back.

An answer counts only with the protocol's header: captive portals and proxies answer 200 too. What
the table of the protocol says of each status is `_judge`; no other file looks at a status.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
import urllib.request
from collections.abc import Iterable
from typing import TypeVar

import httpx
import msgspec

import backhaul
from backhaul.wire.agents import (
    Batch,
    BatchReply,
    EnrollReply,
    EnrollRequest,
    PollReply,
    PollRequest,
    Receipt,
)
from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul.wire.problems import Problem, ProblemType, decode_problem
from backhaul_agent.errors import (
    BatchRefusedError,
    HostRemovedError,
    LinkLostError,
    LinkRefusedError,
    Loss,
    SettingsError,
    SupersededError,
)
from backhaul_agent.identity import Identity
from backhaul_agent.reply import Reply, describe, find_loss, find_loss_of_stranger, read_reply
from backhaul_agent.settings import Settings

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
"""For requests that the server does not hold."""
POLL_MARGIN_S = 15.0
"""The client waits longer than the server holds, or each quiet poll would look like a failure."""
TOTAL_MARGIN_S = 30.0
"""A timeout starts again with each byte; beyond it plus this, an answer that drips is given up."""
DEAD_CONNECTION_S = 2.0
"""A dead connection shows at once; what breaks later was an answer under way, or a held poll."""

_LOST_STATUSES = frozenset({408, 425, 429})

Answer = TypeVar("Answer")


class Link:
    """One client for every call, so that proxy and certificates are the same for all."""

    def __init__(self, client: httpx.AsyncClient, identity: Identity | None = None) -> None:
        self._client = client
        self._identity = identity

    async def enroll(self, request: EnrollRequest) -> EnrollReply:
        """Join. Made without an identity.

        Raises:
            LinkLostError, LinkRefusedError: the server did not answer, or not with a yes.
        """
        body = msgspec.json.encode(request)
        return await self._post("/v1/agents/enroll", body, EnrollReply, ANSWER_TIMEOUT_S)

    async def poll(self, request: PollRequest) -> PollReply:
        """Ask what differs; takes up to the hold.

        Raises:
            LinkLostError, SupersededError, LinkRefusedError, HostRemovedError
        """
        timeout_s = request.hold + POLL_MARGIN_S
        return await self._post(
            "/v1/agent/poll", msgspec.json.encode(request), PollReply, timeout_s
        )

    async def send(self, envelopes: tuple[msgspec.Raw, ...]) -> tuple[Receipt, ...]:
        """Send what happened; gives one receipt for each envelope.

        Raises:
            LinkLostError, BatchRefusedError, LinkRefusedError, HostRemovedError
        """
        body = msgspec.json.encode(Batch(envelopes=envelopes))
        reply = await self._post("/v1/agent/envelopes", body, BatchReply, ANSWER_TIMEOUT_S)
        if len(reply.receipts) != len(envelopes):
            raise LinkLostError("the server gave a wrong number of receipts")
        return reply.receipts

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, path: str, body: bytes, answer: type[Answer], timeout_s: float) -> Answer:
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s + TOTAL_MARGIN_S):
                reply = await self._send(path, body, timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise LinkLostError(
                describe(error), loss=find_loss(error), age_s=time.monotonic() - started
            ) from error
        age_s = time.monotonic() - started
        self._judge(reply, age_s)
        try:
            return msgspec.json.decode(reply.content, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LinkLostError(f"the answer cannot be read ({error})", age_s=age_s) from error

    async def _send(self, path: str, body: bytes, timeout_s: float) -> Reply:
        """Send once; a kept connection that turns out to be dead is replaced, once.

        The server may have acted on the first request: every message is safe to repeat.
        """
        traced = _Trace()
        try:
            return await self._send_once(path, body, timeout_s, traced)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if traced.is_new_connection or traced.age_s > DEAD_CONNECTION_S:
                raise
            return await self._send_once(path, body, timeout_s, _Trace())

    async def _send_once(self, path: str, body: bytes, timeout_s: float, traced: _Trace) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self._identity is not None:
            headers["Authorization"] = f"Bearer {self._identity.agent_token}"
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S)
        request = self._client.build_request(
            "POST",
            path,
            content=body,
            headers=headers,
            timeout=timeout,
            extensions={"trace": traced},
        )
        response = await self._client.send(request, stream=True)
        try:
            return await read_reply(response)
        finally:
            await response.aclose()

    def _judge(self, reply: Reply, age_s: float) -> None:
        """Turn everything but a usable answer into an error."""
        status, retry_after_s = reply.status, reply.retry_after_s
        if not reply.is_ours:
            reason = f"an answer with status {status} that is not from a Backhaul server"
            loss = find_loss_of_stranger(status)
            raise LinkLostError(reason, loss=loss, retry_after_s=retry_after_s, age_s=age_s)
        if status in {200, 201}:
            return
        problem = decode_problem(reply.content)
        reason = problem.detail if problem else f"status {status}"
        match status:
            case 409 if problem and problem.type == ProblemType.SUPERSEDED:
                raise SupersededError(reason)
            case 410 if self._is_signed_removal(problem):
                raise HostRemovedError(reason)
            case 410:
                reason = "an answer says that the host was removed, without the server's signature"
                raise LinkLostError(reason, age_s=age_s)
            case 400 | 413 | 422:
                raise BatchRefusedError(reason)
            case _ if status >= 500 or status < 400 or status in _LOST_STATUSES:
                # 503 says that the server is busy, or not ready: of the request it says nothing.
                loss = Loss.SERVER_FAILED if status >= 500 and status != 503 else Loss.OTHER
                raise LinkLostError(reason, loss=loss, retry_after_s=retry_after_s, age_s=age_s)
            case _:
                raise LinkRefusedError(reason)

    def _is_signed_removal(self, problem: Problem | None) -> bool:
        return (
            problem is not None
            and problem.signature is not None
            and self._identity is not None
            and self._identity.is_removal(problem.signature)
        )


class _Trace:
    """Notes whether httpx opened a connection for a request, or took one that it had kept."""

    def __init__(self) -> None:
        self.is_new_connection = False
        self._started = time.monotonic()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._started

    async def __call__(self, event: str, _: object) -> None:
        if event == "connection.connect_tcp.started":
            self.is_new_connection = True


def build_client(settings: Settings, *, server_url: str, ca_file: str | None) -> httpx.AsyncClient:
    """Build the client for a server. Follows no redirect: the token stays with this server.

    Raises:
        SettingsError: the certificates or the proxy cannot be used.
    """
    verify = _build_ssl_context(str(settings.ca_file) if settings.ca_file else ca_file)
    direct = _list_direct(settings, httpx.URL(server_url).host)
    try:
        return httpx.AsyncClient(
            base_url=server_url,
            verify=verify,
            headers={
                PROTOCOL_HEADER: str(PROTOCOL_VERSION),
                "User-Agent": f"backhaul-agent/{backhaul.__version__}",
            },
            follow_redirects=False,
            # A proxy from the settings replaces those of the environment.
            trust_env=settings.proxy is None,
            proxy=settings.proxy,
            mounts={pattern: httpx.AsyncHTTPTransport(verify=verify) for pattern in direct} or None,
        )
    except (ValueError, httpx.InvalidURL) as error:
        # httpx quotes the URL, which may hold the proxy's password.
        raise SettingsError("proxy: not a proxy URL, like http://proxy.example.com:3128") from error


def _build_ssl_context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"ca_file {ca_file}: no certificates in PEM ({error})") from error
    return context


def lies_in_network(host: str, names: Iterable[str]) -> bool:
    """Tell whether a host is an address in one of the networks among these names.

    Like curl and Go, it looks no name up. httpx knows no networks at all.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    networks = [network for name in names if (network := _read_network(name.strip())) is not None]
    return any(address in network for network in networks)


def read_environment_no_proxy() -> list[str]:
    """Read the names of NO_PROXY."""
    return urllib.request.getproxies().get("no", "").split(",")


def _list_direct(settings: Settings, host: str) -> list[str]:
    """List what is asked without a proxy, as patterns of httpx.

    Raises:
        SettingsError: `no_proxy` has something that can be no host.
    """
    names = [name.strip() for name in (settings.no_proxy or "").split(",") if name.strip()]
    patterns = [_build_pattern(name) for name in names if _read_network(name) is None]
    # A network in the environment counts as in the settings, where the environment counts.
    networks = [*names, *(read_environment_no_proxy() if settings.proxy is None else ())]
    if lies_in_network(host, networks):
        patterns.append(f"all://[{host}]" if ":" in host else f"all://{host}")
    return patterns


def _build_pattern(name: str) -> str:
    pattern = f"all://*{name}" if name.startswith(".") else f"all://{name}"
    try:
        url = httpx.URL(pattern)
    except (ValueError, httpx.InvalidURL) as error:
        raise SettingsError(f"no_proxy: {name} is not the name of a host") from error
    if url.path not in {"", "/"}:
        raise SettingsError(
            f"no_proxy: {name} is neither a host nor a network; write names like"
            " backup.example.com, addresses, or networks like 10.0.0.0/8"
        )
    return pattern


def _read_network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(name, strict=False) if "/" in name else None
    except ValueError:
        return None
