"""The logs of jobs that ended long ago: deleted where the settings say so, and nothing else is."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
import sqlalchemy as sa
import uuid_utils.compat
from litestar import Litestar

from backhaul.wire.agents import HeldJob, ReceiptStatus
from backhaul.wire.jobs import LogLine, Outcome
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul_api import ids
from backhaul_api.app import create_app
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import job_log, jobs
from backhaul_api.jobs import old_logs
from backhaul_api.services import Services
from tests.conftest import build_client
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import FakeAgent, add_job

LIFETIME = timedelta(days=30)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def ids_of_the_clock(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ids at the time of the fake clock, as they are at that of the real one."""
    make = uuid_utils.compat.uuid7

    def make_at_clock() -> UUID:
        return make(nanoseconds=int(clock.now().timestamp() * 1e9))

    monkeypatch.setattr(uuid_utils.compat, "uuid7", make_at_clock)


@pytest.fixture
async def token(operator: httpx.AsyncClient) -> str:
    """Of an operator, and good for ever."""
    return str((await operator.post("/v1/api-tokens", json={"name": "cron"})).json()["token"])


@pytest.fixture
async def forgetful(services: Services, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """The operator, before the same server with a lifetime of logs."""
    settings = msgspec.structs.replace(services.settings, job_log_lifetime=LIFETIME.total_seconds())
    app = create_app(dataclasses.replace(services, settings=settings))
    async with build_client(app) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def logged(job_id: UUID, seq: int, count: int) -> JobLog:
    lines = tuple(LogLine(at=START, stream="stderr", text=f"line {n}") for n in range(count))
    return JobLog(job_id=job_id, attempt=1, seq=seq, lines=lines)


def finished(job_id: UUID, log_lines: int, *, at: datetime = START) -> JobFinished:
    return JobFinished(
        job_id=job_id, attempt=1, at=at, outcome=Outcome.SUCCEEDED, log_lines=log_lines
    )


async def start(operator: httpx.AsyncClient, agent: FakeAgent, *, lines: int) -> UUID:
    """Begin a job that has written so many lines."""
    job_id = await add_job(operator)
    await agent.accept(job_id)
    reports: list[Any] = [JobStarted(job_id=job_id, attempt=1, at=START)]
    await send(agent, *reports, *([logged(job_id, 0, lines)] if lines else []))
    return job_id


async def work(operator: httpx.AsyncClient, agent: FakeAgent, *, lines: int) -> UUID:
    """Let a job run to its end."""
    job_id = await start(operator, agent, lines=lines)
    await send(agent, finished(job_id, lines))
    return job_id


async def send(agent: FakeAgent, *reports: Any) -> None:
    receipts = await agent.send(*reports)
    assert {receipt.status for receipt in receipts} == {ReceiptStatus.OK}, receipts


async def tick(client: httpx.AsyncClient) -> tuple[int, bool]:
    answer = (await client.post("/v1/tick")).json()
    return answer["deleted_log_lines"], answer["has_more"]


async def count_lines(services: Services) -> int:
    async with services.database.reading() as connection:
        return await connection.scalar(sa.select(sa.func.count()).select_from(job_log)) or 0


async def test_the_log_of_a_job_is_deleted_a_lifetime_after_its_end(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    clock: FakeClock,
) -> None:
    old = await work(operator, agent, lines=3)
    silent = await work(operator, agent, lines=0)
    clock.advance(LIFETIME.total_seconds())
    assert await tick(forgetful) == (0, False)
    assert len((await forgetful.get(f"/v1/jobs/{old}/log")).json()["lines"]) == 3

    clock.advance(1)
    gone = await forgetful.get(f"/v1/jobs/{old}/log")  # whether the tick was there or not
    assert await tick(forgetful) == (3, False)
    assert await tick(forgetful) == (0, False)

    assert (gone.status_code, gone.json()["type"]) == (410, ProblemType.LOG_DELETED)
    assert "job_log_lifetime" in gone.json()["detail"]
    assert (await forgetful.get(f"/v1/jobs/{old}/log")).json()["type"] == gone.json()["type"]
    assert await count_lines(services) == 0
    job = (await forgetful.get(f"/v1/jobs/{old}")).json()
    assert (job["state"], job["log_lines"]) == ("succeeded", 3)
    nothing = (await forgetful.get(f"/v1/jobs/{silent}/log")).json()
    assert (nothing["lines"], nothing["is_complete"]) == ([], True)


async def test_what_a_longer_lifetime_comes_too_late_for_is_said_to_be_deleted(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    app: Litestar,
    token: str,
    clock: FakeClock,
) -> None:
    old = await work(operator, agent, lines=3)
    clock.advance(LIFETIME.total_seconds() + 1)
    await tick(forgetful)

    async with build_client(app) as client:  # keeps them for ever
        client.headers["Authorization"] = f"Bearer {token}"
        answers = [
            await client.get(f"/v1/jobs/{old}/log", params=query) for query in ({}, {"tail": 2})
        ]
        end = await client.get(f"/v1/jobs/{old}/log", params={"tail": 0})

    assert [answer.json()["type"] for answer in answers] == [ProblemType.LOG_DELETED] * 2
    assert end.json()["lines"] == []


async def test_without_a_lifetime_nothing_is_deleted(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    app: Litestar,
    services: Services,
    token: str,
    clock: FakeClock,
) -> None:
    await work(operator, agent, lines=3)
    clock.advance(days=3650)

    async with build_client(app) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        assert await tick(client) == (0, False)

    assert await count_lines(services) == 3


async def test_a_job_that_runs_for_longer_than_a_lifetime_keeps_its_log(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    clock: FakeClock,
) -> None:
    running = await start(operator, agent, lines=2)
    over = await work(operator, agent, lines=1)
    clock.advance(LIFETIME.total_seconds() + 1)
    await agent.poll()  # its host is there, so it is not lost

    assert await tick(forgetful) == (1, False)

    await send(agent, logged(running, 2, 1), finished(running, 3, at=clock.now()))
    lines = (await forgetful.get(f"/v1/jobs/{running}/log")).json()["lines"]
    assert [line["seq"] for line in lines] == [0, 1, 2]
    assert (await forgetful.get(f"/v1/jobs/{over}/log")).status_code == 410


async def test_a_job_that_counted_as_lost_goes_on_with_its_next_line(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    clock: FakeClock,
) -> None:
    lost = await start(operator, agent, lines=2)
    clock.advance(days=1)
    assert (await forgetful.post("/v1/tick")).json()["lost_jobs"] == 1
    clock.advance(LIFETIME.total_seconds() + 1)
    assert await tick(forgetful) == (2, False)

    await agent.poll(jobs=(HeldJob(job_id=lost, state="running"),))
    between = (await forgetful.get(f"/v1/jobs/{lost}/log")).json()
    assert (between["lines"], between["state"], between["is_complete"]) == ([], "running", False)
    await send(agent, logged(lost, 2, 1))

    back = (await forgetful.get(f"/v1/jobs/{lost}")).json()
    assert (back["state"], back["finished_at"], back["log_lines"]) == ("running", None, 3)
    lines = (await forgetful.get(f"/v1/jobs/{lost}/log")).json()["lines"]
    assert [line["seq"] for line in lines] == [2]


async def test_one_tick_deletes_a_bounded_part_and_the_oldest_first(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(old_logs, "MAX_LINES", 4)
    first = await work(operator, agent, lines=3)
    clock.advance(1)
    second = await work(operator, agent, lines=2)
    clock.advance(LIFETIME.total_seconds() + 1)

    assert await tick(forgetful) == (3, True)
    async with services.database.reading() as connection:
        left = set(await connection.scalars(sa.select(job_log.c.job_id)))
    assert first not in left
    assert left == {second}
    assert await tick(forgetful) == (2, False)


async def test_several_ticks_at_once_delete_each_log_once(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    for _ in range(4):
        await work(operator, agent, lines=50)
    limit = clock.advance(LIFETIME.total_seconds()) - timedelta(seconds=1)
    twin = Database(services.settings.effective_database_url)

    async def delete_all(database: Database) -> int:
        lines, has_more = 0, True
        while has_more:
            async with database.writing() as connection:
                some = await old_logs.delete(connection, ended_before=limit)
            lines, has_more = lines + some.lines, some.has_more
        return lines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(old_logs, "MAX_LINES", 60)
        deleted = await asyncio.gather(*map(delete_all, [services.database, twin] * 3))
    left = await count_lines(services)
    deleted.append(await delete_all(twin))  # what the others had when it looked
    await twin.close()

    assert sum(deleted) == 200
    assert left in {0, 50, 100, 150}
    assert await count_lines(services) == 0


async def test_log_that_a_host_tells_of_late_is_kept_from_then_on(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    clock: FakeClock,
) -> None:
    late = await start(operator, agent, lines=1)
    clock.advance(2 * LIFETIME.total_seconds())
    await send(agent, logged(late, 1, 1), finished(late, 2, at=START))

    assert await tick(forgetful) == (0, False)
    assert len((await forgetful.get(f"/v1/jobs/{late}/log")).json()["lines"]) == 2

    clock.advance(LIFETIME.total_seconds() + 1)
    assert (await forgetful.get(f"/v1/jobs/{late}/log")).status_code == 410
    assert await tick(forgetful) == (2, False)


async def test_a_reader_at_the_end_of_a_log_learns_that_it_is_complete(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    clock: FakeClock,
) -> None:
    job_id = await work(operator, agent, lines=2)
    read = (await forgetful.get(f"/v1/jobs/{job_id}/log")).json()
    clock.advance(LIFETIME.total_seconds() + 1)

    at_end = await forgetful.get(f"/v1/jobs/{job_id}/log", params={"cursor": read["next_cursor"]})

    assert (at_end.json()["lines"], at_end.json()["is_complete"]) == ([], True)


async def test_the_logs_of_all_attempts_go(
    operator: httpx.AsyncClient,
    forgetful: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    clock: FakeClock,
) -> None:
    job_id = await work(operator, agent, lines=2)
    async with services.database.writing() as connection:
        # As if a second attempt had not got so far as to write anything.
        await connection.execute(sa.update(jobs).values(attempt=2, log_lines=0))
    assert len((await forgetful.get(f"/v1/jobs/{job_id}/log")).json()["lines"]) == 2
    clock.advance(LIFETIME.total_seconds() + 1)

    assert (await forgetful.get(f"/v1/jobs/{job_id}/log")).status_code == 410
    assert await tick(forgetful) == (2, False)


@pytest.mark.parametrize("at", [START, START.replace(microsecond=999_999), EPOCH], ids=str)
def test_first_id_at_a_moment_parts_the_ids_before_from_those_after(at: datetime) -> None:
    moment = at + timedelta(milliseconds=1)
    before, after = (
        UUID(int=int(one.timestamp() * 1000) << 80 | 7 << 76 | rest)
        for one, rest in ((at, (1 << 76) - 1), (moment, 0))
    )

    assert before < ids.first_id_at(moment) <= after


def test_a_lifetime_may_reach_back_to_before_computers() -> None:
    assert ids.first_id_at(EPOCH - timedelta(days=3650)) == ids.first_id_at(EPOCH)
