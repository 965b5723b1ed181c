"""Copies to a second repository: who may, with what, and whose turn it is on both."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import msgspec
import nacl.public
import pytest
from litestar import Litestar

from backhaul.wire.agents import HeldJob, ReceiptStatus
from backhaul.wire.commands import CommandAck, CommandRun, Credentials
from backhaul.wire.jobs import Outcome
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import ScheduleFire
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_job, add_pair, add_schedule, read_commands

Fleet = tuple[FakeAgent, FakeAgent]


@pytest.fixture
async def fleet(services: Services, app: Litestar, operator: httpx.AsyncClient) -> Fleet:
    return await add_pair(services, app, operator)


async def find_due(agent: FakeAgent, *held: HeldJob) -> list[CommandRun]:
    found = read_commands(await agent.poll(jobs=held))
    return [command for command in found if isinstance(command, CommandRun)]


async def end(agent: FakeAgent, job_id: UUID) -> None:
    finished = JobFinished(
        job_id=job_id, attempt=1, at=START, outcome=Outcome.SUCCEEDED, log_lines=0
    )
    started = JobStarted(job_id=job_id, attempt=1, at=START)
    receipts = await agent.send(started, finished)
    assert {receipt.status for receipt in receipts} == {ReceiptStatus.OK}


async def waits_for(operator: httpx.AsyncClient, job_id: UUID) -> str | None:
    obstacle = (await operator.get(f"/v1/jobs/{job_id}")).json()["waits_for"]
    return obstacle and str(obstacle["job_id"])


async def add_conflicting(operator: httpx.AsyncClient) -> None:
    """Record a repository whose environment no restic can have beside that of the others."""
    other = {
        "name": "other",
        "location": "/srv/restic/other",
        "password": "another one",
        "environment": {"RESTIC_COMPRESSION": "off"},
    }
    assert (await operator.post("/v1/repositories", json=other)).status_code == 201


async def test_copy_has_the_credentials_of_both_each_bound_to_its_own(
    operator: httpx.AsyncClient, fleet: Fleet
) -> None:
    web1, _ = fleet
    job_id = await add_job(operator, kind="copy", destination="cloud", source="etc", tags=["x"])

    [command] = await find_due(web1)
    shown = (await operator.get(f"/v1/jobs/{job_id}")).json()

    assert command.second_credentials is not None
    opened = nacl.public.SealedBox(web1.key).decrypt(command.second_credentials)
    second = msgspec.json.decode(opened, type=Credentials)
    assert web1.unseal(command).location == "/srv/restic/nas"
    assert (second.location, second.repository_id) == (
        "/srv/restic/cloud",
        command.second_repository_id,
    )
    assert (shown["repository"], shown["destination"]) == ("nas", "cloud")
    assert shown["arguments"]["tags"] == ["etc", "x"]


async def test_init_by_the_chunker_of_another_has_the_credentials_of_both(
    operator: httpx.AsyncClient, fleet: Fleet
) -> None:
    web1, _ = fleet
    job_id = await add_job(operator, kind="init", repository="cloud", chunker_of="nas")

    [command] = await find_due(web1)
    shown = (await operator.get(f"/v1/jobs/{job_id}")).json()

    assert command.second_credentials is not None
    opened = nacl.public.SealedBox(web1.key).decrypt(command.second_credentials)
    second = msgspec.json.decode(opened, type=Credentials)
    assert web1.unseal(command).location == "/srv/restic/cloud"
    assert (second.location, second.repository_id) == (
        "/srv/restic/nas",
        command.second_repository_id,
    )
    assert shown["arguments"] == {
        "kind": "init",
        "chunker_of_id": str(command.second_repository_id),
        "chunker_of": "nas",
    }
    assert shown["destination"] is None


@pytest.mark.parametrize("chunker_of", ["nowhere", "nas", "other"])
async def test_init_by_the_chunker_of_what_cannot_be_is_refused_by_field(
    operator: httpx.AsyncClient, fleet: Fleet, chunker_of: str
) -> None:
    await add_conflicting(operator)

    request = {"kind": "init", "host": "web1", "repository": "nas", "chunker_of": chunker_of}
    answer = await operator.post("/v1/jobs", json=request)

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == ["chunker_of"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "destination"),
        ({"destination": "nowhere"}, "destination"),
        ({"destination": "nas"}, "destination"),
        ({"destination": "other"}, "destination"),
        ({"destination": "cloud", "snapshots": ["01234567"], "tags": ["x"]}, "snapshots"),
        ({"destination": "cloud", "snapshots": ["nope"]}, "snapshots[0]"),
        ({"destination": "cloud", "source": "nothing"}, "source"),
    ],
    ids=["no destination", "unknown", "itself", "conflict", "both", "no id", "no source"],
)
async def test_copy_that_cannot_be_is_refused_by_field(
    operator: httpx.AsyncClient, fleet: Fleet, body: dict[str, Any], field: str
) -> None:
    await add_conflicting(operator)

    request = {"kind": "copy", "host": "web1", "repository": "nas", **body}
    answer = await operator.post("/v1/jobs", json=request)

    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["field"] == field
    if body.get("destination") == "other":
        assert "RESTIC_COMPRESSION" in error["message"]
        assert "off" not in error["message"]


@pytest.mark.parametrize("destination", ["cloud", "nas"])
async def test_copies_that_are_asked_for_at_once_do_not_wait_for_one_another_in_a_circle(
    operator: httpx.AsyncClient, fleet: Fleet, destination: str
) -> None:
    request = {"kind": "copy", "host": "web1", "repository": "nas", "destination": destination}

    answers = await asyncio.gather(*(operator.post("/v1/jobs", json=request) for _ in range(6)))

    expected = 422 if destination == "nas" else 201
    assert [answer.status_code for answer in answers] == [expected] * 6


@pytest.mark.parametrize("repository", ["nas", "cloud"])
async def test_exclusive_job_on_either_repository_waits_for_a_copy(
    operator: httpx.AsyncClient, fleet: Fleet, repository: str
) -> None:
    web1, db1 = fleet
    copy = await add_job(operator, kind="copy", destination="cloud")
    assert (await web1.accept(copy)).status is ReceiptStatus.OK

    prune = await add_job(operator, kind="prune", host="db1", repository=repository)
    refused = (await db1.send(CommandAck(job_id=prune, is_accepted=True)))[0]

    assert await find_due(db1) == []
    assert await waits_for(operator, prune) == str(copy)
    assert refused.problem is not None
    assert refused.problem.type == ProblemType.JOB_WAITS
    await end(web1, copy)
    assert [command.job_id for command in await find_due(db1)] == [prune]


@pytest.mark.parametrize("repository", ["nas", "cloud"])
async def test_copy_waits_for_an_exclusive_job_on_either_repository(
    operator: httpx.AsyncClient, fleet: Fleet, repository: str
) -> None:
    web1, db1 = fleet
    prune = await add_job(operator, kind="prune", host="db1", repository=repository)
    assert (await db1.accept(prune)).status is ReceiptStatus.OK

    copy = await add_job(operator, kind="copy", destination="cloud")
    refused = (await web1.send(CommandAck(job_id=copy, is_accepted=True)))[0]

    assert await find_due(web1) == []
    assert await waits_for(operator, copy) == str(prune)
    assert refused.problem is not None
    await end(db1, prune)
    assert [command.job_id for command in await find_due(web1)] == [copy]


async def test_copies_and_backups_need_not_wait_for_each_other(
    operator: httpx.AsyncClient, fleet: Fleet
) -> None:
    web1, db1 = fleet
    for body in ({"destination": "cloud"}, {"repository": "cloud", "destination": "nas"}):
        copy = await add_job(operator, kind="copy", **body)
        assert (await web1.accept(copy)).status is ReceiptStatus.OK

    backup = await add_job(operator, host="db1", repository="cloud")

    assert [command.job_id for command in await find_due(db1)] == [backup]


async def test_copy_is_listed_with_both_repositories_and_proves_that_both_exist(
    operator: httpx.AsyncClient, fleet: Fleet
) -> None:
    web1, _ = fleet
    copy = await add_job(operator, kind="copy", destination="cloud")
    await web1.accept(copy)
    await end(web1, copy)

    for name in ("nas", "cloud"):
        listed = (await operator.get("/v1/jobs", params={"repository": name})).json()["items"]
        shown = (await operator.get(f"/v1/repositories/{name}")).json()

        assert [job["id"] for job in listed] == [str(copy)]
        assert shown["initialized_at"] is not None


async def test_end_of_a_copy_wakes_whoever_waits_on_its_destination(
    operator: httpx.AsyncClient, fleet: Fleet, services: Services
) -> None:
    web1, db1 = fleet
    copy = await add_job(operator, kind="copy", destination="cloud")
    await web1.accept(copy)
    await add_job(operator, kind="prune", host="db1", repository="cloud")

    woken: list[UUID] = []
    services.wakeups.wake = lambda *topics: woken.extend(topics)  # type: ignore[method-assign]
    await end(web1, copy)

    assert db1.host_id in woken


async def test_schedule_copies_to_a_repository_that_was_renamed_meanwhile(
    operator: httpx.AsyncClient, fleet: Fleet
) -> None:
    web1, _ = fleet
    options = {"kind": "copy", "destination": "cloud", "of_host": "web1"}
    schedule = await add_schedule(operator, kind="copy", source="etc", options=options)
    await operator.patch("/v1/repositories/cloud", json={"name": "sky"})
    in_use = await operator.delete("/v1/repositories/sky")

    fire = ScheduleFire(schedule_id=UUID(schedule["id"]), scheduled_at=START, fired_at=START)
    [receipt] = await web1.send(fire)
    shown = (await operator.get(f"/v1/jobs/{receipt.job_id}")).json()

    assert in_use.status_code == 409
    assert schedule["options"]["destination"] == shown["destination_id"]
    assert shown["destination"] == "sky"
    assert (shown["arguments"]["tags"], shown["arguments"]["of_host"]) == (["etc"], "web1")


@pytest.mark.parametrize(
    "options", [None, {"kind": "copy", "destination": "nas"}], ids=["none", "itself"]
)
async def test_schedule_that_cannot_copy_is_refused(
    operator: httpx.AsyncClient, fleet: Fleet, options: dict[str, str] | None
) -> None:
    body = {"kind": "copy", "cron": "@daily", "repository": "nas", "options": options}

    answer = await operator.post("/v1/hosts/web1/schedules", json=body)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["options.destination"]
