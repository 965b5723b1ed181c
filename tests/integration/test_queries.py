"""Looking into a snapshot: the operator's request waits, the host's poll brings the question."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.commands import CommandAck, QueryAnswer, QueryFailure, QueryRun
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobStarted
from backhaul.wire.snapshots import FileEntry, FoundFiles, ReportedSnapshot, SnapshotsReport
from backhaul_api.app import create_app
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import audit_log, queries
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.queries import store
from backhaul_api.services import Services
from tests.conftest import build_client
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository

A = "a" * 64
B = "ab" * 32
FOREIGN = "c" * 64
HOSTS = FileEntry(path="/etc/hosts", name="hosts", type="file", size=120)
FILES = f"/v1/repositories/nas/snapshots/{A}/files"
FIND = f"/v1/repositories/nas/snapshots/{A}/find"


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1` with two snapshots in `nas`, in which a third is that nobody here made."""
    await add_repository(operator)
    agent = await add_agent(services, app)
    await agent.say_hello()
    await agent.poll()
    await report(operator, agent, "backup", A, B)
    await report(operator, agent, "snapshots", FOREIGN)
    return agent


async def report(operator: httpx.AsyncClient, agent: FakeAgent, kind: str, *ids: str) -> None:
    job_id = await add_job(operator, kind=kind)
    repository_id = (await operator.get(f"/v1/jobs/{job_id}")).json()["repository_id"]
    found = tuple(
        ReportedSnapshot(id=id_, time=START, hostname="web1", paths=("/etc",)) for id_ in ids
    )
    receipts = await agent.send(
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(job_id=job_id, attempt=1, at=START),
        SnapshotsReport(repository_id=UUID(repository_id), job_id=job_id, snapshots=found),
    )
    assert [receipt.status for receipt in receipts] == ["ok"] * 3


def read_queries(envelopes: Sequence[msgspec.Raw]) -> list[QueryRun]:
    types = [msgspec.json.decode(raw, type=dict[str, Any])["type"] for raw in envelopes]
    return [
        msgspec.json.decode(bytes(raw), type=QueryRun)
        for raw, type_ in zip(envelopes, types, strict=True)
        if type_ == "query.run"
    ]


async def take(agent: FakeAgent) -> QueryRun:
    [query] = read_queries((await agent.poll(hold=10)).envelopes)
    return query


def build_answer(query: QueryRun, *entries: FileEntry, **changes: Any) -> QueryAnswer:
    found = msgspec.Raw(msgspec.json.encode(FoundFiles(entries=entries)))
    return msgspec.structs.replace(QueryAnswer(query_id=query.query_id, answer=found), **changes)


