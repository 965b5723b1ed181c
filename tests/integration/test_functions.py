"""The API as a function: opened by its first request, and asked through the gateways of AWS."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import nacl.public
import pytest
import sqlalchemy as sa

import backhaul
from backhaul.errors import NotFoundError
from backhaul.wire.accounts import CreateEnrollmentToken
from backhaul.wire.agents import (
    BatchReply,
    EnrollReply,
    EnrollRequest,
    HeldJob,
    Hello,
    PollReply,
    PollRequest,
)
from backhaul.wire.commands import CommandAck
from backhaul.wire.fleet import CreateRepository
from backhaul.wire.jobs import JobState, Outcome
from backhaul.wire.kinds import BackupRequest
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.administration import create_operator
from backhaul_api.aws_events import Handler
from backhaul_api.db.engine import Database
from backhaul_api.db.revisions import head_revision
from backhaul_api.db.tables import hosts, jobs, needed_revisions
from backhaul_api.hosted import App, build_app
from backhaul_api.settings import Settings
from tests.conftest import ADA_PASSWORD
from tests.fakes.fleet import FACTS, build_batch, read_commands
from tests.fakes.gateways import GATEWAYS, Asked, GatewayTransport, build_scheduled_event

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    """What a function is configured with; its database has the operator ada."""
    asyncio.run(
        create_operator(Settings(data_dir=tmp_path, database_url=database_url), "ada", ADA_PASSWORD)
    )
    return {
        "BACKHAUL_API_DATABASE_URL": database_url,
        "BACKHAUL_API_KEY": KEY,
        "BACKHAUL_API_POLL_HOLD": "0",
        "BACKHAUL_API_POLL_PAUSE": "60",
        "BACKHAUL_API_ANSWER_LIMIT": "29",
    }


@pytest.fixture
def handler(environment: dict[str, str]) -> Iterator[Handler]:
    handler = Handler(environment)
    yield handler
    handler.close()


class Agent:
    """An agent that speaks through a transport, and waits."""

    def __init__(self, transport: httpx.BaseTransport, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Backhaul-Protocol": "1"}
        self._client = httpx.Client(transport=transport, base_url="http://api", headers=headers)
        self.boot_id = uuid4()

    def post(self, path: str, content: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return self._client.post(path, content=content, headers=headers)

    def poll(self, *jobs: HeldJob, hold: float = 25.0) -> PollReply:
        body = PollRequest(
            boot_id=self.boot_id,
            schedule_version=0,
            settings_version=0,
            jobs=jobs,
            clock=datetime.now(UTC),
            hold=hold,
        )
        answer = self.post("/v1/agent/poll", msgspec.json.encode(body))
        assert (answer.status_code, answer.headers["Backhaul-Protocol"]) == (200, "1"), answer.text
        return msgspec.json.decode(answer.content, type=PollReply)

    def send(self, *envelopes: object) -> list[str]:
        answer = self.post("/v1/agent/envelopes", build_batch(*envelopes))
        reply = msgspec.json.decode(answer.content, type=BatchReply)
        return [receipt.status for receipt in reply.receipts]


def sign_in(transport: httpx.BaseTransport) -> backhaul.Client:
    client = backhaul.Client("http://api", transport=transport)
    client.log_in(username="ada", password=ADA_PASSWORD)
    return client


def enrol(client: backhaul.Client, transport: httpx.BaseTransport) -> Agent:
    made = client.create_enrollment_token(CreateEnrollmentToken(host_name="web1"))
    body = EnrollRequest(
        enrollment_token=made.token,
        facts=FACTS,
        public_key=bytes(nacl.public.PrivateKey.generate().public_key),
    )
    with httpx.Client(transport=transport, base_url="http://api") as plain:
        answer = plain.post(
            "/v1/agents/enroll",
            content=msgspec.json.encode(body),
            headers={"Backhaul-Protocol": "1"},
        )
    assert answer.status_code == 201, answer.text
    agent = Agent(transport, msgspec.json.decode(answer.content, type=EnrollReply).agent_token)
    assert agent.send(Hello(boot_id=agent.boot_id, facts=FACTS)) == ["ok"]
    return agent


def create_job(client: backhaul.Client) -> UUID:
    repository = CreateRepository(name="nas", location="/srv/restic", password="of its own")
    client.create_repository(repository)
    return client.create_job(BackupRequest(host="web1", repository="nas", paths=("/etc",))).id


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_job_goes_its_way_through_a_gateway(handler: Handler, gateway: str) -> None:
    transport = GatewayTransport(handler, gateway)
    client = sign_in(transport)
    agent = enrol(client, transport)
    job_id = create_job(client)

    reply = agent.poll()
    transport.is_binary = True
    at = datetime.now(UTC)
    receipts = agent.send(
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(job_id=job_id, attempt=1, at=at),
        JobFinished(
            job_id=job_id, attempt=1, at=at, outcome=Outcome.FAILED, log_lines=0, message="größer"
        ),
    )
    # Two values of one parameter, and a character that is encoded.
    found = list(
        client.list_jobs(states=[JobState.QUEUED, JobState.FAILED], since=at - timedelta(hours=1))
    )

    assert (reply.hold, reply.pause) == (0, 60)
    assert [command.job_id for command in read_commands(reply)] == [job_id]
    assert receipts == ["ok", "ok", "ok"]
    assert [(job.id, job.state, job.message) for job in found] == [
        (job_id, JobState.FAILED, "größer")
    ]
    with pytest.raises(NotFoundError, match="nobody"):
        client.get_host("nobody")
    client.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("source", ["aws.events", "aws.scheduler"])
def test_a_scheduled_event_ticks(
    handler: Handler, environment: dict[str, str], source: str
) -> None:
    transport = GatewayTransport(handler, "http-2.0")
    client = sign_in(transport)
    enrol(client, transport)
    job_id = create_job(client)
    make_overdue(environment)

    done = handler(build_scheduled_event(source), None)
    again = handler(build_scheduled_event(source), None)

    assert (done["expired_jobs"], done["has_more"]) == (1, False)
    assert again["expired_jobs"] == 0
    assert client.get_job(job_id).state is JobState.EXPIRED
    client.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_a_client_sends_is_never_taken_for_a_scheduled_event(handler: Handler) -> None:
    asked = Asked(
        method="POST",
        path="/v1/tick",
        headers={"Source": "aws.events", "Detail-Type": "Scheduled Event"},
        body=json.dumps(build_scheduled_event()).encode(),
    )

    for build in GATEWAYS.values():
        answer = handler(build(asked), None)
        assert answer["statusCode"] == 401
        assert json.loads(answer["body"])["type"] == "urn:backhaul:problem:not-authenticated"


def test_a_poll_that_is_not_held_is_written_down_at_once_and_rarely(
    handler: Handler, environment: dict[str, str]
) -> None:
    transport = GatewayTransport(handler, "http-2.0")
    client = sign_in(transport)
    agent = enrol(client, transport)
    long_ago = datetime.now(UTC) - timedelta(minutes=2)
    execute(environment, sa.update(hosts).values(last_seen_at=long_ago))

    agent.poll()
    first = client.get_host("web1").last_seen_at
    agent.poll()
    second = client.get_host("web1").last_seen_at

    assert first is not None
    assert first - long_ago > timedelta(minutes=1)
    assert second == first
    client.close()


def execute(environment: dict[str, str], statement: sa.Executable) -> None:
    """Change the database behind the function's back, as another process would."""

    async def run() -> None:
        database = Database(environment["BACKHAUL_API_DATABASE_URL"])
        async with database.writing() as connection:
            await connection.execute(statement)
        await database.close()

    asyncio.run(run())


