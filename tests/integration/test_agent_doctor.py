"""`backhaul agent doctor` against the real API, and against what stands in its place."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.tokens import TokenKind, build_token
from backhaul_agent.doctor import Doctor, Finding, Verdict
from backhaul_agent.identity import Identity
from backhaul_agent.settings import Settings
from backhaul_api.db.tables import hosts
from backhaul_api.services import Services
from tests.conftest import stop_for_missing
from tests.fakes.fleet import FakeAgent, add_agent
from tests.fakes.served import serve
from tests.unit.agent.hosts import build_identity

Examine = Callable[..., Any]


@pytest.fixture
async def agent(services: Services, app: Litestar) -> FakeAgent:
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent


@pytest.fixture
async def identity(app: Litestar, agent: FakeAgent) -> AsyncIterator[Identity]:
    token = agent.client.headers["Authorization"].removeprefix("Bearer ")
    async with serve(app) as port:
        yield msgspec.structs.replace(
            build_identity(server_url=f"http://127.0.0.1:{port}", agent_token=token),
            host_id=agent.host_id,
            name="web1",
        )


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


async def examine(
    identity: Identity, folder: Path, *, is_quick: bool = False, **settings: Any
) -> dict[str, Finding]:
    now = settings.pop("now", lambda: datetime.now(UTC))
    chosen: dict[str, Any] = {"restic": "/bin/false", "poll_hold": 0.2} | settings
    doctor = Doctor(Settings(state_dir=folder, **chosen), identity, now=now)
    found = [finding async for finding in doctor.examine(has_patience=not is_quick)]
    return {finding.check: finding for finding in found}


def verdicts(findings: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.verdict.value for check, finding in findings.items()}


async def test_healthy_path_is_told_check_by_check(
    identity: Identity, tmp_path: Path, restic: str
) -> None:
    findings = await examine(identity, tmp_path, restic=restic)

    assert verdicts(findings) == {
        "restic": "ok",
        "state": "ok",
        "proxy": "ok",
        "dns": "ok",
        "server": "ok",
        "tls": "warning",
        "token": "ok",
        "clock": "ok",
        "hold": "ok",
    }
    assert "web1" in findings["token"].detail
    assert identity.agent_token not in str(findings)


async def test_agent_that_runs_is_not_disturbed(
    identity: Identity, agent: FakeAgent, services: Services, tmp_path: Path
) -> None:
    parked = asyncio.create_task(agent.ask(hold=20))
    while not services.wakeups.waiting:
        await asyncio.sleep(0)

    await examine(identity, tmp_path)
    async with services.database.reading() as connection:
        boot_id = await connection.scalar(sa.select(hosts.c.boot_id))

    assert boot_id == agent.boot_id
    assert not parked.done()
    services.wakeups.drain()
    assert (await parked).status_code == 200


async def test_unknown_token_and_missing_restic_fail_with_a_remedy(
    identity: Identity, tmp_path: Path
) -> None:
    stranger = msgspec.structs.replace(identity, agent_token=build_token(TokenKind.AGENT))

    findings = await examine(stranger, tmp_path)

    assert findings["token"].verdict is Verdict.FAILED
    assert findings["token"].remedy == "enrol the host again: backhaul agent enroll --force"
    assert findings["restic"].verdict is Verdict.FAILED
    assert findings["hold"].verdict is Verdict.SKIPPED


async def test_removed_host_is_told_so(
    identity: Identity, services: Services, tmp_path: Path
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(sa.update(hosts).values(removed_at=services.clock.now()))

    findings = await examine(identity, tmp_path, is_quick=True)

    assert findings["token"].verdict is Verdict.FAILED
    assert "removed" in findings["token"].detail


async def test_clock_that_is_off_is_a_warning(identity: Identity, tmp_path: Path) -> None:
    behind = await examine(
        identity, tmp_path, is_quick=True, now=lambda: datetime.now(UTC) - timedelta(minutes=5)
    )

    assert behind["clock"].verdict is Verdict.WARNING
    assert "behind the server" in behind["clock"].detail
    assert "NTP" in str(behind["clock"].remedy)


async def test_port_where_nobody_listens_ends_the_examination(tmp_path: Path) -> None:
    findings = await examine(build_identity(server_url="http://127.0.0.1:9"), tmp_path)

    assert findings["server"].verdict is Verdict.FAILED
    assert "cannot be reached" in findings["server"].detail
    assert "token" not in findings


async def test_name_without_an_address_is_told(tmp_path: Path) -> None:
    findings = await examine(build_identity(server_url="http://backhaul.invalid"), tmp_path)

    assert findings["dns"].verdict is Verdict.FAILED


async def test_proxy_is_named_without_its_password(tmp_path: Path) -> None:
    identity = build_identity(server_url="http://127.0.0.1:9")

    used = await examine(identity, tmp_path, proxy="http://u:hunter2@127.0.0.1:9")
    spared = await examine(
        identity, tmp_path, proxy="http://u:hunter2@127.0.0.1:9", no_proxy="127.0.0.1"
    )
    by_network = await examine(
        identity, tmp_path, proxy="http://u:hunter2@127.0.0.1:9", no_proxy="127.0.0.0/8"
    )

    assert used["proxy"].detail == "127.0.0.1:9, from the settings"
    assert "none" in spared["proxy"].detail
    assert "none" in by_network["proxy"].detail
    assert "hunter2" not in str((used, spared))


async def _serve_raw(answer: bytes, after_s: float = 0.0) -> asyncio.Server:
    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/hold" in request:
            await asyncio.sleep(after_s)
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(serve_one, "127.0.0.1", 0)


async def test_portal_in_the_servers_place_is_recognised(tmp_path: Path) -> None:
    body = b"HTTP/1.1 200 OK\r\nServer: portal\r\nContent-Length: 2\r\n\r\nhi"
    server = await _serve_raw(body)
    port = server.sockets[0].getsockname()[1]

    findings = await examine(build_identity(server_url=f"http://127.0.0.1:{port}"), tmp_path)
    server.close()

    assert findings["server"].verdict is Verdict.FAILED
    assert "not as Backhaul: portal" in findings["server"].detail


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A certificate that signs itself."""
    openssl = shutil.which("openssl") or stop_for_missing("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/O=Nobody/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_certificate_is_described_once_its_ca_is_known(
    tmp_path: Path, tls: ssl.SSLContext
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 401 Unauthorized\r\nBackhaul-Protocol: 1\r\nContent-Length: 0\r\n\r\n"
        writer.write(head)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    identity = build_identity(server_url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    findings = await examine(identity, tmp_path, ca_file=tmp_path / "certificate.pem")
    server.close()

    assert "signed by Nobody, 127.0.0.1" in findings["tls"].detail
    assert findings["tls"].verdict is Verdict.WARNING  # it ends tomorrow
    assert findings["token"].verdict is Verdict.FAILED


async def test_certificate_that_nobody_vouches_for_is_told(
    tmp_path: Path, tls: ssl.SSLContext
) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]

    findings = await examine(build_identity(server_url=f"https://127.0.0.1:{port}"), tmp_path)
    server.close()

    assert findings["tls"].verdict is Verdict.FAILED
    assert "ca_file" in str(findings["tls"].remedy)
