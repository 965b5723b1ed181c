"""Two instances on one PostgreSQL: what one changes, the polls of the other hear of, once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import BatchReply, PollReply
from backhaul.wire.commands import CommandRun
from backhaul.wire.schedules import ScheduleFire
from backhaul_api.app import create_app
from backhaul_api.auth import find_operator
from backhaul_api.db.changes import KEPT_FOR, touch
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import changes, hosts
from backhaul_api.errors import NotAuthenticatedError, NotReadyError
from backhaul_api.polling import heartbeats
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.polling.watching import Watcher
from backhaul_api.services import Services
from backhaul_api.tick.work import tick
from tests.conftest import build_client
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_job,
    add_schedule,
    add_source,
    build_batch,
    read_commands,
)
from tests.fakes.served import serve

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def build_twin(services: Services) -> Services:
    """Put a second instance together on the same database."""
    database = Database(services.database.url.render_as_string(hide_password=False))
    return dataclasses.replace(services, database=database, wakeups=Wakeups())


@pytest.fixture
async def other(services: Services) -> AsyncIterator[Services]:
    twin = build_twin(services)
    yield twin
    await twin.database.close()


@asynccontextmanager
async def watched(services: Services) -> AsyncIterator[Watcher]:
    """Watch as an instance that serves does."""
    watcher = Watcher(services)
    watching = asyncio.create_task(watcher.run_forever())
    async with asyncio.timeout(10):
        while not services.wakeups.memory.is_trusted:
            await asyncio.sleep(0.005)
    try:
        yield watcher
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def touch_now(services: Services, *topics: UUID) -> None:
    async with services.database.writing() as connection:
        touch(connection, *topics)


class Bells:
    """Notes whom an instance wakes."""

    def __init__(self, services: Services) -> None:
        self.rung: list[UUID] = []
        self.for_all = 0
        services.wakeups.wake = self._wake  # type: ignore[method-assign]
        services.wakeups.wake_all = self._wake_all  # type: ignore[method-assign]

    def _wake(self, *topics: UUID) -> None:
        self.rung.extend(topics)

    def _wake_all(self) -> None:
        self.for_all += 1


async def test_job_made_on_one_instance_reaches_the_quiet_poll_on_the_other(
    services: Services, other: Services, agent: FakeAgent, operator: httpx.AsyncClient
) -> None:
    async with (
        watched(services),
        watched(other),
        serve(create_app(other)) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=agent.client.headers
        ) as client,
    ):
        first = await client.post("/v1/agent/poll", content=agent.build_poll(hold=0.05))
        assert other.wakeups.memory.quiet_count == 1
        parked = asyncio.create_task(
            client.post("/v1/agent/poll", content=agent.build_poll(hold=20))
        )
        while not other.wakeups.waiting:
            await asyncio.sleep(0.005)
        job_id = await add_job(operator)
        answer = await asyncio.wait_for(parked, 5)

    assert msgspec.json.decode(first.content, type=PollReply).envelopes == ()
    [command] = read_commands(msgspec.json.decode(answer.content, type=PollReply))
    assert isinstance(command, CommandRun)
    assert command.job_id == job_id


async def test_host_that_changes_instances_is_not_told_old_news(
    services: Services, other: Services, agent: FakeAgent, operator: httpx.AsyncClient
) -> None:
    """The other instance remembers the host as quiet from a poll before the change."""
    watcher = Watcher(other)
    await watcher.look()
    other.wakeups.memory.is_trusted = True
    async with (
        serve(create_app(other)) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=agent.client.headers
        ) as client,
    ):
        await client.post("/v1/agent/poll", content=agent.build_poll(hold=0.05))
        await add_job(operator)
        await watcher.look()
        answer = await client.post("/v1/agent/poll", content=agent.build_poll(hold=0.05))

    assert len(msgspec.json.decode(answer.content, type=PollReply).envelopes) == 1


async def test_operator_who_is_shut_out_here_is_refused_there(
    services: Services, other: Services, operator: httpx.AsyncClient
) -> None:
    """The other instance knows the token, and has heard that it was revoked."""
    made = (await operator.post("/v1/api-tokens", json={"name": "ci"})).json()
    header = f"Bearer {made['token']}"
    watcher = Watcher(other)
    await watcher.look()
    other.wakeups.memory.is_trusted = True
    await find_operator(other, header)

    await operator.delete(f"/v1/api-tokens/{made['api_token']['id']}")
    still = await find_operator(other, header)
    await watcher.look()

    assert still.name == "ada"
    with pytest.raises(NotAuthenticatedError):
        await find_operator(other, header)


async def test_change_is_heard_of_once_by_the_other_and_not_again_by_its_maker(
    services: Services, other: Services
) -> None:
    mine, theirs = Bells(services), Bells(other)
    own, foreign = Watcher(services), Watcher(other)
    await own.look()
    await foreign.look()
    topics = [uuid4(), uuid4()]

    await touch_now(services, *topics)
    for _ in range(3):
        await own.look()
        await foreign.look()

    assert mine.rung == topics
    assert sorted(theirs.rung) == sorted(topics)
    assert (mine.for_all, theirs.for_all) == (1, 1)


async def test_slow_transaction_is_heard_of_though_later_ones_were_before_it(
    services: Services, other: Services
) -> None:
    bells, watcher = Bells(other), Watcher(other)
    await watcher.look()
    early, late = uuid4(), uuid4()

    async with services.database.writing() as slow:
        # Takes its number now, and is over after the other one.
        await slow.execute(sa.text("SELECT pg_current_xact_id()"))
        touch(slow, early)
        await touch_now(services, late)
        await watcher.look()
        await watcher.look()
        before = list(bells.rung)
    await watcher.look()

    assert before == [late]
    assert bells.rung == [late, early]


async def test_change_that_was_read_is_told_of_though_the_look_ends_badly(
    services: Services, other: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed has moved on by then, and gives it no second time."""
    bells, watcher = Bells(other), Watcher(other)
    await watcher.look()
    topic = uuid4()
    await touch_now(services, topic)
    reading = other.database.reading

    @asynccontextmanager
    async def breaking() -> AsyncIterator[AsyncConnection]:
        async with reading() as connection:
            yield connection
        raise NotReadyError("The database does not answer now.")

    monkeypatch.setattr(other.database, "reading", breaking)
    with pytest.raises(NotReadyError):
        await watcher.look()

    assert bells.rung == [topic]


