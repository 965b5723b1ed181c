"""What the agent makes of each answer, against a server on the loopback interface."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import nacl.signing
import pytest

from backhaul.wire.agents import Hello, PollRequest
from backhaul.wire.base import ProtocolRange
from backhaul.wire.problems import ProblemType, removal_message
from backhaul_agent import link as link_module
from backhaul_agent import reply
from backhaul_agent.errors import (
    BatchRefusedError,
    HostRemovedError,
    LinkError,
    LinkLostError,
    LinkRefusedError,
    Loss,
    SettingsError,
    SupersededError,
)
from backhaul_agent.identity import Identity
from backhaul_agent.link import Link, build_client
from backhaul_agent.settings import Settings
from backhaul_agent.simulation.figures import Figures
from backhaul_agent.simulation.link import LightLink, find_target
from tests.fakes.fake_api import FakeApi, Reply
from tests.unit.agent.hosts import FACTS, START, build_identity

HELLO = (msgspec.Raw(msgspec.json.encode(Hello(boot_id=uuid4(), facts=FACTS))),)
PORTAL = b"<html>Please accept our terms</html>"
PROTOCOL = {"Backhaul-Protocol": "1"}


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as server:
        yield server


@pytest.fixture
def identity(api: FakeApi) -> Identity:
    identity = build_identity(
        server_url=api.url, signing_key=api.signing_key, agent_token=api.agent_token
    )
    return msgspec.structs.replace(identity, host_id=api.host_id)


@pytest.fixture(params=["real", "light"])
async def link(
    request: pytest.FixtureRequest, api: FakeApi, identity: Identity, tmp_path: Path
) -> AsyncIterator[Link]:
    """Give the agent's link, and the one of simulated agents, which must be as good."""
    if request.param == "light":
        link: Link = LightLink(find_target(api.url, None), Figures(), identity)
    else:
        settings = Settings(state_dir=tmp_path)
        link = Link(build_client(settings, server_url=api.url, ca_file=None), identity)
    yield link
    await link.close()


def ask(link: Link) -> Awaitable[object]:
    return link.poll(
        PollRequest(
            boot_id=uuid4(),
            schedule_version=0,
            settings_version=0,
            jobs=(),
            clock=START,
            hold=0.05,
        )
    )


async def test_every_request_names_the_protocol_and_the_host(api: FakeApi, link: Link) -> None:
    await ask(link)
    await link.send(HELLO)

    for _, headers in api.requests:
        assert headers["backhaul-protocol"] == "1"
        assert headers["authorization"] == f"Bearer {api.agent_token}"
    assert [path for path, _ in api.requests] == ["/v1/agent/poll", "/v1/agent/envelopes"]


def signed_by_a_stranger(api: FakeApi) -> Reply:
    key = nacl.signing.SigningKey.generate()
    signature = key.sign(removal_message(api.host_id)).signature
    return api.problem(410, ProblemType.HOST_REMOVED, signature=signature)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda api: Reply(body=PORTAL), LinkLostError),
        (lambda api: Reply(body=b'{"envelopes":[]}'), LinkLostError),
        (lambda api: Reply(status=502, body=PORTAL), LinkLostError),
        (lambda api: Reply(status=401, body=PORTAL), LinkLostError),
        (lambda api: Reply(status=410, body=PORTAL), LinkLostError),
        (lambda api: Reply(status=302, headers={"Location": "http://other/"}), LinkLostError),
        (lambda api: Reply(status=307, headers={"Location": "/v1", **PROTOCOL}), LinkLostError),
        (lambda api: Reply(body=PORTAL, headers=PROTOCOL), LinkLostError),
        (lambda api: Reply(body=b"\xff", headers=PROTOCOL), LinkLostError),
        (lambda api: Reply(status=None), LinkLostError),
        (lambda api: Reply(headers={**PROTOCOL, "Content-Encoding": "gzip"}), LinkLostError),
        (lambda api: api.problem(429, ProblemType.RATE_LIMITED), LinkLostError),
        (lambda api: api.problem(503, ProblemType.NOT_READY), LinkLostError),
        (lambda api: api.problem(401, ProblemType.NOT_AUTHENTICATED), LinkRefusedError),
        (lambda api: api.problem(404, ProblemType.NOT_FOUND), LinkRefusedError),
        (
            lambda api: api.problem(
                426,
                ProblemType.UNSUPPORTED_PROTOCOL,
                protocol=ProtocolRange(minimum=2, maximum=3),
            ),
            LinkRefusedError,
        ),
        (lambda api: api.problem(409, ProblemType.SUPERSEDED), SupersededError),
        (lambda api: api.problem(409, ProblemType.CONFLICT), LinkRefusedError),
        (lambda api: api.problem(413, ProblemType.TOO_LARGE), BatchRefusedError),
        (lambda api: api.problem(422, ProblemType.INVALID_REQUEST), BatchRefusedError),
        (lambda api: api.removal(), HostRemovedError),
        (lambda api: api.problem(410, ProblemType.HOST_REMOVED), LinkLostError),
        (signed_by_a_stranger, LinkLostError),
    ],
    ids=[
        "captive portal with 200",
        "JSON without the header",
        "proxy error page",
        "proxy wants a login",
        "410 of somebody else",
        "redirect",
        "redirect of ours",
        "HTML with the header",
        "bytes",
        "cut",
        "broken compression",
        "rate limited",
        "not ready",
        "token unknown",
        "no such path",
        "protocol too old",
        "superseded",
        "another conflict",
        "too large",
        "not acceptable",
        "removed",
        "removed, unsigned",
        "removed, forged",
    ],
)
async def test_answer_folds_into_its_error(
    api: FakeApi, link: Link, answer: Callable[[FakeApi], Reply], error: type[LinkError]
) -> None:
    api.answers["poll"].append(answer(api))

    with pytest.raises(LinkError) as caught:
        await ask(link)

    assert type(caught.value) is error
    assert api.agent_token not in str(caught.value)


