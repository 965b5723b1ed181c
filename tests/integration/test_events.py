"""The feed of events: in the order of commits, none missed, and who waits is told at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.jobs import Outcome
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.db.changes import EVENTS
from backhaul_api.db.tables import events
from backhaul_api.db.transactions import CURRENT_TRANSACTION
from backhaul_api.events import store
from backhaul_api.identity import SYSTEM
from backhaul_api.paging import encode_cursor
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_agent

SOURCE = {"name": "etc", "paths": ["/etc"]}


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1`, and a repository `nas`."""
    agent = await add_agent(services, app)
    await agent.say_hello()
    repository = {"name": "nas", "location": "/srv/restic", "password": "hunter2 hunter2"}
    await operator.post("/v1/repositories", json=repository)
    return agent


async def ask(operator: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await operator.get("/v1/events", params=query, timeout=30)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def back_up(operator: httpx.AsyncClient) -> UUID:
    body = {"kind": "backup", "host": "web1", "repository": "nas", "paths": ["/etc"]}
    return UUID((await operator.post("/v1/jobs", json=body)).json()["id"])


async def append(services: Services, kind: str, **changes: Any) -> None:
    values = {"target_kind": "source", "target_id": None, "target": "etc", "at": START} | changes
    async with services.database.writing() as connection:
        await store.append_change(connection, SYSTEM, kind, **values)


async def test_life_of_a_job_is_told_in_order(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await back_up(operator)
    await agent.accept(job_id)
    await agent.send(
        JobStarted(job_id=job_id, attempt=1, at=START),
        JobFinished(
            job_id=job_id,
            attempt=1,
            at=START,
            outcome=Outcome.FAILED,
            log_lines=0,
            message="restic exited with 1",
        ),
    )

    items = (await ask(operator, kind="job"))["items"]

    assert [(one["kind"], one["job_kind"], one["host"]) for one in items] == [
        ("job.queued", "backup", "web1"),
        ("job.accepted", "backup", "web1"),
        ("job.running", "backup", "web1"),
        ("job.failed", "backup", "web1"),
    ]
    assert {one["job_id"] for one in items} == {str(job_id)}
    assert [one["actor"] for one in items] == ["ada", None, None, None]
    assert items[-1]["message"] == "restic exited with 1"


async def test_change_tells_who_and_what(operator: httpx.AsyncClient) -> None:
    made = (await operator.post("/v1/sources", json=SOURCE)).json()

    [event] = (await ask(operator, kind="source.create"))["items"]

    assert (event["actor"], event["target"], event["target_id"]) == ("ada", "etc", made["id"])


async def test_refused_change_tells_nothing(operator: httpx.AsyncClient) -> None:
    await operator.post("/v1/sources", json=SOURCE)
    before = await ask(operator)

    await operator.post("/v1/sources", json=SOURCE)

    assert (await ask(operator))["items"] == before["items"]


async def test_pages_follow_each_other_without_gap_or_repetition(
    operator: httpx.AsyncClient, services: Services
) -> None:
    for number in range(5):
        await append(services, f"source.n{'x' * number}")

    cursor, kinds, lengths = None, [], []
    while True:
        page = await ask(operator, limit=2, kind="source", **({"cursor": cursor} if cursor else {}))
        kinds += [one["kind"] for one in page["items"]]
        lengths.append(len(page["items"]))
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break

    assert kinds == [f"source.n{'x' * number}" for number in range(5)]
    assert lengths == [2, 2, 1]
    assert (await ask(operator, cursor=cursor))["items"] == []


async def test_tail_begins_before_the_newest(
    operator: httpx.AsyncClient, services: Services
) -> None:
    for kind in ("source.a", "host.b", "source.c", "source.d"):
        await append(services, kind)

    last = await ask(operator, tail=2, kind="source")
    none = await ask(operator, tail=0)
    all_ = await ask(operator, tail=1000, kind="source")

    assert [one["kind"] for one in last["items"]] == ["source.c", "source.d"]
    assert none["items"] == []
    assert len(all_["items"]) == 3


async def test_follower_is_told_within_a_second_and_only_what_it_wants(
    operator: httpx.AsyncClient, services: Services, agent: FakeAgent
) -> None:
    cursor = (await ask(operator, tail=0))["next_cursor"]
    waiting = asyncio.create_task(
        ask(operator, cursor=cursor, wait=20, kind="job.queued", host="web1")
    )
    while not services.wakeups.waiting:
        await asyncio.sleep(0)

    await operator.post("/v1/sources", json=SOURCE)
    await asyncio.sleep(0.05)
    was_waiting = not waiting.done()
    began = time.monotonic()
    await back_up(operator)
    page = await waiting

    assert was_waiting
    assert time.monotonic() - began < 1
    assert [one["kind"] for one in page["items"]] == ["job.queued"]
    assert (await ask(operator, cursor=page["next_cursor"]))["items"] == []


async def test_wait_for_nothing_ends_with_a_cursor(operator: httpx.AsyncClient) -> None:
    cursor = (await ask(operator, tail=0))["next_cursor"]

    page = await ask(operator, cursor=cursor, wait=0.05)

    assert (page["items"], page["next_cursor"]) == ([], cursor)


async def test_undone_transaction_rings_no_bell(services: Services) -> None:
    rung: list[UUID] = []
    services.database.on_changes = rung.extend

    with pytest.raises(ZeroDivisionError):  # noqa: PT012 (the block is what is undone)
        async with services.database.writing() as connection:
            await store.append_change(
                connection, SYSTEM, "x.y", at=START, target_kind=None, target_id=None, target=None
            )
            raise ZeroDivisionError
    async with services.database.writing() as connection:
        await connection.execute(sa.select(1))
    without = list(rung)
    await append(services, "source.a")

    assert without == []
    assert rung == [EVENTS]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_event_of_a_slow_transaction_is_not_missed(
    operator: httpx.AsyncClient, services: Services
) -> None:
    """Its id is smaller than that of one that commits before it."""
    cursor = (await ask(operator, tail=0))["next_cursor"]
    kinds: list[str] = []

    async def read() -> None:
        nonlocal cursor
        page = await ask(operator, cursor=cursor)
        kinds.extend(one["kind"] for one in page["items"])
        cursor = page["next_cursor"]

    async with services.database.writing() as slow:
        await slow.scalar(sa.select(CURRENT_TRANSACTION))  # as its first change gives it one
        values = {"target_kind": "source", "target_id": None, "target": "etc", "at": START}
        await store.append_change(slow, SYSTEM, "source.slow", **values)  # type: ignore[arg-type]
        await append(services, "source.quick")
        await read()
        held_back = list(kinds)
    await read()

    assert held_back == []
    assert kinds == ["source.slow", "source.quick"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_database_of_another_server_goes_on_where_it_was(
    operator: httpx.AsyncClient, services: Services
) -> None:
    """A restored PostgreSQL counts its transactions from a smaller number."""
    await append(services, "source.before")
    async with services.database.writing() as connection:
        await connection.execute(sa.update(events).values(transaction_id=2**40))
        newest = await connection.scalar(sa.select(sa.func.max(events.c.id)))
        await store.settle(connection)
    old_cursor = store.Position(2**40, newest or 0)
    await append(services, "source.after")

    async with services.database.reading() as connection:
        start = await store.find_start(connection, old_cursor)
        end = await store.fetch_end(connection)
        found = await store.fetch_between(
            connection, store.Filters(), after=start, end=end, limit=10
        )

    assert [event.kind for _, event in found] == ["source.after"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_follower_of_a_restored_sqlite_goes_on_with_what_happens(
    operator: httpx.AsyncClient, services: Services
) -> None:
    ahead = encode_cursor(0, 10_000)

    page = await ask(operator, cursor=ahead)
    await append(services, "source.after")
    later = await ask(operator, cursor=page["next_cursor"])

    assert page["items"] == []
    assert [one["kind"] for one in later["items"]] == ["source.after"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"kind": "Job"}, "kind"),
        ({"kind": "job.*"}, "kind"),
        ({"kind": "foo"}, "kind"),
        ({"kind": ["job.failed", "job.foo"]}, "kind"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "Wy01LDFd"}, "cursor"),
        ({"tail": -1}, "tail"),
        ({"wait": 26}, "wait"),
        ({"limit": 0}, "limit"),
    ],
)
async def test_question_that_makes_no_sense_is_refused(
    operator: httpx.AsyncClient, query: dict[str, Any], field: str
) -> None:
    answer = await operator.get("/v1/events", params=query)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_events_of_a_host_that_is_not_there_are_404(operator: httpx.AsyncClient) -> None:
    assert (await operator.get("/v1/events", params={"host": "nobody"})).status_code == 404


async def test_draining_server_sends_followers_away_with_a_cursor(
    operator: httpx.AsyncClient, services: Services
) -> None:
    cursor = (await ask(operator, tail=0))["next_cursor"]
    waiting = asyncio.create_task(ask(operator, cursor=cursor, wait=20))
    while not services.wakeups.waiting:
        await asyncio.sleep(0)

    services.wakeups.drain()

    assert (await waiting)["next_cursor"] == cursor