async def test_another_server_that_counts_anew_wakes_everybody(
    services: Services, other: Services
) -> None:
    bells, watcher = Bells(other), Watcher(other)
    await watcher.look()
    other.database.feed._server = START

    await watcher.look()

    assert bells.for_all == 2


async def test_watcher_outlives_a_fault_of_its_own(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def fail(_: Watcher) -> None:
        tried.set()
        raise LookupError

    monkeypatch.setattr(Watcher, "_talk", fail)
    async with watched(services):
        await tried.wait()
        topic = uuid4()
        bells = Bells(services)
        async with asyncio.timeout(10):
            twin = build_twin(services)
            await touch_now(twin, topic)
            await twin.database.close()
            while topic not in bells.rung:
                await asyncio.sleep(0.02)


async def test_undone_change_wakes_nobody(services: Services, other: Services) -> None:
    bells, watcher = Bells(other), Watcher(other)
    await watcher.look()

    with pytest.raises(ZeroDivisionError):  # noqa: PT012 (the block is what is undone)
        async with services.database.writing() as connection:
            touch(connection, uuid4())
            raise ZeroDivisionError
    await touch_now(services)
    await watcher.look()

    assert bells.rung == []


async def test_instance_that_cannot_look_does_not_trust_its_memory(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, look = services.wakeups.memory, Watcher.look

    async def fail(_: Watcher) -> None:
        raise NotReadyError("The database does not answer now.")

    async with watched(services):
        monkeypatch.setattr(Watcher, "look", fail)
        async with asyncio.timeout(10):
            while memory.is_trusted:
                await asyncio.sleep(0.02)
        monkeypatch.setattr(Watcher, "look", look)
        async with asyncio.timeout(10):
            while not memory.is_trusted:
                await asyncio.sleep(0.02)


async def test_instance_hears_again_after_its_connections_were_cut(
    services: Services, other: Services
) -> None:
    topic = uuid4()
    async with watched(other):
        bells = Bells(other)
        async with services.database.writing() as connection:
            await connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        await touch_now(services, topic)
        async with asyncio.timeout(10):
            while topic not in bells.rung:
                await asyncio.sleep(0.01)


async def test_tick_deletes_old_rows_and_keeps_new_ones(
    services: Services, clock: FakeClock
) -> None:
    """Whether anybody watches or not: in functions nobody does."""
    await touch_now(services, uuid4())
    old = clock.now() - KEPT_FOR - timedelta(seconds=1)
    async with services.database.writing() as connection:
        await connection.execute(sa.update(changes).values(at=old))
    await touch_now(services, uuid4())

    await tick(services)

    async with services.database.reading() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(changes)) == 1


async def test_tick_of_an_instance_whose_clock_is_ahead_takes_no_news_from_the_others(
    services: Services, other: Services, clock: FakeClock
) -> None:
    bells, watcher = Bells(other), Watcher(other)
    await watcher.look()
    topic = uuid4()
    await touch_now(services, topic)
    clock.advance((datetime.now(UTC) - clock.now() + timedelta(days=1)).total_seconds())

    await tick(services)
    await watcher.look()

    assert bells.rung == [topic]


async def test_transaction_that_is_left_open_lets_no_memory_grow(
    services: Services, other: Services
) -> None:
    watcher, feed = Watcher(other), other.database.feed
    await watcher.look()
    async with services.database.writing() as forgotten:
        await forgotten.execute(sa.text("SELECT pg_current_xact_id()"))
        await touch_now(services, uuid4())
        await watcher.look()
        kept = dict(feed._known)
        async with services.database.writing() as connection:
            await connection.execute(sa.delete(changes))
        feed._known = {
            id_: heard._replace(at=heard.at and heard.at - 2 * KEPT_FOR)
            for id_, heard in kept.items()
        }
        await watcher.look()

    assert len(kept) == 1
    assert feed._known == {}


async def test_instance_that_slept_counts_everything_as_changed(
    services: Services, other: Services, clock: FakeClock
) -> None:
    """Its own clocks may have stood still: that of the loop does, while a machine is suspended."""
    bells, watcher = Bells(other), Watcher(other)
    await watcher.look()
    await touch_now(services, uuid4())
    async with services.database.writing() as connection:
        await connection.execute(sa.delete(changes))
    feed = other.database.feed
    assert feed._read_at is not None
    feed._read_at -= KEPT_FOR / 2

    await watcher.look()

    assert bells.for_all == 2


async def test_two_instances_write_who_polled_without_waiting_for_each_other(
    services: Services, other: Services, agent: FakeAgent, clock: FakeClock
) -> None:
    """A host whose row a batch has locked is left for later: no two can wait for each other."""
    await agent.poll(hold=0)
    clock.advance(minutes=5)
    for one in (services, other):
        one.wakeups.memory.hear(agent.host_id, clock.now())

    async with services.database.writing() as connection:
        await connection.execute(sa.select(hosts.c.id).with_for_update(key_share=True))
        async with asyncio.timeout(5):
            await heartbeats.write(other)
    await heartbeats.write(services)

    async with services.database.reading() as connection:
        assert await connection.scalar(sa.select(hosts.c.last_seen_at)) == clock.now()


async def test_request_that_two_instances_get_at_once_creates_one_job(
    services: Services, other: Services, agent: FakeAgent, operator: httpx.AsyncClient
) -> None:
    request = {"kind": "backup", "host": agent.name, "repository": "nas", "paths": ["/etc"]}
    key = {"Idempotency-Key": "9d0c"}
    async with build_client(create_app(other)) as there:
        there.headers["Authorization"] = operator.headers["Authorization"]

        answers = await asyncio.gather(
            *(
                client.post("/v1/jobs", json=request, headers=key)
                for client in (operator, there) * 3
            )
        )

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await operator.get("/v1/jobs")).json()["items"]) == 1


async def test_fire_that_two_instances_get_at_once_has_one_job(
    services: Services, other: Services, agent: FakeAgent, operator: httpx.AsyncClient
) -> None:
    await add_source(operator)
    schedule_id = UUID((await add_schedule(operator))["id"])
    slot = services.clock.now() - timedelta(minutes=10)
    fire = ScheduleFire(schedule_id=schedule_id, scheduled_at=slot, fired_at=slot)
    async with build_client(create_app(other)) as there:
        there.headers.update(agent.client.headers)

        answers = await asyncio.gather(
            *(
                client.post("/v1/agent/envelopes", content=build_batch(fire))
                for client in (agent.client, there) * 3
            )
        )

    assert {answer.status_code for answer in answers} == {200}
    receipts = [msgspec.json.decode(one.content, type=BatchReply).receipts[0] for one in answers]
    assert len({receipt.job_id for receipt in receipts}) == 1
    assert sorted(receipt.status for receipt in receipts) == [*["duplicate"] * 5, "ok"]
    assert len((await operator.get("/v1/jobs")).json()["items"]) == 1