async def test_refused_connection_is_a_lost_link(tmp_path: Path) -> None:
    async with FakeApi() as gone:
        url = gone.url
    link = Link(build_client(Settings(state_dir=tmp_path), server_url=url, ca_file=None))

    with pytest.raises(LinkLostError, match="ConnectError") as caught:
        await ask(link)

    assert caught.value.loss is Loss.NOT_SENT

    await link.close()


@pytest.mark.parametrize("seconds", ["7", "date"])
async def test_retry_after_is_read_in_both_forms(api: FakeApi, link: Link, seconds: str) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=8))
    value = later if seconds == "date" else seconds
    api.answers["poll"].append(Reply(status=503, headers={**PROTOCOL, "Retry-After": value}))

    with pytest.raises(LinkLostError) as caught:
        await ask(link)

    assert caught.value.retry_after_s is not None
    assert 5 < caught.value.retry_after_s < 9


@pytest.mark.parametrize(
    "value", ["²", "-1", "soon", "Mon, 01 Jan 2024 00:00:00 +99999999999999", "1" * 400]
)
async def test_strange_retry_after_is_no_end(api: FakeApi, link: Link, value: str) -> None:
    api.answers["poll"].append(Reply(status=503, headers={**PROTOCOL, "Retry-After": value}))

    with pytest.raises(LinkLostError):
        await ask(link)


@pytest.mark.parametrize(
    ("answer", "loss"),
    [
        (lambda api: Reply(status=413, body=PORTAL), Loss.TOO_LARGE),
        (lambda api: Reply(status=502, body=PORTAL), Loss.CUT),
        (lambda api: Reply(status=504, body=PORTAL), Loss.CUT),
        (lambda api: Reply(status=524, body=PORTAL), Loss.CUT),
        (lambda api: Reply(status=500, body=PORTAL), Loss.OTHER),
        (lambda api: Reply(status=None), Loss.CUT),
        (lambda api: api.problem(500, ProblemType.INTERNAL), Loss.SERVER_FAILED),
        (lambda api: api.problem(503, ProblemType.NOT_READY), Loss.OTHER),
        (lambda api: api.problem(429, ProblemType.RATE_LIMITED), Loss.OTHER),
    ],
)
async def test_loss_says_where_the_request_was_lost(
    api: FakeApi, link: Link, answer: Callable[[FakeApi], Reply], loss: Loss
) -> None:
    api.answers["envelopes"].append(answer(api))

    with pytest.raises(LinkLostError) as caught:
        await link.send(HELLO)

    assert caught.value.loss is loss


async def test_compressed_answer_is_bounded_by_what_it_becomes(
    api: FakeApi, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "MAX_ANSWER_BYTES", 100_000)
    bomb = gzip.compress(bytes(200_000))
    api.answers["poll"].append(Reply(body=bomb, headers={**PROTOCOL, "Content-Encoding": "gzip"}))

    with pytest.raises(LinkLostError, match="too large"):
        await ask(link)


