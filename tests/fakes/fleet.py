"""Hosts and repositories for tests of the API, and an agent that only speaks the protocol."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import httpx
import msgspec
import nacl.public
from litestar import Litestar

from backhaul.wire.agents import (
    Batch,
    BatchReply,
    HeldJob,
    Hello,
    HostFacts,
    PollReply,
    PollRequest,
    Receipt,
)
from backhaul.wire.base import PROTOCOL_HEADER, SPOKEN_PROTOCOLS
from backhaul.wire.commands import CommandAck, CommandCancel, CommandRun, Credentials, QueryRun
from backhaul.wire.schedules import RunTemplate, ScheduleSet
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.hosts import store as hosts
from backhaul_api.services import Services
from tests.fakes.clock import START

FACTS = HostFacts(
    hostname="web1.example",
    os="Debian GNU/Linux 12 (bookworm)",
    architecture="x86_64",
    agent_version="0.1.0",
    protocol=SPOKEN_PROTOCOLS,
    restic_version="0.14.0",
    capabilities=("init", "backup", "snapshots", "restore"),
)


class FakeAgent:
    """One process of an agent: it sends what a test tells it to and keeps nothing."""

    def __init__(self, *, host_id: UUID, name: str, client: httpx.AsyncClient) -> None:
        self.host_id = host_id
        self.name = name
        self.client = client
        self.boot_id = uuid.uuid4()
        self.key = nacl.public.PrivateKey.generate()

    def build_poll(
        self,
        *,
        hold: float = 0.0,
        jobs: Iterable[HeldJob] = (),
        boot_id: UUID | None = None,
        schedule_version: int = 0,
    ) -> bytes:
        body = PollRequest(
            boot_id=boot_id or self.boot_id,
            schedule_version=schedule_version,
            settings_version=0,
            jobs=tuple(jobs),
            clock=START,
            hold=hold,
        )
        return msgspec.json.encode(body)

    async def ask(self, **poll: Any) -> httpx.Response:
        """Poll and give the answer as it came."""
        return await self.client.post("/v1/agent/poll", content=self.build_poll(**poll))

    async def poll(self, **poll: Any) -> PollReply:
        answer = await self.ask(**poll)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=PollReply)

    async def post(self, *envelopes: object) -> httpx.Response:
        """Send a batch and give the answer as it came. Takes envelopes, or JSON as bytes."""
        return await self.client.post("/v1/agent/envelopes", content=build_batch(*envelopes))

    async def send(self, *envelopes: object) -> list[Receipt]:
        answer = await self.post(*envelopes)
        assert answer.status_code == 200, answer.text
        return list(msgspec.json.decode(answer.content, type=BatchReply).receipts)

    async def say_hello(self, *jobs: HeldJob, boot_id: UUID | None = None) -> Receipt:
        hello = Hello(boot_id=boot_id or self.boot_id, facts=FACTS, jobs=jobs)
        return (await self.send(hello))[0]

    async def accept(self, job_id: UUID) -> Receipt:
        return (await self.send(CommandAck(job_id=job_id, is_accepted=True)))[0]

    def unseal(self, sealed: CommandRun | QueryRun | RunTemplate) -> Credentials:
        assert sealed.credentials is not None
        opened = nacl.public.SealedBox(self.key).decrypt(sealed.credentials)
        return msgspec.json.decode(opened, type=Credentials)


def build_batch(*envelopes: object) -> bytes:
    raws = (
        envelope if isinstance(envelope, bytes) else msgspec.json.encode(envelope)
        for envelope in envelopes
    )
    return msgspec.json.encode(Batch(envelopes=tuple(map(msgspec.Raw, raws))))


def read_commands(reply: PollReply) -> list[CommandRun | CommandCancel]:
    return [
        msgspec.json.decode(bytes(raw), type=CommandRun | CommandCancel) for raw in reply.envelopes
    ]


def read_set(reply: PollReply) -> ScheduleSet:
    """Give the one set of schedules of an answer; it comes first."""
    return msgspec.json.decode(bytes(reply.envelopes[0]), type=ScheduleSet)


async def add_agent(services: Services, target: Litestar | str, *, name: str = "web1") -> FakeAgent:
    """Enrol a host directly in the database; its agent speaks to an app, or to a base URL."""
    token = build_token(TokenKind.AGENT)
    headers = {"Authorization": f"Bearer {token}", PROTOCOL_HEADER: "1"}
    if isinstance(target, str):
        client = httpx.AsyncClient(base_url=target, headers=headers, timeout=60, trust_env=False)
    else:
        transport = httpx.ASGITransport(app=target)  # type: ignore[arg-type]  # Litestar's own types
        client = httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers)
    agent = FakeAgent(host_id=uuid.uuid4(), name=name, client=client)
    new = hosts.NewHost(
        name=name,
        labels={},
        facts=FACTS,
        public_key=bytes(agent.key.public_key),
        token_hash=hash_token(token),
    )
    async with services.database.writing() as connection:
        agent.host_id = await hosts.insert(connection, new, now=services.clock.now())
    return agent


async def add_repository(operator: httpx.AsyncClient, *, name: str = "nas") -> UUID:
    body = {
        "name": name,
        "location": f"/srv/restic/{name}",
        "password": "a password of its own",
        "environment": {"RESTIC_COMPRESSION": "max"},
    }
    answer = await operator.post("/v1/repositories", json=body)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["id"])


async def add_source(operator: httpx.AsyncClient, *, name: str = "etc", **changes: Any) -> UUID:
    body = {"name": name, "paths": ["/etc"], "tags": ["nightly"], **changes}
    answer = await operator.post("/v1/sources", json=body)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["id"])


async def add_schedule(
    operator: httpx.AsyncClient, *, host: str = "web1", **request: Any
) -> dict[str, Any]:
    """Create a schedule: the nightly backup of etc to nas, unless the request says otherwise."""
    body: dict[str, Any] = {
        "kind": "backup",
        "cron": "30 1 * * *",
        "repository": "nas",
        "source": "etc",
        **request,
    }
    if body["kind"] in {"prune", "check", "stats"}:
        del body["source"]
    answer = await operator.post(f"/v1/hosts/{host}/schedules", json=body)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def add_job(operator: httpx.AsyncClient, **request: Any) -> UUID:
    """Create a job on web1 and nas, a backup of /etc unless the request says otherwise."""
    body: dict[str, Any] = {"kind": "backup", "host": "web1", "repository": "nas", **request}
    if body["kind"] == "backup" and "source" not in body:
        body.setdefault("paths", ["/etc"])
    answer = await operator.post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["id"])


async def add_pair(
    services: Services, app: Litestar, operator: httpx.AsyncClient
) -> tuple[FakeAgent, FakeAgent]:
    """Enrol two hosts, web1 and db1, that both use the repositories nas and cloud."""
    await add_repository(operator)
    await add_repository(operator, name="cloud")
    await add_source(operator, retention={"keep_daily": 7})
    agents = (
        await add_agent(services, app, name="web1"),
        await add_agent(services, app, name="db1"),
    )
    for agent in agents:
        await agent.say_hello()
    return agents