def make_overdue(environment: dict[str, str]) -> None:
    now = datetime.now(UTC)
    execute(environment, sa.update(jobs).values(start_deadline_at=now - timedelta(seconds=1)))


# Opening -----------------------------------------------------------------------------------------


async def ask(app: App, path: str = "/health/ready") -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        return await client.get(path)


def say_revision(environment: dict[str, str], revision: str) -> None:
    versions = sa.table("alembic_version", sa.column("version_num"))
    execute(environment, sa.update(versions).values(version_num=revision))


def test_a_database_that_is_behind_is_refused_until_it_is_upgraded(
    environment: dict[str, str],
) -> None:
    async def look() -> None:
        app = build_app(environment)
        refused = await ask(app)
        await asyncio.to_thread(say_revision, environment, head_revision())
        served = await ask(app)
        await app.close()

        assert refused.status_code == 503
        assert "backhaul db upgrade" in refused.json()["detail"]
        assert refused.headers["Retry-After"] == "5"
        assert refused.headers["Backhaul-Protocol"] == "1"
        assert served.status_code == 200

    say_revision(environment, "0001")
    asyncio.run(look())


def test_a_database_that_a_newer_version_has_expanded_is_served(
    environment: dict[str, str],
) -> None:
    async def look() -> None:
        app = build_app(environment)
        answer = await ask(app, "/health/live")
        await app.close()

        assert answer.status_code == 200

    say_revision(environment, "9999")
    asyncio.run(look())