async def _serve_dripping(head: bytes) -> asyncio.Server:
    """Serve answers whose body comes a byte at a time, for ever."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while not reader.at_eof():
            writer.write(b" ")
            await asyncio.wait([asyncio.ensure_future(reader.read(65536))], timeout=0.05)
        writer.close()

    return await asyncio.start_server(drip, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("header", "loss"), [(b"Backhaul-Protocol: 1\r\n", Loss.TIMED_OUT), (b"", Loss.OTHER)]
)
async def test_answer_that_drips_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes, loss: Loss
) -> None:
    monkeypatch.setattr(link_module, "TOTAL_MARGIN_S", 0.2)
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT_S", 0.2)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n" + header + b"\r\n"
    server = await _serve_dripping(head)
    port = server.sockets[0].getsockname()[1]
    settings = Settings(state_dir=tmp_path)
    link = Link(build_client(settings, server_url=f"http://127.0.0.1:{port}", ca_file=None))

    with pytest.raises(LinkLostError) as caught:
        await link.send(HELLO)

    assert caught.value.loss is loss
    await link.close()
    server.close()


async def test_token_is_not_sent_along_a_redirect(api: FakeApi, link: Link) -> None:
    async with FakeApi() as other:
        location = {"Location": f"{other.url}/v1/agent/poll", **PROTOCOL}
        api.answers["poll"].append(Reply(status=307, headers=location))

        with pytest.raises(LinkLostError):
            await ask(link)

        assert other.requests == []


async def test_kept_connection_that_died_is_replaced_at_once(api: FakeApi, link: Link) -> None:
    await ask(link)
    # The second request goes out on the kept connection and finds it cut.
    api.answers["poll"].append(Reply(status=None))

    await ask(link)

    assert api.connections == 2
    assert len(api.requests) == 3


async def test_it_is_replaced_only_once(api: FakeApi, link: Link) -> None:
    await ask(link)
    api.answers["poll"].extend([Reply(status=None)] * 2)

    with pytest.raises(LinkLostError):
        await ask(link)

    assert len(api.requests) == 3


async def test_new_connection_that_is_cut_is_a_lost_link(api: FakeApi, link: Link) -> None:
    api.answers["poll"].append(Reply(status=None))

    with pytest.raises(LinkLostError):
        await ask(link)

    assert len(api.requests) == 1


async def test_wrong_number_of_receipts_is_a_lost_link(api: FakeApi, link: Link) -> None:
    api.answers["envelopes"].append(Reply(body=b'{"receipts":[]}', headers=PROTOCOL))

    with pytest.raises(LinkLostError, match="receipts"):
        await link.send(HELLO)


async def test_configured_proxy_is_used(api: FakeApi, identity: Identity, tmp_path: Path) -> None:
    async with FakeApi() as proxy:
        settings = Settings(state_dir=tmp_path, proxy=proxy.url)
        client = build_client(settings, server_url="http://backhaul.example", ca_file=None)
        link = Link(client, identity)
        proxy.agent_token = identity.agent_token

        await ask(link)
        await link.close()

        assert proxy.requests[0][0] == "http://backhaul.example/v1/agent/poll"
        assert api.requests == []


async def test_no_proxy_goes_straight(api: FakeApi, identity: Identity, tmp_path: Path) -> None:
    async with FakeApi() as proxy:
        settings = Settings(
            state_dir=tmp_path, proxy=proxy.url, no_proxy="other.example, 127.0.0.1"
        )
        link = Link(build_client(settings, server_url=api.url, ca_file=None), identity)

        await ask(link)
        await link.close()

        assert proxy.requests == []
        assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("proxy_from", "no_proxy", "is_direct"),
    [
        ("settings", "10.0.0.0/8, 127.0.0.0/8", True),
        ("settings", "127.0.0.1/8", True),
        ("settings", "10.0.0.0/8, fd00::/8", False),
        ("environment", "10.0.0.0/8,127.0.0.0/8", True),
    ],
)
async def test_networks_without_a_proxy_hold_for_addresses(
    api: FakeApi,
    identity: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    proxy_from: str,
    no_proxy: str,
    is_direct: bool,
) -> None:
    async with FakeApi() as proxy:
        proxy.agent_token = identity.agent_token
        settings = Settings(state_dir=tmp_path)
        if proxy_from == "settings":
            settings = Settings(state_dir=tmp_path, proxy=proxy.url, no_proxy=no_proxy)
        else:
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("no_proxy", no_proxy)
        link = Link(build_client(settings, server_url=api.url, ca_file=None), identity)

        await ask(link)
        await link.close()

        assert (len(proxy.requests), len(api.requests)) == ((0, 1) if is_direct else (1, 0))


@pytest.mark.parametrize("name", ["10.0.0.0/33", "backup.example.com/24", "http://proxy:3128"])
def test_no_proxy_that_matches_nothing_is_refused_with_what_to_write(
    tmp_path: Path, name: str
) -> None:
    settings = Settings(state_dir=tmp_path, proxy="http://proxy:3128", no_proxy=name)

    with pytest.raises(SettingsError, match=r"^no_proxy: .* or networks like 10\.0\.0\.0/8"):
        build_client(settings, server_url="http://x", ca_file=None)


def test_bad_proxy_is_refused_without_being_shown(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, proxy="ftp://user:secret@proxy")

    with pytest.raises(SettingsError, match="proxy") as caught:
        build_client(settings, server_url="http://x", ca_file=None)

    assert "secret" not in str(caught.value)


def test_bad_no_proxy_is_not_called_a_bad_proxy(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, proxy="http://proxy:3128", no_proxy="ok.example, [::1")

    with pytest.raises(SettingsError, match=r"^no_proxy: \[::1 "):
        build_client(settings, server_url="http://x", ca_file=None)


def test_bad_certificates_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")

    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(SettingsError, match=name):
            build_client(
                Settings(state_dir=tmp_path), server_url="http://x", ca_file=str(tmp_path / name)
            )
