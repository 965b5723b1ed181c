"""The poll of a quiet host, over a real socket: no query while nothing changes, no news late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import PollReply
from backhaul.wire.commands import CommandRun
from backhaul.wire.snapshots import ListFiles
from backhaul_api.db.changes import identity_topic, touch
from backhaul_api.db.tables import hosts, repositories
from backhaul_api.polling import heartbeats
from backhaul_api.polling import poll as poll_module
from backhaul_api.queries.store import NewQuery
from backhaul_api.queries.store import insert as insert_query
from backhaul_api.services import Services
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository, read_commands
from tests.fakes.served import send_request, serve
from tests.fakes.statements import watch_statements

SHORT_S = 0.2


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host that has polled once and found nothing, on a server that may remember that."""
    await add_repository(operator)
    agent = await add_agent(services, app)
    await agent.say_hello()
    services.wakeups.memory.is_trusted = True
    await agent.poll()
    return agent


@asynccontextmanager
async def connected(app: Litestar, agent: FakeAgent) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve(app) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=agent.client.headers
        ) as client,
    ):
        yield client


async def poll(client: httpx.AsyncClient, agent: FakeAgent, **fields: object) -> httpx.Response:
    body = agent.build_poll(**{"hold": SHORT_S, **fields})  # type: ignore[arg-type]
    return await client.post("/v1/agent/poll", content=body)


async def wait_until_parked(services: Services, count: int = 1) -> None:
    while services.wakeups.waiting != count:
        await asyncio.sleep(0.005)


