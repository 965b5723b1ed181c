"""Jobs that operators ask for over real sockets: made on the connection, or by the ordinary route,
with the same answer; and never twice."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.access_log import Api
from backhaul_api.errors import NotReadyError
from backhaul_api.jobs import store
from backhaul_api.logs import JsonFormatter
from backhaul_api.services import Services
from tests.fakes.fleet import add_agent, add_repository
from tests.fakes.served import send_request, serve

JOB = {"kind": "backup", "host": "web1", "repository": "nas", "paths": ["/etc"]}
BODIES = {"/v1/jobs": JOB, "/v1/jobs/batch": {"jobs": [JOB, {**JOB, "paths": ["/home"]}]}}

ORDINARY = {"Content-Type": "application/json; charset=utf-8"}
"""Said like this, a request goes the ordinary way."""

WAYS = pytest.mark.parametrize("way", [{}, ORDINARY], ids=["short", "ordinary"])


@pytest.fixture
async def client(
    services: Services, app: Litestar, operator: httpx.AsyncClient
) -> AsyncIterator[httpx.AsyncClient]:
    """Give the operator's client of a real server."""
    await add_agent(services, app)
    await add_repository(operator)
    headers = {"Authorization": operator.headers["Authorization"]}
    async with (
        serve(app) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client,
    ):
        yield client


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tell the paths of requests that went the ordinary way."""
    asked: list[str] = []
    answer = Api._answer

    async def note(self: Api, scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await answer(self, scope, receive, send)

    monkeypatch.setattr(Api, "_answer", note)
    return asked


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Tell what is written into the log, one dictionary a line."""
    told: list[dict[str, Any]] = []

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            told.extend(json.loads(line) for line in text.splitlines())
            return len(text)

    handler = logging.StreamHandler(Lines())
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("backhaul_api")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield told
    log.removeHandler(handler)
    log.setLevel(level)


async def count_jobs(operator: httpx.AsyncClient) -> int:
    return len((await operator.get("/v1/jobs")).json()["items"])


@pytest.mark.parametrize("path", BODIES)
async def test_both_ways_give_the_same_answer(
    client: httpx.AsyncClient, ordinary: list[str], path: str
) -> None:
    short = await client.post(path, json=BODIES[path])
    assert ordinary == []
    long = await client.post(path, json=BODIES[path], headers=ORDINARY)
    assert ordinary == [path]

    assert (short.status_code, long.status_code) == (201, 201)
    own = {"x-request-id", "date"}
    headers = [
        {name: value for name, value in answer.headers.items() if name not in own}
        for answer in (short, long)
    ]
    assert headers[0] == headers[1]
    assert own <= short.headers.keys()
    ids = {"id", "ids", "created_at"}
    bodies = [
        {name: value for name, value in answer.json().items() if name not in ids}
        for answer in (short, long)
    ]
    assert bodies[0] == bodies[1]
    assert list(short.json()) == list(long.json())


@WAYS
async def test_request_has_one_line_in_the_log_under_its_id(
    client: httpx.AsyncClient, lines: list[dict[str, Any]], way: dict[str, str]
) -> None:
    answers = [
        await client.post("/v1/jobs", json=body, headers=way)
        for body in (JOB, {**JOB, "host": "web2"}, {**JOB, "paths": 1})
    ]

    done = [line for line in lines if line["event"] == "request.done"]
    assert [(line["status"], line["actor"]) for line in done] == [
        (201, "ada"),
        (422, "ada"),
        (422, "ada"),
    ]
    for line, answer in zip(done, answers, strict=True):
        assert (line["method"], line["path"]) == ("POST", "/v1/jobs")
        assert line["duration_ms"] >= 0
        assert line["request_id"] == answer.headers["X-Request-Id"]
    assert answers[1].json()["instance"] == answers[1].headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Authorization": ""}, JOB, 401),
        ({"Authorization": "Bearer bht_nonsense"}, JOB, 401),
        ({"Idempotency-Key": "two words"}, JOB, 422),
        ({"Idempotency-Key": "x" * 256}, JOB, 422),
        ({"Content-Type": "text/plain"}, JOB, 415),
        ({}, [], 422),
        ({}, {**JOB, "host": "web2"}, 422),
        ({}, {**JOB, "paths": ["etc"]}, 422),
        ({}, {**JOB, "kind": "forget", "paths": None}, 422),
    ],
    ids=["token", "nonsense", "key", "long", "type", "list", "host", "path", "kind"],
)
async def test_what_is_wrong_is_told_as_ever(
    client: httpx.AsyncClient,
    operator: httpx.AsyncClient,
    headers: dict[str, str],
    body: object,
    status: int,
) -> None:
    short = await client.post("/v1/jobs", json=body, headers=headers)
    long = await operator.post("/v1/jobs", json=body, headers=ORDINARY | headers)
    next_one = await client.post("/v1/jobs", json=JOB)

    assert (short.status_code, next_one.status_code) == (status, 201)
    told = [{**answer.json(), "instance": None} for answer in (short, long)]
    assert told[0] == told[1]
    assert short.headers["Content-Type"] == "application/problem+json"
    assert await count_jobs(operator) == 1


