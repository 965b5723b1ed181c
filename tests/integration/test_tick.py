"""POST /v1/tick: what time has made necessary, done by whoever is allowed to ask."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.jobs import JobState
from backhaul.wire.ticks import Tick
from backhaul.wire.tokens import TokenKind, build_token
from backhaul_api.app import create_app
from backhaul_api.db.tables import (
    enrollment_tokens,
    events,
    hosts,
    idempotency_keys,
    jobs,
    queries,
    repositories,
    sessions,
    setup_tokens,
)
from backhaul_api.jobs import store
from backhaul_api.services import Services
from backhaul_api.tick import old_rows, timer
from backhaul_api.tick.work import tick
from tests.conftest import build_client
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job

TICK_TOKEN = "a token for the timer, long enough"


@pytest.fixture
async def timer_client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """A timer that nobody has told the token, of a server that has one."""
    settings = msgspec.structs.replace(services.settings, tick_token=TICK_TOKEN)
    app = create_app(dataclasses.replace(services, settings=settings))
    async with build_client(app) as client:
        yield client


async def ask(client: httpx.AsyncClient, token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await client.post("/v1/tick", headers=headers)


async def count(services: Services, table: sa.Table) -> int:
    async with services.database.reading() as connection:
        return await connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


async def make_overdue(services: Services, *job_ids: Any) -> None:
    past = services.clock.now() - timedelta(seconds=1)
    async with services.database.writing() as connection:
        await connection.execute(
            sa.update(jobs).where(jobs.c.id.in_(job_ids)).values(start_deadline_at=past)
        )


async def test_a_tick_ends_overdue_jobs_and_deletes_what_has_expired(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    taken, waiting = await add_job(operator), await add_job(operator)
    await agent.accept(taken)
    await operator.post("/v1/enrollment-tokens", json={}, headers={"Idempotency-Key": "first"})
    await add_query(services)
    token = (await operator.post("/v1/api-tokens", json={"name": "cron"})).json()["token"]
    clock.advance(days=31)
    await make_overdue(services, waiting)

    answer = await ask(operator, token)
    again = await ask(operator, token)

    done = msgspec.json.decode(answer.content, type=Tick)
    assert answer.status_code == 200
    assert (done.expired_jobs, done.lost_jobs, done.has_more) == (1, 1, False)
    assert (done.deleted_sessions, done.deleted_answers, done.deleted_queries) == (1, 1, 1)
    assert done.deleted_tokens == 2
    # Those of the operator's own changes; what the tick did to the jobs is news.
    assert done.deleted_events > 2
    assert await count(services, events) == 2
    for table in (sessions, enrollment_tokens, setup_tokens, idempotency_keys, queries):
        assert await count(services, table) == 0, table.name
    assert msgspec.json.decode(again.content, type=Tick) == Tick()
    states = {
        job["id"]: job["state"]
        for job in (await operator.get("/v1/jobs", headers=bearer(token))).json()["items"]
    }
    assert states == {str(taken): JobState.LOST, str(waiting): JobState.EXPIRED}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def add_query(services: Services) -> None:
    now = services.clock.now()
    async with services.database.writing() as connection:
        values: dict[str, Any] = {
            "id": uuid4(),
            "host_id": await connection.scalar(sa.select(hosts.c.id)),
            "repository_id": await connection.scalar(sa.select(repositories.c.id)),
            "kind": "ls",
            "arguments": {},
            "created_at": now,
            "expires_at": now + timedelta(seconds=25),
        }
        await connection.execute(sa.insert(queries).values(values))


async def test_one_tick_does_a_bounded_part_and_says_that_more_is_left(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "MAX_CLOSED_AT_ONCE", 2)
    monkeypatch.setattr(old_rows, "MAX_AT_ONCE", 2)
    made = [await add_job(operator) for _ in range(3)]
    await make_overdue(services, *made)
    now = services.clock.now()
    async with services.database.writing() as connection:
        for minutes in range(3):
            at = now - timedelta(days=31, minutes=minutes)
            await connection.execute(sa.insert(events).values(at=at, kind=f"old.{minutes}"))

    done = [await tick(services) for _ in range(3)]

    assert [one.expired_jobs for one in done] == [2, 1, 0]
    assert [one.deleted_events for one in done] == [2, 1, 0]
    assert [one.has_more for one in done] == [True, False, False]


async def test_several_ticks_at_once_do_everything_once(
    operator: httpx.AsyncClient, app: Litestar, agent: FakeAgent, services: Services
) -> None:
    for number in range(5):
        await add_agent(services, app, name=f"host{number}")
    made = [await add_job(operator, host=f"host{number}") for number in range(5)]
    await make_overdue(services, *made)
    before = await count(services, events)

    done = await asyncio.gather(*(tick(services) for _ in range(6)))

    assert sum(one.expired_jobs for one in done) == 5
    assert await count(services, events) == before + 5


async def test_a_timer_needs_the_tick_token_and_can_do_nothing_else_with_it(
    timer_client: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    assert (await ask(timer_client, TICK_TOKEN)).status_code == 200
    assert (await ask(timer_client, TICK_TOKEN[:-1])).status_code == 401
    assert (await ask(timer_client)).status_code == 401
    assert (await timer_client.get("/v1/jobs", headers=bearer(TICK_TOKEN))).status_code == 401
    # Of a server without one.
    assert (await ask(api, TICK_TOKEN)).status_code == 401
    assert (await ask(api, "None")).status_code == 401


async def test_an_agent_may_not_tick(api: httpx.AsyncClient, agent: FakeAgent) -> None:
    own = agent.client.headers["Authorization"].removeprefix("Bearer ")

    assert (await ask(api, own)).status_code == 401
    assert (await ask(api, build_token(TokenKind.API))).status_code == 401


@pytest.mark.parametrize("works_on", [True, False], ids=["serve", "function"])
async def test_only_a_process_that_lives_on_ticks_by_itself(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    works_on: bool,
) -> None:
    job_id = await add_job(operator)
    await make_overdue(services, job_id)
    seen = asyncio.Event()

    async def tick_and_tell(services: Services) -> Tick:
        done = await tick(services)
        seen.set()
        return done

    monkeypatch.setattr(timer, "EVERY_S", 0.0)
    monkeypatch.setattr(timer, "tick", tick_and_tell)
    settings = msgspec.structs.replace(services.settings, background=works_on)
    app = create_app(dataclasses.replace(services, settings=settings))

    async with app.lifespan():
        if works_on:
            await asyncio.wait_for(seen.wait(), 20)
            # On PostgreSQL, once it has seen that it hears of what others change.
            async with asyncio.timeout(20):
                while not services.wakeups.memory.is_trusted:
                    await asyncio.sleep(0.01)
        is_trusted = services.wakeups.memory.is_trusted
        async with services.database.reading() as connection:
            state = (await store.fetch(connection, job_id)).state

    assert state is (JobState.EXPIRED if works_on else JobState.QUEUED)
    assert is_trusted is works_on
