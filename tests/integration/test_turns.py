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
from backhaul.wire.jobs import JobEvent, Outcome
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.db.tables import jobs
from backhaul_api.errors import JobWaitsError
from backhaul_api.jobs import store, turns
from backhaul_api.polling.receive import _lock_host
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_job,
    add_pair,
    read_commands,
)


@pytest.fixture
async def fleet(
    services: Services, app: Litestar, operator: httpx.AsyncClient
) -> tuple[FakeAgent, FakeAgent]:
    return await add_pair(services, app, operator)


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
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent], services: Services
) -> None:
    web, _ = fleet
    other = await add_job(operator, host="web1", repository="cloud")
    prune = await add_job(operator, kind="prune", host="web1")
    behind = await schedule(operator, services, host="web1", repository="cloud")

    # Not together: it would lock the repository and wait behind the other.
    assert await find_due(web) == [other]
    await run(web, other)
    assert (await show(operator, prune))["waits_for"]["job_id"] == str(other)
    await end(web, other)
    assert await find_due(web) == [prune, behind]


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


async def test_late_copy_of_a_claim_that_was_given_back_brings_the_job_to_its_host(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent]
) -> None:
    web, db = fleet
    prune = await add_job(operator, kind="prune", host="db1")
    assert await find_due(db) == [prune]
    backup = await add_job(operator, host="web1")
    await run(web, backup)
    # The agent gave up waiting, sent the claim again, and forgot the job when it was refused.
    assert (await db.accept(prune)).status is ReceiptStatus.REJECTED
    await end(web, backup)

    late = await db.accept(prune)

    assert late.status is ReceiptStatus.OK
    assert await find_due(db) == [prune]
    # What the host holds is not sent again, nor what it has begun.
    assert await find_due(db, jobs=[HeldJob(job_id=prune, state="accepted")]) == []
    assert (await db.accept(prune)).status is ReceiptStatus.DUPLICATE
    await db.send(JobStarted(job_id=prune, attempt=1, at=START))
    assert await find_due(db) == []
    await end(db, prune)


async def test_host_that_does_nothing_with_a_repeated_command_is_asked_to_pause(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent]
) -> None:
    web, _ = fleet
    job_id = await add_job(operator)
    await web.accept(job_id)

    reply = await web.poll(hold=20)

    assert len(reply.envelopes) == 1
    assert reply.pause > 0


async def test_exclusive_job_whose_host_is_busy_elsewhere_holds_up_only_that_host(
    operator: httpx.AsyncClient,
    fleet: tuple[FakeAgent, FakeAgent],
    services: Services,
    clock: FakeClock,
) -> None:
    web, db = fleet
    busy = await schedule(operator, services, host="db1", repository="cloud")
    await run(db, busy)
    prune = await schedule(operator, services, kind="prune", host="db1")
    elsewhere = await schedule(operator, services, host="web1")
    behind = await schedule(operator, services, host="db1", repository="cloud")
    urgent = await add_job(operator, host="db1", repository="cloud")
    held = [HeldJob(job_id=busy, state="running")]
    await db.poll(jobs=held)

    assert await find_due(web) == [elsewhere]
    # Else its host would never be free.
    assert await find_due(db, jobs=held) == [urgent]
    assert (await show(operator, behind))["waits_for"]["job_id"] == str(prune)
    clock.advance(turns.LETS_GO_FIRST_FOR.total_seconds() + 61)
    await db.poll(jobs=held)
    assert await find_due(db, jobs=held) == [urgent]

    await operator.post(f"/v1/jobs/{urgent}/cancel")
    await end(db, busy)
    assert await find_due(db) == [prune, behind]


@pytest.mark.parametrize("remove_all", [False, True])
async def test_unlock_waits_for_nobody_unless_it_removes_the_locks_of_living_ones(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent], *, remove_all: bool
) -> None:
    web, db = fleet
    prune = await add_job(operator, kind="prune", host="db1")
    await run(db, prune)
    unlock = await add_job(operator, kind="unlock", host="web1", remove_all=remove_all)

    assert await find_due(web) == ([] if remove_all else [unlock])

    await end(db, prune)
    assert await find_due(web) == [unlock]
    await run(web, unlock)
    check = await add_job(operator, kind="check", host="db1")
    assert await find_due(db) == ([] if remove_all else [check])
    assert (await db.accept(check)).status is (
        ReceiptStatus.REJECTED if remove_all else ReceiptStatus.OK
    )


