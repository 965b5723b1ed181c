"""Snapshots: what jobs report of a repository, who made what, and the list of them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from litestar import Litestar

from backhaul.wire.agents import ReceiptStatus
from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import BackupResult
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.snapshots import ReportedSnapshot, SnapshotsReport
from backhaul_api.paging import encode_cursor
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def snapshot(id_: str, *, time: datetime = START, **fields: Any) -> ReportedSnapshot:
    values = {"id": id_, "time": time, "hostname": "web1", "paths": ("/etc",), **fields}
    return ReportedSnapshot(**values)


async def start(
    operator: httpx.AsyncClient, agent: FakeAgent, *, kind: str, repository: str = "nas"
) -> UUID:
    job_id = await add_job(operator, kind=kind, repository=repository, host=agent.name)
    await agent.send(
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(job_id=job_id, attempt=1, at=START),
    )
    return job_id


async def finish(agent: FakeAgent, job_id: UUID, *, snapshot_id: str | None = None) -> None:
    result = BackupResult(snapshot_id=snapshot_id) if snapshot_id else None
    report = JobFinished(
        job_id=job_id,
        attempt=1,
        at=START,
        outcome=Outcome.SUCCEEDED,
        log_lines=0,
        result=result,
    )
    [receipt] = await agent.send(report)
    assert receipt.status is ReceiptStatus.OK


async def report(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    job_id: UUID,
    *reported: ReportedSnapshot,
    is_complete: bool = False,
) -> Any:
    repository_id = (await operator.get(f"/v1/jobs/{job_id}")).json()["repository_id"]
    [receipt] = await agent.send(
        SnapshotsReport(
            repository_id=UUID(repository_id),
            job_id=job_id,
            snapshots=reported,
            is_complete=is_complete,
        )
    )
    return receipt


async def listed(operator: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await operator.get("/v1/snapshots", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_snapshot_of_a_backup_is_shown_with_its_host_and_job(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent, kind="backup")
    seen = snapshot(A, username="root", tags=("home",), tree="e" * 64, program_version="restic 1")

    assert (await report(operator, agent, job_id, seen)).status == "ok"

    [shown] = await listed(operator)
    repository_id = (await operator.get("/v1/repositories/nas")).json()["id"]
    assert shown == {
        "id": A,
        "short_id": "aaaaaaaa",
        "repository_id": repository_id,
        "repository": "nas",
        "time": "2026-11-23T12:00:00Z",
        "hostname": "web1",
        "paths": ["/etc"],
        "username": "root",
        "tags": ["home"],
        "tree": "e" * 64,
        "parent": None,
        "original": None,
        "program_version": "restic 1",
        "host_id": str(agent.host_id),
        "job_id": str(job_id),
        "reported_at": "2026-11-23T12:00:00Z",
        # Until its job names it at its end.
        "doubt": "no job of Backhaul has reported it",
    }


@pytest.mark.parametrize("told", [A, A[:8]], ids=["whole", "short"])
async def test_listing_finds_the_backup_that_made_a_snapshot(
    operator: httpx.AsyncClient, agent: FakeAgent, told: str
) -> None:
    backup = await start(operator, agent, kind="backup")
    await finish(agent, backup, snapshot_id=told)
    listing = await start(operator, agent, kind="snapshots")

    await report(operator, agent, listing, snapshot(A), snapshot(B), is_complete=True)

    makers = {item["id"]: (item["job_id"], item["host_id"]) for item in await listed(operator)}
    assert makers == {A: (str(backup), str(agent.host_id)), B: (None, None)}


async def test_maker_once_known_stays(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    other = await add_agent(services, app, name="web2")
    await other.say_hello()
    listing = await start(operator, other, kind="snapshots")
    backup = await start(operator, agent, kind="backup")

    await report(operator, other, listing, snapshot(A), is_complete=True)
    unknown = (await listed(operator))[0]["job_id"]
    await report(operator, agent, backup, snapshot(A))
    await report(operator, other, listing, snapshot(A, tags=("new",)), is_complete=True)

    [shown] = await listed(operator)
    assert unknown is None
    assert (shown["job_id"], shown["host_id"]) == (str(backup), str(agent.host_id))
    assert shown["tags"] == ["new"]


async def test_complete_report_forgets_what_it_does_not_name(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    await add_repository(operator, name="cloud")
    for repository, id_ in (("nas", A), ("nas", B), ("cloud", C)):
        backup = await start(operator, agent, kind="backup", repository=repository)
        await report(operator, agent, backup, snapshot(id_))
    clock.advance(60)
    listing = await start(operator, agent, kind="snapshots")

    await report(operator, agent, listing, snapshot(B))
    partly = {item["id"] for item in await listed(operator)}
    clock.advance(60)
    await report(operator, agent, listing, is_complete=True)

    assert partly == {A, B, C}
    assert {item["id"] for item in await listed(operator)} == {B, C}


async def test_snapshot_made_while_the_listing_ran_is_kept(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    listing = await start(operator, agent, kind="snapshots")
    clock.advance(5)
    backup = await start(operator, agent, kind="backup")
    await report(operator, agent, backup, snapshot(A))
    clock.advance(5)

    await report(operator, agent, listing, snapshot(B), is_complete=True)

    assert {item["id"] for item in await listed(operator)} == {A, B}


async def test_report_that_comes_after_the_end_changes_nothing(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    listing = await start(operator, agent, kind="snapshots")
    await report(operator, agent, listing, snapshot(A), is_complete=True)
    await finish(agent, listing)
    clock.advance(60)
    newer = await start(operator, agent, kind="snapshots")
    await report(operator, agent, newer, snapshot(B), is_complete=True)

    repeated = await report(operator, agent, listing, snapshot(A), is_complete=True)

    assert repeated.status == "duplicate"
    assert [item["id"] for item in await listed(operator)] == [B]


async def test_report_is_taken_only_from_the_jobs_own_host_and_for_its_repository(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    stranger = await add_agent(services, app, name="web2")
    job_id = await start(operator, agent, kind="snapshots")
    elsewhere = SnapshotsReport(repository_id=uuid4(), job_id=job_id, snapshots=())

    foreign = await report(operator, stranger, job_id, snapshot(A))
    [other] = await agent.send(elsewhere)

    receipt: Any
    for receipt in (foreign, other):
        assert receipt.problem.type == ProblemType.NOT_FOUND
    assert await listed(operator) == []


async def test_report_of_a_job_that_has_not_begun_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator, kind="snapshots")

    receipt = await report(operator, agent, job_id, snapshot(A))

    assert receipt.problem.type == ProblemType.CONFLICT


async def test_id_that_is_not_one_of_restic_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent, kind="snapshots")

    receipt = await report(operator, agent, job_id, snapshot(A), snapshot("latest"))

    assert [error.field for error in receipt.problem.errors] == ["snapshots[1].id"]
    assert await listed(operator) == []


async def test_list_is_newest_first_in_pages(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await start(operator, agent, kind="snapshots")
    # Two of the same second, as two hosts make them.
    times = {A: START, B: START + timedelta(hours=1), C: START, "d" * 64: START - timedelta(days=9)}
    await report(
        operator, agent, job_id, *(snapshot(id_, time=time) for id_, time in times.items())
    )
    seen: list[str] = []
    cursor: str | None = None

    for _ in range(4):
        query = {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        page = (await operator.get("/v1/snapshots", params=query)).json()
        seen += [item["short_id"][0] for item in page["items"]]
        cursor = page["next_cursor"]

    assert seen == ["b", "c", "a", "d"]
    assert cursor is None


async def test_foreign_cursor_is_refused(operator: httpx.AsyncClient) -> None:
    for time in ("0001-01-01T00:00:00+14:00", "2026-11-23T12:00:00"):
        cursor = encode_cursor(time, A, uuid4())

        answer = await operator.get("/v1/snapshots", params={"cursor": cursor})

        assert answer.status_code == 422


async def test_list_filters_by_repository_and_host(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await add_repository(operator, name="cloud")
    backup = await start(operator, agent, kind="backup")
    listing = await start(operator, agent, kind="snapshots", repository="cloud")
    await report(operator, agent, backup, snapshot(A))
    await report(operator, agent, listing, snapshot(B))

    async def ids(**query: str) -> list[str]:
        return [item["id"] for item in await listed(operator, **query)]

    assert await ids(repository="nas") == [A]
    assert await ids(repository="cloud") == [B]
    assert await ids(host="web1") == [A]
    assert await ids(host=str(agent.host_id), repository="cloud") == []
    assert (await operator.get("/v1/snapshots", params={"host": "nobody"})).status_code == 404


async def test_many_snapshots_in_one_report(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await start(operator, agent, kind="snapshots")
    many = [snapshot(f"{number:064x}", time=START) for number in range(2500)]

    receipt = await report(operator, agent, job_id, *many, many[0], is_complete=True)

    assert receipt.status == "ok"
    assert len(await listed(operator, limit=1000)) == 1000


async def test_two_hosts_report_the_same_snapshots_at_once(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    other = await add_agent(services, app, name="web2")
    jobs = [
        await start(operator, agent, kind="snapshots"),
        await start(operator, other, kind="snapshots"),
    ]
    ids = [snapshot(f"{number:064x}") for number in range(200)]

    receipts = await asyncio.gather(
        report(operator, agent, jobs[0], *ids, is_complete=True),
        report(operator, other, jobs[1], *reversed(ids), is_complete=True),
    )

    assert [receipt.status for receipt in receipts] == ["ok", "ok"]
    assert len(await listed(operator, limit=1000)) == 200