async def test_request_that_is_sent_again_the_other_way_creates_nothing(
    client: httpx.AsyncClient, operator: httpx.AsyncClient, ordinary: list[str]
) -> None:
    key = {"Idempotency-Key": "8a1c6c0e"}

    answers = [
        await client.post("/v1/jobs", json=JOB, headers=key | way) for way in ({}, ORDINARY, {})
    ]
    other = await client.post("/v1/jobs", json={**JOB, "paths": ["/home"]}, headers=key)

    assert ordinary == ["/v1/jobs"] * 2
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert other.status_code == 422
    assert await count_jobs(operator) == 1


@pytest.mark.parametrize("error", [NotReadyError("It is away."), RuntimeError("a fault")])
@WAYS
async def test_job_whose_commit_seems_to_fail_is_not_made_again(
    client: httpx.AsyncClient,
    operator: httpx.AsyncClient,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    way: dict[str, str],
) -> None:
    """The connection is lost after the COMMIT was sent: it may have come through."""
    writing = services.database.writing

    @asynccontextmanager
    async def commit_and_fail() -> AsyncIterator[AsyncConnection]:
        async with writing() as connection:
            yield connection
        raise error

    monkeypatch.setattr(services.database, "writing", commit_and_fail)
    answer = await client.post("/v1/jobs", json=JOB, headers=way)
    monkeypatch.undo()

    assert answer.status_code == (503 if isinstance(error, NotReadyError) else 500)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert await count_jobs(operator) == 1
    assert (await client.post("/v1/jobs", json=JOB)).status_code == 201


@pytest.mark.parametrize(
    ("error", "status", "events", "jobs"),
    [
        (None, 201, ["request.done"], 1),
        (RuntimeError("a fault"), 0, ["request.failed", "request.done"], 0),
        (NotReadyError("It is away."), 0, ["request.done"], 0),
    ],
    ids=["made", "fault", "refused"],
)
async def test_client_that_is_gone_leaves_one_job_or_none_and_a_line_in_the_log(
    client: httpx.AsyncClient,
    operator: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[dict[str, Any]],
    *,
    error: Exception | None,
    status: int,
    events: list[str],
    jobs: int,
) -> None:
    asked, may_go_on = asyncio.Event(), asyncio.Event()
    insert = store.insert_for

    async def insert_late(*arguments: Any, **options: Any) -> Any:
        asked.set()
        await may_go_on.wait()
        if error is not None:
            raise error
        return await insert(*arguments, **options)

    monkeypatch.setattr(store, "insert_for", insert_late)
    writer = await send_request(
        client.base_url.port or 0,
        "POST",
        "/v1/jobs",
        headers={"Authorization": client.headers["Authorization"]},
        body=json.dumps(JOB).encode(),
    )
    await asyncio.wait_for(asked.wait(), 5)
    writer.transport.abort()
    await asyncio.sleep(0.05)
    may_go_on.set()
    async with asyncio.timeout(5):
        while not any(line["event"] == "request.done" for line in lines):
            await asyncio.sleep(0.005)

    assert [line["event"] for line in lines] == events
    assert (lines[-1]["status"], lines[-1]["actor"]) == (status, "ada")
    assert await count_jobs(operator) == jobs
