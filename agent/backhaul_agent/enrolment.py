"""Joining: makes the host's key, asks the server in, writes the identity file."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import nacl.public

from backhaul.wire.agents import EnrollReply, EnrollRequest, HostFacts
from backhaul.wire.base import PROTOCOL_VERSION
from backhaul.wire.refusals import explain
from backhaul.wire.tokens import TokenKind, parse_token_kind
from backhaul.wire.utf8 import NO_UTF8, find_no_utf8
from backhaul_agent.backoff import Backoff
from backhaul_agent.clock import Clock, SystemClock
from backhaul_agent.errors import EnrolmentError, LinkError, LinkLostError, Loss
from backhaul_agent.facts import gather_facts
from backhaul_agent.files import make_private_folder
from backhaul_agent.identity import Identity, identity_exists, save_identity
from backhaul_agent.journal_file import delete_journal
from backhaul_agent.link import Link, build_client
from backhaul_agent.settings import Settings
from backhaul_agent.state_lock import only_process


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator says when a host is to join."""

    server_url: str
    token: str
    name: str | None = None
    labels: dict[str, str] = {}
    ca_file: Path | None = None
    force: bool = False

    def __repr__(self) -> str:
        return f"Application(server_url={self.server_url!r}, …)"


ATTEMPTS = 4
"""How often a server is asked whose answer got lost. It knows the same request again."""

LONGEST_PAUSE_S = 10.0
"""A person waits."""

_PERHAPS_RECEIVED = frozenset({Loss.CUT, Loss.TIMED_OUT, Loss.SERVER_FAILED})


async def enroll(
    application: Application, settings: Settings, *, clock: Clock | None = None
) -> Identity:
    """Join the server and write the identity file.

    The one-time token is spent before the file is written, so what can fail is tried first. An
    answer that gets lost is asked for again, with the same key: the server then knows the host.

    Raises:
        AgentError: the host did not join; the message says why, and never holds the token.
    """
    server_url = _check(application)
    _prepare_state_dir(settings.state_dir, force=application.force)
    with only_process(settings.state_dir):
        identity = await _join(application, settings, server_url, clock or SystemClock())
        # The old identity's journal holds jobs that only the old host's key opens.
        delete_journal(settings.state_dir)
        save_identity(settings.state_dir, identity)
    return identity


async def _join(
    application: Application, settings: Settings, server_url: str, clock: Clock
) -> Identity:
    key = nacl.public.PrivateKey.generate()
    request = _build_request(application, key, await gather_facts(settings))
    ca_file = str(application.ca_file) if application.ca_file else None
    link = Link(build_client(settings, server_url=server_url, ca_file=ca_file))
    try:
        reply = await _ask(link, request, clock)
    except LinkError as error:
        raise EnrolmentError(f"{server_url}: {error}") from error
    finally:
        await link.close()
    if not reply.protocol.minimum <= PROTOCOL_VERSION <= reply.protocol.maximum:
        raise EnrolmentError(
            f"the server speaks protocol {reply.protocol.minimum} to {reply.protocol.maximum}, "
            f"this agent {PROTOCOL_VERSION}; install a matching version of backhaul"
        )
    return Identity(
        server_url=server_url,
        ca_file=ca_file,
        host_id=reply.host_id,
        name=reply.name,
        agent_token=reply.agent_token,
        private_key=bytes(key),
        signing_key=reply.signing_key,
    )


async def _ask(link: Link, request: EnrollRequest, clock: Clock) -> EnrollReply:
    backoff, has_perhaps_joined = Backoff(), False
    for _ in range(ATTEMPTS - 1):
        try:
            return await link.enroll(request)
        except LinkLostError as lost:
            has_perhaps_joined |= lost.loss in _PERHAPS_RECEIVED
            if not has_perhaps_joined:
                raise  # the URL is wrong, or the server is down: whoever typed it sees that best
            await clock.sleep(min(backoff.delay_after(lost), LONGEST_PAUSE_S))
    return await link.enroll(request)


def _check(application: Application) -> str:
    """Check what was typed; gives the server's URL without a slash at its end."""
    if parse_token_kind(application.token) is not TokenKind.ENROLLMENT:
        raise EnrolmentError(
            "this is not an enrollment token: it begins with bhe_ and has 53 characters; "
            "perhaps it was cut or mistyped"
        )
    options = {
        "--server": application.server_url,
        "--name": application.name,
        "--label": application.labels,
        "--ca-file": str(application.ca_file or ""),  # is kept with the identity
    }
    for option, value in options.items():
        if find_no_utf8(value, option) is not None:
            raise EnrolmentError(f"{option} {NO_UTF8}")
    url = httpx.URL(application.server_url) if _is_url(application.server_url) else None
    if url is None or url.scheme not in {"http", "https"} or not url.host or url.userinfo:
        raise EnrolmentError("--server must be a URL like https://backhaul.example.com")
    return str(url).rstrip("/")


def _is_url(text: str) -> bool:
    try:
        httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return True


def _prepare_state_dir(state_dir: Path, *, force: bool) -> None:
    if identity_exists(state_dir) and not force:
        raise EnrolmentError(
            f"this host is enrolled already ({state_dir}); --force replaces its identity, and the "
            "server then sees a new host"
        )
    try:
        make_private_folder(state_dir)
    except OSError as error:
        raise EnrolmentError(
            f"the state folder {state_dir} cannot be used: {error.strerror}"
        ) from error


def _build_request(
    application: Application, key: nacl.public.PrivateKey, facts: HostFacts
) -> EnrollRequest:
    """Build the request, with the name and labels checked here: msgspec does so on reading only.

    Raises:
        EnrolmentError: a name or a label is not acceptable.
    """
    request = EnrollRequest(
        enrollment_token=application.token,
        public_key=bytes(key.public_key),
        facts=facts,
        name=application.name,
        labels=application.labels,
    )
    try:
        return msgspec.json.decode(msgspec.json.encode(request), type=EnrollRequest)
    except msgspec.ValidationError as error:
        raise EnrolmentError(explain(str(error)).describe()) from error
