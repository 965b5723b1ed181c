"""Checks that read the data part by part, and how much of it they have read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa

from backhaul.wire.agents import ReceiptStatus
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import ScheduleFire
from backhaul_api.db import migrate
from backhaul_api.db.engine import Database
from backhaul_api.repositories import checks, store
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_job, add_repository, add_schedule


async def end(agent: FakeAgent, job_id: UUID, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    await agent.accept(job_id)
    is_failed = outcome is Outcome.FAILED
    finished = JobFinished(
        job_id=job_id,
        attempt=1,
        at=START,
        outcome=outcome,
        log_lines=0,
        failure_class=FailureClass.DAMAGED if is_failed else None,
    )
    await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
    assert (await agent.send(finished))[0].status is ReceiptStatus.OK


async def read_part(operator: httpx.AsyncClient, job_id: UUID) -> str:
    part: str = (await operator.get(f"/v1/jobs/{job_id}")).json()["arguments"]["read_data_subset"]
    return part


async def read_coverage(operator: httpx.AsyncClient) -> float:
    [listed] = (await operator.get("/v1/repositories")).json()["items"]
    shown = (await operator.get("/v1/repositories/nas")).json()
    assert listed == shown
    coverage: float = shown["read_coverage"]
    return coverage


async def test_each_check_reads_the_part_after_the_last_that_was_read(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    parts = []
    for outcome in (
        *(Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED),
        *(Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.SUCCEEDED),
    ):
        job_id = await add_job(operator, kind="check", read_data_parts=3)
        parts.append(await read_part(operator, job_id))
        await end(agent, job_id, outcome)

    assert parts == ["1/3", "2/3", "2/3", "2/3", "3/3", "1/3"]
    assert await read_coverage(operator) == 1.0


async def test_fires_go_on_where_operators_stopped_each_for_its_own_parts(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    for part in ("02/4", "1/8", "3.5%"):
        await end(agent, await add_job(operator, kind="check", read_data_subset=part))
    options = {"kind": "check", "read_data_parts": 4}
    schedule = await add_schedule(operator, kind="check", options=options)

    fire = ScheduleFire(schedule_id=UUID(schedule["id"]), scheduled_at=START, fired_at=START)
    [receipt] = await agent.send(fire)

    assert receipt.job_id is not None
    assert await read_part(operator, receipt.job_id) == "3/4"


async def test_coverage_is_that_of_the_last_thirty_days_and_of_one_repository(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    await end(agent, await add_job(operator, kind="check", read_data_subset="1/2"))
    await end(agent, await add_job(operator, kind="check"))
    half = await read_coverage(operator)
    await add_repository(operator, name="cloud")

    covered = []
    async with services.database.reading() as connection:
        both = await store.fetch_page(connection, limit=9, after=None)
        for days in (30, 31):
            later = await checks.note_coverage(connection, both, now=START + timedelta(days=days))
            covered.append({one.name: one.read_coverage for one in later})

    assert half == 0.5
    assert covered == [{"cloud": 0.0, "nas": 0.5}, {"cloud": 0.0, "nas": 0.0}]


async def test_part_and_parts_are_one_too_many(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    body = {"kind": "check", "host": "web1", "repository": "nas", "read_data_parts": 3}

    answers = [
        await operator.post("/v1/jobs", json={**body, **more})
        for more in ({"read_data_subset": "1/3"}, {"read_data_parts": 0})
    ]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert [a.json()["errors"][0]["field"] for a in answers] == ["read_data_parts"] * 2


@pytest.fixture
async def new_database(empty_database_url: str) -> AsyncIterator[Database]:
    """Give one of which the planner knows nothing: one that was emptied has statistics."""
    await migrate.upgrade(empty_database_url)
    database = Database(empty_database_url)
    yield database
    await database.close()


async def test_queries_use_the_index_of_ends(new_database: Database) -> None:
    queries: list[sa.Select[Any]] = [
        checks.build_last_query(uuid4(), parts=7),
        checks.build_reads_query([uuid4(), uuid4()], now=START),
    ]
    async with new_database.reading() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        if not is_sqlite:
            # An empty table is scanned whatever there is.
            await connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        for query in queries:
            compiled = query.compile(
                dialect=connection.dialect, compile_kwargs={"literal_binds": True}
            )
            explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
            plan = await connection.exec_driver_sql(f"{explain} {compiled}")
            text = " ".join(str(row) for row in plan)
            assert "ix_jobs_ended" in text, text
