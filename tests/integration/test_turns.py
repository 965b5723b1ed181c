"""Whose turn it is on a repository: what restic needs for itself waits, and is waited for."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import HeldJob, ReceiptStatus
from backhaul.wire.commands import CommandAck, CommandRun, JobPriority
from backhaul.wire.jobs import Outcome
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.db.tables import jobs
from backhaul_api.jobs import turns
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_agent,
    add_job,
    add_repository,
    add_source,
    read_commands,
)


@pytest.fixture
async def fleet(
    services: Services, app: Litestar, operator: httpx.AsyncClient
) -> tuple[FakeAgent, FakeAgent]:
    """Two hosts, web1 and db1, that both use the repositories nas and cloud."""
    await add_repository(operator)
    await add_repository(operator, name="cloud")
    await add_source(operator, retention={"keep_daily": 7})
    agents = (
        await add_agent(services, app, name="web1"),
        await add_agent(services, app, name="db1"),
    )
    for agent in agents:
        await agent.say_hello()
    return agents


async def schedule(operator: httpx.AsyncClient, services: Services, **request: Any) -> UUID:
    """Add a job that no operator waits for."""
    job_id = await add_job(operator, **request)
    async with services.database.writing() as connection:
        await connection.execute(
            sa.update(jobs).where(jobs.c.id == job_id).values(actor_kind="schedule")
        )
    return job_id


async def find_due(agent: FakeAgent, **poll: Any) -> list[UUID]:
    commands = read_commands(await agent.poll(**poll))
    return [one.job_id for one in commands if isinstance(one, CommandRun)]


async def run(agent: FakeAgent, job_id: UUID) -> None:
    for envelope in (
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(job_id=job_id, attempt=1, at=START),
    ):
        assert (await agent.send(envelope))[0].status is ReceiptStatus.OK


async def end(agent: FakeAgent, job_id: UUID) -> None:
    finished = JobFinished(
        job_id=job_id, attempt=1, at=START, outcome=Outcome.SUCCEEDED, log_lines=0
    )
    assert (await agent.send(finished))[0].status is ReceiptStatus.OK


async def show(operator: httpx.AsyncClient, job_id: UUID) -> dict[str, Any]:
    shown: dict[str, Any] = (await operator.get(f"/v1/jobs/{job_id}")).json()
    return shown


@pytest.mark.parametrize("kind", ["prune", "check", "forget"])
async def test_exclusive_job_waits_for_a_backup_elsewhere_and_says_so(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent], kind: str
) -> None:
    web, db = fleet
    backup = await add_job(operator, host="web1")
    await run(web, backup)
    request = {"kind": kind, "host": "db1", **({"source": "etc"} if kind == "forget" else {})}
    waiting = await add_job(operator, **request)

    assert await find_due(db) == []
    expected = {"job_id": str(backup), "kind": "backup", "state": "running", "host": "web1"}
    assert (await show(operator, waiting))["waits_for"] == expected
    listed = (await operator.get("/v1/jobs", params={"state": "queued"})).json()["items"]
    assert [job["waits_for"] for job in listed] == [expected]

    await end(web, backup)
    assert await find_due(db) == [waiting]
    assert (await show(operator, waiting))["waits_for"] is None


async def test_everything_waits_for_a_prune_on_the_same_repository_only(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent]
) -> None:
    web, db = fleet
    prune = await add_job(operator, kind="prune", host="db1")
    await run(db, prune)
    backup = await add_job(operator, host="web1")
    restore = await add_job(
        operator, kind="restore", host="web1", snapshot="latest", target="/tmp/back"
    )
    elsewhere = await add_job(operator, host="web1", repository="cloud")

    assert await find_due(web) == [elsewhere]
    assert (await show(operator, backup))["waits_for"]["kind"] == "prune"

    await end(db, prune)
    assert await find_due(web) == [restore, backup, elsewhere]


async def test_parked_poll_is_told_as_soon_as_the_repository_is_free(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent], services: Services
) -> None:
    web, db = fleet
    backup = await add_job(operator, host="web1")
    await run(web, backup)
    prune = await add_job(operator, kind="prune", host="db1")
    poll = asyncio.create_task(find_due(db, hold=20))
    while not services.wakeups.waiting:
        await asyncio.sleep(0)

    await end(web, backup)

    assert await asyncio.wait_for(poll, 5) == [prune]


async def test_claim_of_a_job_whose_turn_is_over_is_given_back(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent]
) -> None:
    web, db = fleet
    prune = await add_job(operator, kind="prune", host="db1")
    check = await add_job(operator, kind="check", host="web1", repository="cloud")
    # Both were handed out; meanwhile a backup was claimed on one of the repositories.
    assert await find_due(db) == [prune]
    backup = await add_job(operator, host="web1")
    await run(web, backup)

    receipt = await db.accept(prune)

    assert receipt.status is ReceiptStatus.REJECTED
    assert receipt.problem is not None
    assert receipt.problem.type == ProblemType.JOB_WAITS
    assert (await show(operator, prune))["state"] == "queued"
    await end(web, backup)
    assert await find_due(db) == [prune]
    assert (await db.accept(prune)).status is ReceiptStatus.OK
    assert await find_due(web) == [check]


async def test_two_claims_at_once_never_both_get_an_exclusive_turn(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent]
) -> None:
    web, db = fleet
    for _ in range(5):
        prune = await add_job(operator, kind="prune", host="db1")
        check = await add_job(operator, kind="check", host="web1")

        receipts = await asyncio.gather(db.accept(prune), web.accept(check))

        accepted = [one.status is ReceiptStatus.OK for one in receipts]
        assert accepted != [True, True]
        for agent, job_id, is_accepted in zip((db, web), (prune, check), accepted, strict=True):
            if not is_accepted:
                await operator.post(f"/v1/jobs/{job_id}/cancel")
                continue
            await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
            await end(agent, job_id)


async def test_scheduled_backups_let_a_waiting_prune_go_first(
    operator: httpx.AsyncClient,
    fleet: tuple[FakeAgent, FakeAgent],
    services: Services,
    clock: FakeClock,
) -> None:
    web, db = fleet
    await web.poll()
    await db.poll()
    running = await schedule(operator, services, host="web1")
    await run(web, running)
    prune = await schedule(operator, services, kind="prune", host="db1")
    later = await schedule(operator, services, host="web1")
    urgent = await add_job(operator, host="web1")

    held = HeldJob(job_id=running, state="running")
    assert await find_due(web, jobs=[held]) == [urgent]
    assert (await show(operator, later))["waits_for"]["job_id"] == str(prune)

    # Its host has gone: nobody waits for it any more.
    clock.advance(turns.PRESENT_WITHIN.total_seconds() + 61)
    assert await find_due(web, jobs=[held]) == [urgent, later]


async def test_exclusive_job_begins_only_on_a_host_that_is_free(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent]
) -> None:
    web, _ = fleet
    other = await add_job(operator, host="web1", repository="cloud")
    prune = await add_job(operator, kind="prune", host="web1")

    # Not together: it would lock the repository and wait behind the other.
    assert await find_due(web) == [other]
    await run(web, other)
    assert (await show(operator, prune))["waits_for"]["job_id"] == str(other)
    await end(web, other)
    assert await find_due(web) == [prune]


async def test_end_of_a_queued_prune_lets_others_go_on(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent], services: Services
) -> None:
    web, db = fleet
    await db.poll()
    prune = await schedule(operator, services, kind="prune", host="db1")
    backup = await schedule(operator, services, host="web1")
    poll = asyncio.create_task(find_due(web, hold=20))
    while not services.wakeups.waiting:
        await asyncio.sleep(0)

    await operator.post(f"/v1/jobs/{prune}/cancel")

    assert await asyncio.wait_for(poll, 5) == [backup]


async def test_command_carries_the_priority_of_its_job(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent], services: Services
) -> None:
    web, _ = fleet
    await schedule(operator, services, host="web1")
    await add_job(operator, host="web1")
    await add_job(operator, kind="restore", host="web1", snapshot="latest", target="/tmp/back")
    # Asked for by hand, and yet nobody waits for it.
    await add_job(operator, kind="drill", host="web1")

    commands = read_commands(await web.poll())

    assert [one.priority for one in commands if isinstance(one, CommandRun)] == [
        JobPriority.RESTORE,
        JobPriority.OPERATOR,
        JobPriority.SCHEDULED,
        JobPriority.SCHEDULED,
    ]


async def test_job_of_a_host_that_is_gone_keeps_nobody_waiting_though_nobody_looks(
    operator: httpx.AsyncClient,
    fleet: tuple[FakeAgent, FakeAgent],
    services: Services,
    clock: FakeClock,
) -> None:
    web, db = fleet
    await db.poll()
    await run(db, await add_job(operator, kind="prune", host="db1"))
    backup = await add_job(operator, host="web1")
    assert await find_due(web) == []

    clock.advance(services.settings.lost_after + 61)

    # No operator has asked for jobs, which would have moved the prune to `lost`.
    assert await find_due(web) == [backup]
    assert (await web.accept(backup)).status is ReceiptStatus.OK
    check = await add_job(operator, kind="check", host="web1")
    await web.send(JobStarted(job_id=backup, attempt=1, at=START))
    await end(web, backup)
    assert await find_due(web) == [check]
    assert (await web.accept(check)).status is ReceiptStatus.OK
