"""Fires of many hosts at once: one transaction for those that need no closer look, and for each
receipt the same as if it had come alone."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import ReceiptStatus
from backhaul.wire.jobs import ActorKind, JobState
from backhaul.wire.problems import ProblemType
from backhaul.wire.schedules import ScheduleFire, build_scheduled_job_id
from backhaul_api.db.tables import events, jobs
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_agent, add_repository, add_schedule, add_source
from tests.fakes.statements import watch_statements

COUNT = 12
SLOT = START.replace(microsecond=0)

Fleet = list[tuple[FakeAgent, dict[str, Any]]]


@pytest.fixture
async def fleet(services: Services, app: Litestar, operator: httpx.AsyncClient) -> Fleet:
    """Hosts with a nightly backup each."""
    await add_repository(operator)
    await add_source(operator)
    made: Fleet = []
    for number in range(COUNT):
        agent = await add_agent(services, app, name=f"web{number}")
        await agent.say_hello()
        made.append((agent, await add_schedule(operator, host=agent.name)))
    return made


def build_fire(schedule: dict[str, Any], at: datetime = SLOT, **fields: Any) -> ScheduleFire:
    return ScheduleFire(schedule_id=UUID(schedule["id"]), scheduled_at=at, fired_at=START, **fields)


async def fetch_jobs(services: Services) -> list[sa.RowMapping]:
    async with services.database.reading() as connection:
        return list((await connection.execute(sa.select(jobs).order_by(jobs.c.id))).mappings())


async def test_fires_that_come_together_are_committed_together(
    services: Services, fleet: Fleet
) -> None:
    with watch_statements(services.database) as statements:
        receipts = await asyncio.gather(
            *(agent.send(build_fire(schedule)) for agent, schedule in fleet)
        )

    made = await fetch_jobs(services)
    commits = [one for one in statements if "INSERT INTO jobs" in one]
    assert [receipt.status for [receipt] in receipts] == [ReceiptStatus.OK] * COUNT
    assert {receipt.job_id for [receipt] in receipts} == {row["id"] for row in made}
    assert len(commits) < COUNT / 2
    assert {row["host_id"] for row in made} == {agent.host_id for agent, _ in fleet}


async def test_job_of_a_fire_is_the_same_whichever_way_it_was_made(
    services: Services, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, schedule = fleet[0]
    await agent.send(build_fire(schedule))
    monkeypatch.setattr("backhaul_api.polling.receive.read_fires", lambda *_: None)
    await agent.send(build_fire(schedule, SLOT + timedelta(days=1)))

    short, ordinary = await fetch_jobs(services)
    differing = {"id", "scheduled_at", "created_at"}
    assert {name: short[name] for name in short if name not in differing} == {
        name: ordinary[name] for name in ordinary if name not in differing
    }
    assert short["id"] == build_scheduled_job_id(UUID(schedule["id"]), SLOT)
    assert short["state"] == JobState.QUEUED
    assert short["actor_kind"] == ActorKind.SCHEDULE
    async with services.database.reading() as connection:
        told = (
            await connection.execute(sa.select(events).where(events.c.kind == "job.queued"))
        ).mappings()
        first, second = (
            {name: row[name] for name in row if name not in {"id", "transaction_id", "job_id"}}
            for row in told
        )
    assert first == second


async def test_fire_that_comes_twice_at_once_makes_one_job(
    services: Services, fleet: Fleet
) -> None:
    agent, schedule = fleet[0]

    answers = await asyncio.gather(*(agent.send(build_fire(schedule)) for _ in range(5)))

    statuses = sorted(receipt.status for [receipt] in answers)
    assert statuses == [*[ReceiptStatus.DUPLICATE] * 4, ReceiptStatus.OK]
    assert len({receipt.job_id for [receipt] in answers}) == 1
    assert len(await fetch_jobs(services)) == 1


async def test_batch_of_slots_in_a_row_makes_a_job_each(services: Services, fleet: Fleet) -> None:
    agent, schedule = fleet[0]
    slots = [SLOT + timedelta(minutes=number) for number in range(50)]

    receipts = await agent.send(*(build_fire(schedule, slot) for slot in slots))

    assert [receipt.status for receipt in receipts] == [ReceiptStatus.OK] * 50
    assert [row["scheduled_at"] for row in await fetch_jobs(services)] == slots
    assert [receipt.job_id for receipt in receipts] == [
        build_scheduled_job_id(UUID(schedule["id"]), slot) for slot in slots
    ]


async def test_one_bad_fire_costs_its_neighbours_nothing(
    services: Services, fleet: Fleet, operator: httpx.AsyncClient
) -> None:
    (good, schedule), (other, disabled), (third, foreign) = fleet[:3]
    await operator.patch(f"/v1/schedules/{disabled['id']}", json={"enabled": False})

    results = await asyncio.gather(
        good.send(build_fire(schedule)),
        other.send(build_fire(disabled)),
        third.send(build_fire(schedule), build_fire(foreign)),
        good.send(build_fire(schedule, SLOT + timedelta(days=400))),
    )

    [[made], [refused], [not_its_own, its_own], [too_far]] = results
    assert made.status == ReceiptStatus.OK
    assert refused.problem is not None
    assert refused.problem.type == ProblemType.CONFLICT
    assert not_its_own.problem is not None
    assert not_its_own.problem.type == ProblemType.NOT_FOUND
    assert its_own.status == ReceiptStatus.OK
    assert too_far.problem is not None
    assert too_far.problem.type == ProblemType.INVALID_REQUEST
    assert len(await fetch_jobs(services)) == 2


async def test_earlier_slot_than_a_known_one_is_looked_at_closely(
    services: Services, fleet: Fleet
) -> None:
    """The later fire stands for it, so it must not be run a second time."""
    agent, schedule = fleet[0]
    later = SLOT + timedelta(hours=1)
    [first] = await agent.send(build_fire(schedule, later, missed=1, missed_since=SLOT))

    [earlier] = await agent.send(build_fire(schedule))

    assert (earlier.status, earlier.job_id) == (ReceiptStatus.DUPLICATE, first.job_id)
    assert len(await fetch_jobs(services)) == 1


async def test_failure_of_the_short_way_leaves_the_fires_to_the_ordinary_one(
    services: Services, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise LookupError

    monkeypatch.setattr("backhaul_api.jobs.store.insert_many", fail)

    answers = await asyncio.gather(*(agent.send(build_fire(schedule)) for agent, schedule in fleet))

    assert [receipt.status for [receipt] in answers] == [ReceiptStatus.OK] * COUNT
    assert len(await fetch_jobs(services)) == COUNT


async def test_fire_wakes_its_host(services: Services, fleet: Fleet) -> None:
    agent, schedule = fleet[0]
    woken: list[UUID] = []
    services.database.on_changes = woken.extend

    await agent.send(build_fire(schedule))

    assert agent.host_id in woken