def test_a_database_from_which_a_newer_version_has_taken_something_is_refused(
    environment: dict[str, str],
) -> None:
    async def look() -> None:
        app = build_app(environment)
        answer = await ask(app)
        await app.close()

        assert answer.status_code == 503

    say_revision(environment, "9999")
    execute(environment, sa.insert(needed_revisions).values(revision="9999"))
    asyncio.run(look())


async def say_lifespan(app: App) -> dict[str, Any]:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return dict(sent[0])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"BACKHAUL_API_KEY": None}, "there is no key file"),
        ({"BACKHAUL_API_KEY": base64.b64encode(bytes(31)).decode()}, "each of 32 bytes"),
        ({"BACKHAUL_API_DATABASE_URL": "mysql://u:hunter2@h/d"}, "'mysql' is not known"),
    ],
    ids=["no-key", "bad-key", "bad-url"],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_server_that_starts_the_app_is_told_why_it_cannot_and_callers_are_not(
    tmp_path: Path, database_url: str, changed: dict[str, str | None], reason: str
) -> None:
    environment = {
        "BACKHAUL_API_DATA_DIR": str(tmp_path / "nothing"),
        "BACKHAUL_API_DATABASE_URL": database_url,
        "BACKHAUL_API_KEY": KEY,
        **changed,
    }
    app = build_app({name: value for name, value in environment.items() if value is not None})

    told = await say_lifespan(app)
    answer = await ask(app)

    assert told["type"] == "lifespan.startup.failed"
    assert reason in told["message"]
    assert "hunter2" not in told["message"]
    assert (answer.status_code, answer.json()["detail"]) == (
        503,
        "This instance cannot start; its log says why.",
    )
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_second_process_on_one_sqlite_is_refused(environment: dict[str, str]) -> None:
    async def look() -> None:
        first, second = build_app(environment), build_app(environment)
        served = await ask(first)
        told = await say_lifespan(second)
        await first.close()

        assert served.status_code == 200
        assert "one process at a time" in told["message"]

    asyncio.run(look())


# Waits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_held_poll_finds_what_another_process_made(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backhaul_api.services.RECHECK_S", 0.1)
    one = Handler(environment | {"BACKHAUL_API_POLL_HOLD": "20"})
    client = sign_in(GatewayTransport(one, "http-2.0"))
    agent = enrol(client, GatewayTransport(one, "http-2.0"))
    job_id = create_job(client)
    later = datetime.now(UTC) + timedelta(seconds=1)
    # Due by itself only when the poll is parked: nothing rings for it.
    execute(environment, sa.update(jobs).values(state="succeeded"))

    async def change() -> None:
        await asyncio.sleep((later - datetime.now(UTC)).total_seconds())
        await asyncio.to_thread(execute, environment, sa.update(jobs).values(state="queued"))

    changing = one._loop.create_task(change())
    reply = agent.poll(hold=20)
    one._loop.run_until_complete(changing)

    assert [command.job_id for command in read_commands(reply)] == [job_id]
    assert datetime.now(UTC) - later < timedelta(seconds=10)
    client.close()
    one.close()


@pytest.mark.parametrize(
    ("settings", "hold_s", "wait_s"),
    [
        (Settings(), 25.0, 25.0),
        (Settings(answer_limit=60), 25.0, 25.0),
        (Settings(answer_limit=29), 24.545, 25.0),
        (Settings(answer_limit=10), 7.27, 8.0),
        (Settings(poll_hold=0, answer_limit=10), 0.0, 8.0),
    ],
    ids=["no-limit", "far", "gateway", "short", "not-held"],
)
def test_nothing_waits_past_the_limit_of_an_answer(
    settings: Settings, hold_s: float, wait_s: float
) -> None:
    assert settings.longest_hold == pytest.approx(hold_s, abs=0.01)
    assert settings.cap_wait(25) == wait_s