async def test_poll_that_finds_nothing_new_asks_the_database_nothing(
    app: Litestar, agent: FakeAgent, services: Services
) -> None:
    with watch_statements(services.database) as asked:
        async with connected(app, agent) as client:
            answers = [await poll(client, agent) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert asked == []
    reply = msgspec.json.decode(answers[0].content, type=PollReply)
    assert (reply.envelopes, reply.pause) == ((), 0.0)
    assert answers[0].headers["Backhaul-Protocol"] == "1"
    assert answers[0].headers["Cache-Control"] == "no-store"
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 3


async def test_job_reaches_a_quiet_host_at_once(
    app: Litestar, agent: FakeAgent, operator: httpx.AsyncClient, services: Services
) -> None:
    async with connected(app, agent) as client:
        parked = asyncio.create_task(poll(client, agent, hold=20.0))
        await wait_until_parked(services)
        job_id = await add_job(operator)
        answer = await asyncio.wait_for(parked, 5)
        again = await poll(client, agent)

    for one in (answer, again):
        [command] = read_commands(msgspec.json.decode(one.content, type=PollReply))
        assert isinstance(command, CommandRun)
        assert command.job_id == job_id


async def test_host_whose_query_may_have_got_lost_on_the_way_is_not_quiet(
    app: Litestar, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    """Nobody rings for an answer that did not arrive; the next poll brings the query again."""
    async with services.database.writing() as connection:
        repository_id = await connection.scalar(sa.select(repositories.c.id))
        assert repository_id is not None
        new = NewQuery(
            host_id=agent.host_id,
            repository_id=repository_id,
            arguments=ListFiles(snapshot="a" * 64, path="/", skip=0, limit=10),
        )
        expires_at = clock.now() + timedelta(seconds=25)
        await insert_query(connection, new, now=clock.now(), expires_at=expires_at)
        touch(connection, agent.host_id)
    async with connected(app, agent) as client:
        lost = await poll(client, agent)
        nothing = await poll(client, agent)
        clock.advance(3)
        again = await poll(client, agent)

    counts = [
        len(msgspec.json.decode(one.content, type=PollReply).envelopes)
        for one in (lost, nothing, again)
    ]
    assert counts == [1, 0, 1]


async def test_poll_in_a_crowd_is_sent_away_before_the_database_is_asked(
    app: Litestar, agent: FakeAgent, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_module, "MAX_CROWD", 0)
    async with connected(app, agent) as client:
        with watch_statements(services.database) as asked:
            quiet = await poll(client, agent)
            services.wakeups.memory.forget_all()
            crowded = await poll(client, agent, hold=20.0)
        monkeypatch.setattr(poll_module, "MAX_CROWD", 1)
        alone = await poll(client, agent)

    reply = msgspec.json.decode(crowded.content, type=PollReply)
    assert (crowded.status_code, reply.envelopes, asked) == (200, (), [])
    assert 2.0 <= reply.pause <= 10.0
    for one in (quiet, alone):
        assert msgspec.json.decode(one.content, type=PollReply).pause == 0.0


async def test_change_between_two_polls_is_seen_by_the_second(
    app: Litestar, agent: FakeAgent, operator: httpx.AsyncClient
) -> None:
    async with connected(app, agent) as client:
        await poll(client, agent)
        await add_job(operator)
        answer = await poll(client, agent)

    assert len(msgspec.json.decode(answer.content, type=PollReply).envelopes) == 1


async def test_host_that_is_removed_while_it_is_quiet_is_told(
    app: Litestar, agent: FakeAgent, operator: httpx.AsyncClient, services: Services
) -> None:
    async with connected(app, agent) as client:
        parked = asyncio.create_task(poll(client, agent, hold=20.0))
        await wait_until_parked(services)
        await operator.delete(f"/v1/hosts/{agent.name}")
        answers = [await asyncio.wait_for(parked, 5), await poll(client, agent)]

    assert [answer.status_code for answer in answers] == [410, 410]
    assert answers[0].json()["signature"]


async def test_what_is_wrong_with_a_poll_is_said_as_ever(app: Litestar, agent: FakeAgent) -> None:
    async with connected(app, agent) as client:
        unknown = await client.post(
            "/v1/agent/poll", content=agent.build_poll(), headers={"Authorization": "Bearer no"}
        )
        token = agent.client.headers["Authorization"].partition(" ")[2]
        scheme = await client.post(
            "/v1/agent/poll",
            content=agent.build_poll(),
            headers={"Authorization": f"Digest {token}"},
        )
        bad = await client.post("/v1/agent/poll", content=b'{"boot_id": 1}')
        old = await client.post(
            "/v1/agent/poll", content=agent.build_poll(), headers={"Backhaul-Protocol": "9"}
        )

    assert [unknown.status_code, bad.status_code, old.status_code] == [401, 422, 426]
    assert scheme.status_code == 401
    assert bad.json()["errors"][0]["field"] == "boot_id"


async def test_newer_process_takes_the_host_from_a_quiet_one(
    app: Litestar, agent: FakeAgent, services: Services
) -> None:
    async with connected(app, agent) as client:
        parked = asyncio.create_task(poll(client, agent, hold=20.0))
        await wait_until_parked(services)
        newer = FakeAgent(host_id=agent.host_id, name=agent.name, client=agent.client)
        await newer.say_hello()
        answer = await asyncio.wait_for(parked, 5)

    assert answer.status_code == 409


@pytest.mark.parametrize("stage", ["token", "look", "wake"])
async def test_server_that_stops_waits_for_no_database(
    app: Litestar,
    agent: FakeAgent,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    """Whether the database hangs when the poll's token is looked up, in its first look, or in the
    one after it was woken."""
    asked = asyncio.Event()

    @asynccontextmanager
    async def hang() -> AsyncIterator[None]:
        asked.set()
        await asyncio.Event().wait()
        yield

    async with connected(app, agent) as client:
        if stage == "wake":
            parked = asyncio.create_task(poll(client, agent, hold=20.0))
            await wait_until_parked(services)
            monkeypatch.setattr(services.database, "reading", hang)
            services.wakeups.wake(agent.host_id)
        else:
            monkeypatch.setattr(services.database, "reading", hang)
            # What is remembered is old.
            services.wakeups.wake(agent.host_id)
            if stage == "token":
                services.wakeups.wake(identity_topic(agent.host_id))
            parked = asyncio.create_task(poll(client, agent, hold=20.0))
        await asyncio.wait_for(asked.wait(), 5)
        services.wakeups.drain()
        services.wakeups.cut_looks()
        answer = await asyncio.wait_for(parked, 5)
        late = await poll(client, agent, hold=20.0)
        monkeypatch.undo()

    for one in (answer, late):
        assert one.status_code == 200
        reply = msgspec.json.decode(one.content, type=PollReply)
        assert reply.envelopes == ()
        assert 1.0 <= reply.pause <= 5.0


async def test_quiet_client_that_hangs_up_leaves_nothing_behind(
    app: Litestar, agent: FakeAgent, services: Services
) -> None:
    async with serve(app) as port:
        writer = await send_request(
            port,
            "POST",
            "/v1/agent/poll",
            headers=dict(agent.client.headers),
            body=agent.build_poll(hold=20.0),
        )
        await wait_until_parked(services)
        writer.transport.abort()
        await asyncio.wait_for(wait_until_parked(services, 0), 1)


async def test_quiet_hosts_that_poll_are_written_down_at_most_once_a_minute(
    app: Litestar, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    first_seen_at = await read_last_seen(services)
    async with connected(app, agent) as client:
        clock.advance(30)
        await poll(client, agent)
        await heartbeats.write(services)
        soon = await read_last_seen(services)
        clock.advance(40)
        await poll(client, agent)
        await heartbeats.write(services)
        later = await read_last_seen(services)
        with watch_statements(services.database) as asked:
            await heartbeats.write(services)

    assert soon == first_seen_at
    assert later == first_seen_at + timedelta(seconds=70)
    assert asked == []


@pytest.mark.parametrize("is_remembered", [True, False])
async def test_host_counts_as_there_no_longer_for_a_clock_that_was_ahead(
    app: Litestar, agent: FakeAgent, services: Services, clock: FakeClock, *, is_remembered: bool
) -> None:
    services.wakeups.memory.is_trusted = is_remembered
    async with connected(app, agent) as client:
        clock.advance(days=365)
        await poll(client, agent)
        await heartbeats.write(services)
        ahead = await read_last_seen(services)
        clock.advance(days=-365)
        await poll(client, agent)
        await heartbeats.write(services)
        back = await read_last_seen(services)

    assert (ahead, back) == (clock.now() + timedelta(days=365), clock.now())


async def read_last_seen(services: Services) -> datetime:
    async with services.database.reading() as connection:
        found: datetime = (await connection.execute(sa.select(hosts.c.last_seen_at))).scalar_one()
    return found
