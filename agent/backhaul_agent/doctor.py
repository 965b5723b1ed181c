"""`backhaul agent doctor`: what the way from this host to the server does, for who has to mend it.

Each check stands on the one before, and changes nothing at the server: an agent that runs on the
same host goes on undisturbed. The requests go out as the agent's own do, by the same client.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import httpx
import msgspec

from backhaul.wire.agents import Batch, HoldReply, HoldRequest
from backhaul.wire.base import PROTOCOL_HEADER
from backhaul.wire.problems import decode_problem
from backhaul.wire.wording import render_count
from backhaul_agent.errors import ResticMissingError
from backhaul_agent.identity import Identity
from backhaul_agent.link import (
    CONNECT_TIMEOUT_S,
    POLL_MARGIN_S,
    build_client,
    lies_in_network,
    read_environment_no_proxy,
)
from backhaul_agent.restic.version import ask_version
from backhaul_agent.settings import Settings

ANSWER_LIMIT_S = 20.0
SKEW_LIMIT_S = 60.0
"""Schedules fire by the host's own clock: a minute off is a minute late."""
SHORT_CERTIFICATE_DAYS = 14
LEAST_FREE_BYTES = 200 * 2**20
HELD_SHARE = 0.95


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: what was looked at, how it stands, and what to do about it."""

    check: str
    verdict: Verdict
    detail: str
    remedy: str | None = None


class Doctor:
    """Looks at the path from a host to its server."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._now = now
        self._url = httpx.URL(identity.server_url)

    async def examine(self, *, has_patience: bool = True) -> AsyncIterator[Finding]:
        """Give the findings one by one, as they come; the last takes as long as a poll is held."""
        yield await self._check_restic()
        yield self._check_disk()
        proxy = self._find_proxy()
        yield self._describe_proxy(proxy)
        yield await self._check_name(proxy)
        client = build_client(
            self._settings,
            server_url=self._identity.server_url,
            ca_file=self._identity.ca_file,
        )
        async with client:
            response, finding = await self._check_server(client)
            yield finding
            if response is None:
                return
            yield self._check_tls(response)
            yield self._check_token(response)
            yield self._check_clock(response)
            if not has_patience or response.status_code != httpx.codes.OK:
                yield _skip("hold", "was not tried")
                return
            yield await self._check_hold(client)

    async def _check_restic(self) -> Finding:
        try:
            version = await ask_version(self._settings.restic)
        except ResticMissingError as error:
            return _fail("restic", str(error), "install restic 0.14 or newer")
        if not version.is_at_least(0, 14):
            return _fail("restic", f"restic {version} is too old", "install 0.14 or newer")
        return _pass("restic", f"{version} at {self._settings.restic}")

    def _check_disk(self) -> Finding:
        folder = self._settings.state_dir
        free = shutil.disk_usage(folder).free
        text = f"{free // 2**20:,} MiB free under {folder}"
        if free < LEAST_FREE_BYTES:
            return _warn("state", text, "make room: what happened is kept there until it is sent")
        return _pass("state", text)

    def _find_proxy(self) -> httpx.URL | None:
        """Find the proxy that the agent's requests take, by the rules that its client has too."""
        host = self._url.host
        if self._settings.proxy is not None:
            names = (self._settings.no_proxy or "").split(",")
            bare = [name.strip() for name in names if name.strip()]
            is_free = any(host == name or host.endswith(f".{name.lstrip('.')}") for name in bare)
            return (
                None if is_free or lies_in_network(host, bare) else httpx.URL(self._settings.proxy)
            )
        proxies = urllib.request.getproxies()
        found = proxies.get(self._url.scheme) or proxies.get("all")
        if found is None or urllib.request.proxy_bypass(host):
            return None
        if lies_in_network(host, read_environment_no_proxy()):
            return None
        return httpx.URL(found if "://" in found else f"http://{found}")

    def _describe_proxy(self, proxy: httpx.URL | None) -> Finding:
        if proxy is None:
            return _pass("proxy", "none: the server is asked directly")
        origin = "the settings" if self._settings.proxy else "the environment"
        # Without its user and password.
        return _pass("proxy", f"{proxy.host}:{proxy.port or 80}, from {origin}")

    async def _check_name(self, proxy: httpx.URL | None) -> Finding:
        asked = proxy or self._url
        port = asked.port or (443 if asked.scheme == "https" else 80)
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(asked.host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            return _fail(
                "dns",
                f"{asked.host} has no address ({error.strerror or error})",
                "check the name, and the resolver of this host",
            )
        addresses = sorted({str(entry[4][0]) for entry in found})
        took_ms = (time.monotonic() - started) * 1000
        whose = "the proxy " if proxy else ""
        return _pass("dns", f"{whose}{asked.host} is {', '.join(addresses)} ({took_ms:.0f} ms)")

    async def _check_server(
        self, client: httpx.AsyncClient
    ) -> tuple[httpx.Response | None, Finding]:
        """Send what an agent sends that has nothing to say: the answer tells of the token too."""
        started = time.monotonic()
        timeout = httpx.Timeout(ANSWER_LIMIT_S, connect=CONNECT_TIMEOUT_S)
        try:
            response = await client.post(
                "/v1/agent/envelopes",
                content=msgspec.json.encode(Batch(envelopes=())),
                headers=self._build_headers(),
                timeout=timeout,
            )
        except (httpx.HTTPError, OSError) as error:
            return None, _explain(error, self._url)
        took_ms = (time.monotonic() - started) * 1000
        if PROTOCOL_HEADER not in response.headers:
            server = response.headers.get("Server", "a server that does not say its name")
            return None, _fail(
                "server",
                f"{self._url} answered {response.status_code}, but not as Backhaul: {server}",
                "a proxy, a portal or another program answers in its place; check the URL",
            )
        if response.status_code >= 500:
            problem = decode_problem(response.content)
            why = problem.detail if problem else f"status {response.status_code}"
            return None, _fail("server", f"{self._url} cannot serve now: {why}", "try again later")
        return response, _pass("server", f"{self._url} answers in {took_ms:.0f} ms")

    def _check_tls(self, response: httpx.Response) -> Finding:
        stream: Any = response.extensions.get("network_stream")
        secured = stream.get_extra_info("ssl_object") if stream is not None else None
        if secured is None:
            return _warn(
                "tls",
                "not used: the way to the server is plain HTTP",
                "put a TLS proxy in front of the server, and enrol with its https:// address",
            )
        certificate: dict[str, Any] = secured.getpeercert() or {}
        issuer = _name_issuer(certificate)
        until = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
        days = (until - self._now()).days
        text = f"{secured.version()}, signed by {issuer}, valid until {until:%Y-%m-%d}"
        if days < SHORT_CERTIFICATE_DAYS:
            return _warn(
                "tls", text, f"the certificate ends in {render_count(days, 'day')}: renew it"
            )
        return _pass("tls", text)

    def _check_token(self, response: httpx.Response) -> Finding:
        name = self._identity.name
        match response.status_code:
            case 200:
                return _pass("token", f"good: the server knows this host as {name}")
            case 410:
                return _fail("token", "the host was removed from the server", "enrol it again")
            case 426:
                problem = decode_problem(response.content)
                detail = problem.detail if problem else "another protocol version"
                return _fail("token", detail, "install a matching version of backhaul")
            case 401:
                return _fail(
                    "token",
                    "the server does not know this host's token",
                    "enrol the host again: backhaul agent enroll --force",
                )
            case status:
                return _fail("token", f"refused with status {status}", "see the server's log")

    def _check_clock(self, response: httpx.Response) -> Finding:
        try:
            server = parsedate_to_datetime(response.headers["Date"])
        except (KeyError, ValueError):
            return _skip("clock", "the answer has no date")
        # A Date has whole seconds, and the answer was under way for a moment.
        skew_s = (self._now() - server).total_seconds()
        text = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the server"
        if abs(skew_s) > SKEW_LIMIT_S:
            return _warn("clock", text, "schedules fire by this clock: let NTP set it")
        return _pass("clock", "agrees with the server's" if abs(skew_s) < 2 else text)

    async def _check_hold(self, client: httpx.AsyncClient) -> Finding:
        """Have the server hold a request as long as a poll, and less when that is cut."""
        wanted_s = self._settings.poll_hold
        if wanted_s <= 0:
            return _skip("hold", "polls are not held, by `poll_hold` of the settings")
        cut_s: float | None = None
        while True:
            started = time.monotonic()
            held = await self._hold(client, wanted_s if cut_s is None else cut_s * 0.8)
            passed_s = time.monotonic() - started
            if held is not None:
                break
            if passed_s < 1 or (cut_s is not None and passed_s > cut_s):
                return _fail(
                    "hold",
                    f"a request that is held breaks after {passed_s:.0f} s",
                    "look at the proxies on the way; `poll_hold = 0` polls without being held",
                )
            cut_s = passed_s
        if cut_s is None:
            return _pass("hold", f"{held:.0f} s, as long as the server holds")
        return _warn(
            "hold",
            f"the path cuts requests after {cut_s:.0f} s; {held:.0f} s went through",
            "the agent learns that by itself; a longer timeout of the proxy saves requests",
        )

    async def _hold(self, client: httpx.AsyncClient, seconds: float) -> float | None:
        timeout = httpx.Timeout(seconds + POLL_MARGIN_S, connect=CONNECT_TIMEOUT_S)
        try:
            response = await client.post(
                "/v1/agent/hold",
                content=msgspec.json.encode(HoldRequest(hold=seconds)),
                headers=self._build_headers(),
                timeout=timeout,
            )
            if response.status_code != httpx.codes.OK or PROTOCOL_HEADER not in response.headers:
                return None
            return msgspec.json.decode(response.content, type=HoldReply).held
        except (httpx.HTTPError, OSError, msgspec.DecodeError):
            return None

    def _build_headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._identity.agent_token}",
            "Content-Type": "application/json",
        }


