"""The SDK against the real API, each answer through the real wire structs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
from litestar import Litestar

import backhaul
from backhaul import AsyncClient
from backhaul.aio.fleet import AsyncFleet
from backhaul.errors import (
    ConflictError,
    InvalidRequestError,
    JobNotFinishedError,
    NotAuthenticatedError,
    NotFoundError,
    PreconditionFailedError,
)
from backhaul.wire.jobs import Job, JobState, LogLine, Outcome, Progress
from backhaul.wire.kinds import BackupRequest, BackupResult, InitRequest
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul.wire.ticks import Tick
from backhaul.wire.tokens import TokenKind, build_token
from backhaul_api.services import Services
from tests.conftest import ADA_PASSWORD
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_agent


def _connect(app: Litestar, token: str | None) -> AsyncClient:
    transport = httpx.ASGITransport(app=cast("Any", app))
    return AsyncClient("http://api", token=token, transport=transport)


@pytest.fixture
async def client(app: Litestar, operator: httpx.AsyncClient) -> AsyncIterator[AsyncClient]:
    """The SDK, signed in as ada."""
    token = operator.headers["Authorization"].removeprefix("Bearer ")
    async with _connect(app, token) as client:
        yield client


async def _run_on(agent: FakeAgent, job_id: UUID) -> None:
    """Do what an agent does with a backup."""
    lines = tuple(LogLine(at=START, stream="stdout", text=text) for text in ("one", "two"))
    await agent.accept(job_id)
    await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
    await agent.send(
        JobProgress(job_id=job_id, attempt=1, at=START, progress=Progress(percent_done=0.5)),
        JobLog(job_id=job_id, attempt=1, seq=0, lines=lines),
    )
    await agent.send(
        JobFinished(
            job_id=job_id,
            attempt=1,
            at=START,
            outcome=Outcome.SUCCEEDED,
            log_lines=2,
            exit_code=0,
            result=BackupResult(snapshot_id="0123abcd", total_files_processed=7),
        )
    )


async def test_health_needs_no_token(app: Litestar) -> None:
    async with _connect(app, None) as client:
        assert (await client.get_health()).version == backhaul.__version__


async def test_signing_in_and_out(app: Litestar, operator: httpx.AsyncClient) -> None:
    async with _connect(app, None) as client:
        with pytest.raises(NotAuthenticatedError, match="wrong"):
            await client.log_in(username="ada", password="not her password")
        await client.log_in(username="ada", password=ADA_PASSWORD)
        assert (await client.get_me()).user.username == "ada"

        await client.log_out()
        with pytest.raises(NotAuthenticatedError):
            await client.get_me()


async def test_second_bootstrap_is_a_conflict(app: Litestar, operator: httpx.AsyncClient) -> None:
    async with _connect(app, None) as client:
        with pytest.raises(ConflictError):
            await client.bootstrap(
                setup_token=build_token(TokenKind.SETUP), username="eve", password=ADA_PASSWORD
            )


async def test_api_token_signs_in_until_it_is_revoked(app: Litestar, client: AsyncClient) -> None:
    made = await client.create_api_token(backhaul.CreateApiToken(name="ci"))

    async with _connect(app, made.token) as script:
        assert (await script.get_me()).authenticated_by == "api_token"
        assert [token.name async for token in client.list_api_tokens()] == ["ci"]
        await client.revoke_api_token(made.api_token.id)
        with pytest.raises(NotAuthenticatedError):
            await script.get_me()


async def test_enrollment_tokens_are_made_listed_and_revoked(client: AsyncClient) -> None:
    made = await client.create_enrollment_token()

    found = [token async for token in client.list_enrollment_tokens()]

    assert [token.id for token in found] == [made.enrollment_token.id]
    await client.revoke_enrollment_token(made.enrollment_token.id)


async def test_hosts_are_renamed_labelled_and_removed(
    client: AsyncClient, agent: FakeAgent
) -> None:
    renamed = await client.update_host(
        "web1", backhaul.UpdateHost(name="web-1", labels={"env": "prod"})
    )

    assert (renamed.id, renamed.name, renamed.labels) == (agent.host_id, "web-1", {"env": "prod"})
    assert [host.name async for host in client.list_hosts()] == ["web-1"]
    await client.remove_host(agent.host_id)
    assert [host async for host in client.list_hosts()] == []


async def test_repositories_and_sources_live_and_end(client: AsyncClient) -> None:
    request = backhaul.CreateRepository(name="nas", location="/srv/restic", password="secret word")
    repository = await client.create_repository(request)
    await client.update_repository(repository.id, backhaul.UpdateRepository(name="nas-2"))
    source = await client.create_source(backhaul.CreateSource(name="etc", paths=("/etc",)))
    await client.update_source("etc", backhaul.UpdateSource(excludes=("*.bak",)))

    assert (await client.get_repository("nas-2")).id == repository.id
    assert (await client.get_source(source.id)).excludes == ("*.bak",)
    await client.remove_source("etc")
    await client.remove_repository("nas-2")
    assert [found async for found in client.list_repositories()] == []
    actions = [entry.action async for entry in client.list_audit_entries(limit=2)]
    assert actions == ["repository.delete", "source.delete"]


async def test_schedules_live_change_and_end(client: AsyncClient, agent: FakeAgent) -> None:
    await client.create_source(backhaul.CreateSource(name="etc", paths=("/etc",)))
    request = backhaul.CreateSchedule(
        kind=backhaul.ScheduleKind.BACKUP,
        cron="30 1 * * *",
        timezone="Europe/London",
        repository="nas",
        source="etc",
    )

    made = await client.create_schedule("web1", request)
    changed = await client.update_schedule(
        made.id, backhaul.UpdateSchedule(enabled=False), if_revision=made.revision
    )

    assert (made.host_id, made.enabled, made.when_unreachable) == (agent.host_id, True, "run")
    assert (changed.enabled, changed.next_fire_at) == (False, None)
    assert await client.get_schedule(made.id) == changed
    assert [found.id async for found in client.list_schedules()] == [made.id]
    assert [found.id async for found in client.list_schedules(host="web1")] == [made.id]
    assert [job async for job in client.list_jobs(schedule=made.id)] == []
    await client.delete_schedule(made.id, if_revision=changed.revision)
    assert [found async for found in client.list_schedules()] == []
    with pytest.raises(NotFoundError):
        await client.get_schedule(made.id)


async def test_second_of_two_changes_of_one_revision_is_refused(
    client: AsyncClient, agent: FakeAgent
) -> None:
    request = backhaul.CreateSchedule(
        kind=backhaul.ScheduleKind.PRUNE, cron="@weekly", repository="nas"
    )
    made = await client.create_schedule(agent.host_id, request)
    await client.update_schedule(
        made.id, backhaul.UpdateSchedule(cron="@daily"), if_revision=made.revision
    )

    with pytest.raises(PreconditionFailedError):
        await client.update_schedule(
            made.id, backhaul.UpdateSchedule(cron="@hourly"), if_revision=made.revision
        )
    with pytest.raises(PreconditionFailedError):
        await client.delete_schedule(made.id, if_revision=made.revision)

    assert (await client.get_schedule(made.id)).cron == "@daily"


async def test_previews_are_exact_across_autumn(client: AsyncClient, agent: FakeAgent) -> None:
    start = datetime.fromisoformat("2026-10-24T01:30:00+01:00")
    request = backhaul.CreateSchedule(
        kind=backhaul.ScheduleKind.CHECK,
        cron="30 1 * * *",
        timezone="Europe/London",
        repository="nas",
    )
    made = await client.create_schedule("web1", request)

    of_cron = await client.preview_cron(request.cron, request.timezone, start=start, count=3)
    of_schedule = await client.preview_schedule(made.id, start=start, count=3)

    assert [fire.at for fire in of_cron.fires] == [
        "2026-10-24T01:30:00+01:00",
        "2026-10-25T01:30:00+01:00",
        "2026-10-26T01:30:00+00:00",
    ]
    assert of_schedule == of_cron
    assert len((await client.preview_schedule(made.id)).fires) == 10
    with pytest.raises(InvalidRequestError, match="never fires"):
        await client.preview_cron("0 2 30 2 *")


async def test_list_longer_than_a_page_is_read_to_its_end(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backhaul._calls.PAGE_LIMIT", 2)
    for number in range(5):
        await client.create_source(backhaul.CreateSource(name=f"s{number}", paths=("/etc",)))

    assert [source.name async for source in client.list_sources()] == [f"s{n}" for n in range(5)]


async def test_waiting_sees_each_change_and_the_end(client: AsyncClient, agent: FakeAgent) -> None:
    job = await client.create_job(BackupRequest(host="web1", repository="nas", paths=("/etc",)))

    async with asyncio.TaskGroup() as tasks:
        followed = tasks.create_task(_follow(client, job))
        read = tasks.create_task(_read_log(client, job))
        await _run_on(agent, job.id)

    assert followed.result()[-1] is JobState.SUCCEEDED
    assert read.result() == ["one", "two"]
    ended = await client.wait_for_job(job.id, raise_on_failure=True)
    assert isinstance(ended.result, BackupResult)
    assert ended.result.total_files_processed == 7


async def test_jobs_for_all_hosts_are_made_in_one_request(
    client: AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    await client.create_source(backhaul.CreateSource(name="home", paths=("/home",)))
    db1 = await add_agent(services, app, name="db1")
    fleet = AsyncFleet(client)

    ids = await fleet.hosts.run("backup", source="home")
    none = await fleet.hosts.list(labels={"site": "nowhere"}).run("backup", source="home")

    made = [await client.get_job(job_id) for job_id in ids]
    assert [job.host_id for job in made] == [db1.host_id, agent.host_id]
    assert none == ()


async def _follow(client: AsyncClient, job: Job) -> list[JobState]:
    return [changed.state async for changed in client.follow_job(job.id, timeout=20)]


async def _read_log(client: AsyncClient, job: Job) -> list[str]:
    return [line.text async for line in client.follow_job_log(job.id)]


async def test_wait_that_is_over_says_so_and_leaves_the_job(
    client: AsyncClient, agent: FakeAgent
) -> None:
    job = await client.create_job(BackupRequest(host="web1", repository="nas", paths=("/etc",)))

    with pytest.raises(JobNotFinishedError, match="still queued"):
        await client.wait_for_job(job.id, timeout=0)

    assert (await client.get_job(job.id)).state is JobState.QUEUED
    found = client.list_jobs(host="web1", repository="nas", kind="backup", states=["queued"])
    assert [listed.id async for listed in found] == [job.id]


async def test_a_tick_tells_what_it_did(client: AsyncClient, agent: FakeAgent) -> None:
    assert await client.tick() == Tick()
    assert await AsyncFleet(client).tick() == Tick()


async def test_bad_request_names_its_field(client: AsyncClient, agent: FakeAgent) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await client.create_job(BackupRequest(host="web1", repository="nas", paths=("etc",)))

    assert any("paths" in error.field for error in caught.value.errors)


async def test_unknown_things_are_not_found(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError, match="nowhere"):
        await client.create_job(InitRequest(host="nowhere", repository="nas"))
    with pytest.raises(NotFoundError, match="nowhere"):
        await client.get_host("nowhere")
    with pytest.raises(InvalidRequestError, match="neither a name nor an id"):
        await client.get_host("a/b")