async def test_claim_beside_another_one_is_told_so(
    operator: httpx.AsyncClient, fleet: tuple[FakeAgent, FakeAgent], services: Services
) -> None:
    _, db = fleet
    prune = await add_job(operator, kind="prune", host="db1")
    if services.database.is_sqlite:
        pytest.skip("one writer: claims follow one another")

    async with services.database.writing() as connection:
        job = await store.fetch(connection, prune)
        await turns.Claims(connection, silent_since=None).refuse_early(job)
        receipt = await db.accept(prune)

    assert receipt.problem is not None
    assert receipt.problem.type == ProblemType.JOB_WAITS
    assert "another claim on repository nas is under way" in receipt.problem.detail
    assert (await db.accept(prune)).status is ReceiptStatus.OK


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_what_was_seen_beside_another_claim_counts_for_nothing(
    operator: httpx.AsyncClient,
    fleet: tuple[FakeAgent, FakeAgent],
    services: Services,
    clock: FakeClock,
) -> None:
    prune = await add_job(operator, kind="prune", host="db1")
    backup = await add_job(operator, host="web1")

    async with services.database.writing() as slow:
        async with services.database.writing() as quick:
            running = await store.fetch(quick, prune)
            await turns.Claims(quick, silent_since=None).refuse_early(running)
            claims = turns.Claims(slow, silent_since=None)
            waiting = await store.fetch(slow, backup)
            await claims.look_at([waiting])
            await store.move(quick, running, JobEvent.ACCEPT, at=clock.now(), accepted_at=START)

        with pytest.raises(JobWaitsError, match="waits for prune on db1"):
            await claims.refuse_early(waiting)


async def test_job_that_expires_while_it_waits_for_its_turn_says_so(
    operator: httpx.AsyncClient,
    fleet: tuple[FakeAgent, FakeAgent],
    services: Services,
    clock: FakeClock,
) -> None:
    web, db = fleet
    running = await add_job(operator, host="web1")
    await run(web, running)
    polled, looked_at, gone = [
        await schedule(operator, services, kind="check", host=host)
        for host in ("db1", "db1", "web1")
    ]
    async with services.database.writing() as connection:
        await connection.execute(
            sa.update(jobs).where(jobs.c.id != running).values(start_deadline_at=START)
        )
        await connection.execute(
            sa.update(jobs).where(jobs.c.id == looked_at).values(state="succeeded")
        )
    clock.advance(turns.PRESENT_WITHIN.total_seconds() + 61)

    await db.poll()
    async with services.database.writing() as connection:
        await connection.execute(
            sa.update(jobs).where(jobs.c.id == looked_at).values(state="queued")
        )
    ended = {one: await show(operator, one) for one in (polled, looked_at, gone)}

    assert {one["state"] for one in ended.values()} == {"expired"}
    for job_id in (polled, looked_at):
        assert f"it waited for backup on web1 (job {running})" in ended[job_id]["message"]
    # Its host was not there.
    assert ended[gone]["message"] == "No agent took the job up before its start deadline."


async def test_those_who_look_and_a_batch_do_not_wait_for_each_other_for_ever(
    operator: httpx.AsyncClient,
    fleet: tuple[FakeAgent, FakeAgent],
    services: Services,
    clock: FakeClock,
) -> None:
    web, _ = fleet
    if services.database.is_sqlite:
        pytest.skip("one writer: nobody waits for a row")
    first, second = [await add_job(operator, repository=name) for name in ("nas", "cloud")]
    await run(web, first)
    await run(web, second)
    clock.advance(services.settings.lost_after + 61)

    async with services.database.writing() as connection:
        # As a batch does that has news of the second job, and then of the first.
        await _lock_host(connection, web.host_id)
        await store.fetch_of_host(connection, second, web.host_id)
        looking = asyncio.create_task(operator.get("/v1/jobs"))
        await _wait_for_a_waiter(services)
        await store.fetch_of_host(connection, first, web.host_id)

    listed = (await asyncio.wait_for(looking, 10)).json()["items"]
    assert {job["state"] for job in listed} == {"lost"}


async def _wait_for_a_waiter(services: Services) -> None:
    """Wait until somebody waits for a lock in the database."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(10):
        while True:
            async with services.database.reading() as connection:
                if await connection.scalar(query):
                    return