def _explain(error: Exception, url: httpx.URL) -> Finding:
    reason = str(error) or type(error).__name__
    if _is_about_certificates(error):
        return _fail(
            "tls",
            f"the certificate of {url.host} is not trusted: {reason}",
            "name the CA that signed it as `ca_file`; a proxy that looks into TLS has one of its "
            "own",
        )
    match error:
        case httpx.ProxyError():
            return _fail("server", f"the proxy refuses: {reason}", "ask who runs the proxy")
        case httpx.ConnectTimeout() | httpx.ConnectError():
            return _fail(
                "server",
                f"{url} cannot be reached: {reason}",
                "a firewall, a wrong port, or a server that does not run",
            )
        case httpx.TimeoutException():
            return _fail("server", f"{url} does not answer: {reason}", "see the server's log")
        case _:
            return _fail("server", f"the request to {url} broke: {reason}", "look at the proxies")


def _is_about_certificates(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _name_issuer(certificate: Mapping[str, Any]) -> str:
    parts = {name: value for group in certificate.get("issuer", ()) for name, value in group}
    known = [parts.get(name) for name in ("organizationName", "commonName")]
    return ", ".join(filter(None, known)) or "somebody who gives no name"


def _pass(check: str, detail: str) -> Finding:
    return Finding(check=check, verdict=Verdict.OK, detail=detail)


def _warn(check: str, detail: str, remedy: str) -> Finding:
    return Finding(check=check, verdict=Verdict.WARNING, detail=detail, remedy=remedy)


def _fail(check: str, detail: str, remedy: str) -> Finding:
    return Finding(check=check, verdict=Verdict.FAILED, detail=detail, remedy=remedy)


def _skip(check: str, detail: str) -> Finding:
    return Finding(check=check, verdict=Verdict.SKIPPED, detail=detail)