async def ask(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    *entries: FileEntry,
    path: str = FILES,
    params: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[QueryRun, httpx.Response]:
    """Ask, and let the host give an answer."""
    waiting = asyncio.create_task(operator.get(path, params=params or {}))
    query = await take(agent)
    [receipt] = await agent.send(build_answer(query, *entries, **changes))
    assert receipt.status == "ok"
    return query, await waiting


async def count(services: Services, table: sa.Table = queries) -> int:
    async with services.database.reading() as connection:
        return await connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


async def test_listing_is_answered_by_the_host_that_made_the_snapshot(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    audited = await count(services, audit_log)
    query, answer = await ask(operator, agent, HOSTS, params={"path": "//etc/", "wait": 20})

    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "snapshot_id": A,
        "host": "web1",
        "entries": [msgspec.to_builtins(HOSTS)],
        "next_cursor": None,
    }
    assert msgspec.json.decode(query.arguments) == {
        "kind": "snapshot.ls",
        "snapshot": A,
        "path": "/etc",
        "is_recursive": False,
        "skip": 0,
        "limit": 1000,
    }
    assert query.ttl == 20
    credentials = agent.unseal(query)
    assert (credentials.repository_id, credentials.location) == (
        query.repository_id,
        "/srv/restic/nas",
    )
    assert await count(services) == 0
    assert await count(services, audit_log) == audited


async def test_search_goes_the_same_way(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    query, answer = await ask(
        operator, agent, HOSTS, path=FIND, params={"pattern": "ho*", "limit": 5}
    )

    assert answer.json()["entries"][0]["path"] == "/etc/hosts"
    assert msgspec.json.decode(query.arguments) == {
        "kind": "snapshot.find",
        "snapshot": A,
        "pattern": "ho*",
        "skip": 0,
        "limit": 5,
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_cursor_asks_for_what_follows(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    _, first = await ask(operator, agent, HOSTS, HOSTS, is_cut=True)
    cursor = first.json()["next_cursor"]

    query, second = await ask(operator, agent, HOSTS, params={"cursor": cursor, "recursive": True})

    asked = msgspec.json.decode(query.arguments)
    assert (asked["skip"], asked["is_recursive"]) == (2, True)
    assert second.json()["next_cursor"] is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_another_host_can_be_asked(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    other = await add_agent(services, app, name="web2")
    await other.say_hello()
    await other.poll()
    path = FILES.replace(A, FOREIGN[:8])

    unnamed = await operator.get(path)
    _, answer = await ask(operator, other, HOSTS, path=path, params={"host": "web2"})

    assert [error["field"] for error in unnamed.json()["errors"]] == ["host"]
    assert (answer.json()["host"], answer.json()["snapshot_id"]) == ("web2", FOREIGN)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("failure", "status", "type_"),
    [
        (QueryFailure.REFUSED, 409, ProblemType.HOST_REFUSED),
        (QueryFailure.MISSING, 404, ProblemType.NOT_FOUND),
        (QueryFailure.FAILED, 409, ProblemType.HOST_FAILED),
        ("of tomorrow", 409, ProblemType.HOST_FAILED),
    ],
)
async def test_no_of_a_host_is_a_problem_with_its_words(
    operator: httpx.AsyncClient, agent: FakeAgent, failure: str, status: int, type_: str
) -> None:
    _, answer = await ask(operator, agent, error="because", failure=failure)

    assert (answer.status_code, answer.json()["type"]) == (status, type_)
    assert answer.json()["detail"] == "Host 'web1' says: because"


async def test_host_that_is_away_is_not_waited_for(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    clock.advance(minutes=10)

    answer = await operator.get(FILES)

    assert (answer.status_code, answer.json()["type"]) == (504, ProblemType.HOST_SILENT)
    assert "'web1' was last seen at 2026-11-23 12:00 UTC" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "60"
    assert await count(services) == 0


async def test_host_that_does_not_answer_in_time_is_given_up(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    waiting = asyncio.create_task(operator.get(FILES, params={"wait": 0.3}))
    query = await take(agent)
    answer = await waiting

    [late] = await agent.send(build_answer(query, HOSTS))

    assert answer.status_code == 504
    assert "did not answer in time" in answer.json()["detail"]
    assert late.problem is not None
    assert late.problem.type == ProblemType.NOT_FOUND
    assert await count(services) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_query_is_sent_once_and_again_only_when_it_may_be_lost(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    waiting = asyncio.create_task(operator.get(FILES))
    query = await take(agent)

    soon = await agent.poll()
    clock.advance(store.SENT_AGAIN_AFTER.total_seconds() + 1)
    later = await agent.poll()
    receipts = await agent.send(build_answer(query, HOSTS), build_answer(query))
    answer = await waiting

    assert read_queries(soon.envelopes) == []
    assert [again.query_id for again in read_queries(later.envelopes)] == [query.query_id]
    assert [receipt.status for receipt in receipts] == ["ok", "duplicate"]
    assert len(answer.json()["entries"]) == 1


async def test_answer_is_taken_only_from_the_host_that_was_asked(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    stranger = await add_agent(services, app, name="web2")
    waiting = asyncio.create_task(operator.get(FILES))
    query = await take(agent)

    [foreign] = await stranger.send(build_answer(query))
    [odd] = await agent.send(build_answer(query, answer=msgspec.Raw(b'{"entries": [1]}')))
    [good] = await agent.send(build_answer(query, HOSTS))

    assert foreign.problem is not None
    assert foreign.problem.type == ProblemType.NOT_FOUND
    assert odd.problem is not None
    assert odd.problem.type == ProblemType.INVALID_REQUEST
    assert good.status == "ok"
    assert (await waiting).status_code == 200


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_poll_and_request_may_be_on_different_instances(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    database = Database(services.database.url.render_as_string(hide_password=False))
    other = create_app(dataclasses.replace(services, database=database, wakeups=Wakeups()))
    async with build_client(other) as client:
        client.headers["Authorization"] = operator.headers["Authorization"]
        waiting = asyncio.create_task(client.get(FILES))
        while not await count(services):
            await asyncio.sleep(0.01)

        query = await take(agent)
        await agent.send(build_answer(query, HOSTS))
        async with asyncio.timeout(2):
            answer = await waiting

    await database.close()
    assert answer.status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_too_many_questions_to_one_host_are_refused_and_leftovers_are_purged(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    async with services.database.writing() as connection:
        repository_id = (await operator.get("/v1/repositories/nas")).json()["id"]
        left_behind = {
            "host_id": agent.host_id,
            "repository_id": UUID(repository_id),
            "kind": "snapshot.ls",
            "arguments": {},
            "created_at": START,
            "expires_at": clock.now(),
        }
        for number in range(store.MAX_WAITING):
            row = {"id": UUID(int=number), **left_behind}
            await connection.execute(sa.insert(queries).values(row))

    busy = await operator.get(FILES)
    clock.advance(1)
    forgotten = await agent.poll()
    _, answer = await ask(operator, agent, HOSTS)

    assert (busy.status_code, busy.json()["type"]) == (429, ProblemType.RATE_LIMITED)
    assert forgotten.envelopes == ()
    assert answer.status_code == 200
    assert await count(services) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        (FILES, {"path": "etc"}, "path"),
        (FILES, {"path": "/" + "x" * 4096}, "path"),
        (FILES, {"cursor": "WzFd!"}, "cursor"),
        (FILES, {"cursor": "Wy0xXQ"}, "cursor"),
        (FILES, {"wait": "0"}, "wait"),
        (FIND, {"pattern": ""}, "pattern"),
        (FILES.replace(A, "latest"), {}, "snapshot"),
        (FILES.replace(A, "aaa"), {}, "snapshot"),
        (FILES.replace(A, "A" * 64), {}, "snapshot"),
    ],
)
async def test_bad_request_names_the_field(
    operator: httpx.AsyncClient, agent: FakeAgent, path: str, params: dict[str, str], field: str
) -> None:
    answer = await operator.get(path, params=params)

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_does_not_exist_is_not_found(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    nowhere = await operator.get(FILES.replace("nas", "cloud"))
    unknown = await operator.get(FILES.replace(A, "f" * 64))
    nobody = await operator.get(FILES, params={"host": "nobody"})

    assert [answer.status_code for answer in (nowhere, unknown, nobody)] == [404, 404, 404]


async def test_short_id_must_stand_for_one_snapshot(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await report(operator, agent, "backup", "aaaab" + "0" * 59)

    several = await operator.get(FILES.replace(A, "aaaa"))
    _, one = await ask(operator, agent, path=FILES.replace(A, "aaaaa"))

    assert several.status_code == 422
    assert one.json()["snapshot_id"] == A
