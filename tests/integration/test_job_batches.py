"""Jobs for many hosts in one request: all of them, or none."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul_api.db.tables import audit_log, events, jobs
from backhaul_api.hosts import store as hosts
from backhaul_api.schedules.store import take_turn
from backhaul_api.services import Services
from tests.fakes.fleet import FakeAgent, add_agent, add_repository, add_source, read_commands

COUNT = 5


@pytest.fixture
async def fleet(services: Services, app: Litestar, operator: httpx.AsyncClient) -> list[FakeAgent]:
    await add_repository(operator)
    await add_source(operator)
    return [await add_agent(services, app, name=f"web{number}") for number in range(COUNT)]


def backup(host: object, **fields: Any) -> dict[str, Any]:
    return {"kind": "backup", "host": str(host), "repository": "nas", "source": "etc", **fields}


async def send(operator: httpx.AsyncClient, *requests: object, **headers: str) -> httpx.Response:
    return await operator.post("/v1/jobs/batch", json={"jobs": list(requests)}, headers=headers)


async def count(services: Services, table: sa.Table) -> int:
    async with services.database.reading() as connection:
        return await connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_whoever_changes_what_hosts_are_told_has_all_of_them_or_none(
    operator: httpx.AsyncClient, services: Services, fleet: list[FakeAgent]
) -> None:
    """A report of a password change locks its own host before the others, whatever their order."""
    async with services.database.writing() as connection:
        await take_turn(connection)
        await hosts.fetch(connection, fleet[-1].name, for_update=True)
        sending = asyncio.create_task(send(operator, *(backup(agent.name) for agent in fleet)))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            await hosts.fetch(connection, fleet[0].name, for_update=True)

    assert (await sending).status_code == 201


async def test_each_host_gets_its_job(
    operator: httpx.AsyncClient, services: Services, fleet: list[FakeAgent]
) -> None:
    # By name or by id, as everywhere.
    by_id, *by_name = fleet

    answer = await send(operator, backup(by_id.host_id), *(backup(agent.name) for agent in by_name))

    assert answer.status_code == 201, answer.text
    ids = [UUID(id_) for id_ in answer.json()["ids"]]
    for agent, job_id in zip(fleet, ids, strict=True):
        [command] = read_commands(await agent.poll(hold=0))
        assert command.job_id == job_id


async def test_job_of_a_batch_is_the_same_as_one_that_was_asked_for_alone(
    operator: httpx.AsyncClient, fleet: list[FakeAgent]
) -> None:
    alone = (await operator.post("/v1/jobs", json=backup("web0"))).json()

    [id_] = (await send(operator, backup("web0"))).json()["ids"]

    together = (await operator.get(f"/v1/jobs/{id_}")).json()
    differing = {"id", "created_at"}
    assert {name: together[name] for name in together if name not in differing} == {
        name: alone[name] for name in alone if name not in differing
    }


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (backup("nowhere"), 422, "jobs[2].host: there is no host 'nowhere'"),
        (backup("web1", repository="none"), 422, "jobs[2].repository: there is no repository"),
        (backup("web1", paths=["/etc"]), 422, "jobs[2].paths: leave out the paths"),
        ({"kind": "init", "host": "web1", "repository": "nas"}, 422, "jobs[2].kind: initialise"),
        ({"kind": "dance", "host": "web1", "repository": "nas"}, 422, "jobs[2]"),
    ],
)
async def test_one_that_is_refused_leaves_none(
    operator: httpx.AsyncClient,
    services: Services,
    fleet: list[FakeAgent],
    request_: dict[str, Any],
    status: int,
    said: str,
) -> None:
    before = [await count(services, table) for table in (jobs, events, audit_log)]

    answer = await send(operator, backup("web0"), backup("web1"), request_)

    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert [await count(services, table) for table in (jobs, events, audit_log)] == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_empty_batch_is_refused(operator: httpx.AsyncClient) -> None:
    answer = await send(operator)

    assert answer.status_code == 422
    assert "jobs" in answer.json()["detail"]


async def test_same_key_makes_them_once(
    operator: httpx.AsyncClient, services: Services, fleet: list[FakeAgent]
) -> None:
    requests = [backup(agent.name) for agent in fleet]

    first = await send(operator, *requests, **{"Idempotency-Key": "nightly"})
    again = await send(operator, *requests, **{"Idempotency-Key": "nightly"})

    assert again.json() == first.json()
    assert await count(services, jobs) == COUNT


async def test_audit_log_says_in_one_entry_what_was_made(
    operator: httpx.AsyncClient, fleet: list[FakeAgent]
) -> None:
    prune = {"kind": "prune", "host": "web0", "repository": "nas"}
    await send(operator, *(backup(agent.name) for agent in fleet), prune)

    newest, *_ = (await operator.get("/v1/audit")).json()["items"]

    assert newest["action"] == "job.create"
    assert newest["target"] == f"backup on {COUNT} hosts, prune on web0"
