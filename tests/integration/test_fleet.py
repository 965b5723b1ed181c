"""The objects of a fleet against the real API: both twins, over a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from litestar import Litestar

from backhaul import AsyncClient, AsyncFleet, Client, Fleet
from backhaul.errors import InvalidRequestError, JobFailedError, PreconditionFailedError
from backhaul.wire.fleet import HostState
from backhaul.wire.jobs import LogLine, Outcome
from backhaul.wire.kinds import BackupResult, RestoreArguments
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul_api.hosts.presence import OFFLINE_AFTER
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import FakeAgent, add_agent
from tests.fakes.served import serve


@pytest.fixture
async def agent(services: Services, app: Litestar) -> FakeAgent:
    """A host `web1` whose agent has said hello."""
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent


@pytest.fixture
async def fleet(app: Litestar, operator: httpx.AsyncClient) -> AsyncIterator[AsyncFleet]:
    token = operator.headers["Authorization"].removeprefix("Bearer ")
    async with serve(app) as port, AsyncFleet(_build(AsyncClient, port, token)) as fleet:
        yield fleet


def _build(kind: type[AsyncClient] | type[Client], port: int, token: str) -> AsyncClient:
    return kind(f"http://127.0.0.1:{port}", token=token)  # type: ignore[return-value]


def wait_for_twin(fleet: AsyncFleet) -> Fleet:
    """Build the fleet that waits, over the same server."""
    return Fleet(Client(fleet.client.url, token=fleet.client._token))


async def finish(agent: FakeAgent, job_id: object, *, outcome: Outcome, lines: int = 0) -> None:
    """Do what an agent does with a job."""
    log = tuple(LogLine(at=START, stream="stderr", text=f"line {n}") for n in range(lines))
    await agent.accept(job_id)  # type: ignore[arg-type]
    await agent.send(
        JobStarted(job_id=job_id, attempt=1, at=START),  # type: ignore[arg-type]
        *([JobLog(job_id=job_id, attempt=1, seq=0, lines=log)] if lines else []),  # type: ignore[arg-type]
        JobFinished(
            job_id=job_id,  # type: ignore[arg-type]
            attempt=1,
            at=START,
            outcome=outcome,
            log_lines=lines,
            message=None if outcome is Outcome.SUCCEEDED else "restic exited with 1",
            result=BackupResult(snapshot_id="0123abcd", data_added=4096)
            if outcome is Outcome.SUCCEEDED
            else None,
        ),
    )


async def test_operator_makes_a_fleet_and_backs_it_up(fleet: AsyncFleet, agent: FakeAgent) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    source = await fleet.sources.create("etc", ["/etc"], retention={"keep_daily": 7})
    host = await fleet.hosts["web1"]

    schedule = await host.schedules.create(
        cron="0 2 * * *", source="etc", timezone="Europe/London", jitter=60
    )
    job = await host.backup(source="etc")
    waiting = asyncio.create_task(job.wait(timeout=20, raise_on_failure=True))
    await asyncio.sleep(0)
    await finish(agent, job.id, outcome=Outcome.SUCCEEDED)
    await waiting

    assert (job.state, job.is_over) == ("succeeded", True)
    assert job.summary == (
        "backup of web1: succeeded in 0.0 s (0 files, 0 B, 4.0 KiB added, snapshot 0123abcd)"
    )
    await host.refresh()
    assert (host.state, host.last_backup_at) == ("online", START)
    assert host.next_fire_at == schedule.next_fire_at
    assert [one.id async for one in host.schedules] == [schedule.id]
    assert source.data.retention is not None


async def test_twin_that_waits_does_the_same(fleet: AsyncFleet, agent: FakeAgent) -> None:
    def work() -> tuple[str, list[str], int, bool]:
        with wait_for_twin(fleet) as twin:
            twin.repositories.create("nas", "/srv/restic", password="a password of its own")
            job = twin.hosts["web1"].backup(["/etc"])
            kinds = [str(one.kind) for one in twin.hosts["web1"].jobs]
            html = twin.jobs._repr_html_()
            return job.state, kinds, len(twin.jobs.to_pandas()), "○" in html

    assert await asyncio.to_thread(work) == ("queued", ["backup"], 1, True)


async def test_follower_has_each_event_within_a_second(fleet: AsyncFleet, agent: FakeAgent) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    coming = fleet.events(follow=True, host="web1")
    waiting = asyncio.create_task(coming.to_list(1))
    await asyncio.sleep(0.2)  # until the request is held

    began = time.monotonic()
    job = await (await fleet.hosts["web1"]).backup(["/etc"])
    (event,) = await waiting

    assert time.monotonic() - began < 1
    assert (event.kind, event.job_id, event.job_kind) == ("job.queued", job.id, "backup")
    newest = await fleet.events.to_list()
    assert [one.kind for one in newest][-2:] == ["repository.create", "job.queued"]
    assert [one.action for one in await fleet.audit.list(since="1h").to_list()] == []


async def test_operators_are_managed_as_objects(fleet: AsyncFleet) -> None:
    bob = await fleet.users.create("bob", "a password of his own")

    await bob.disable()
    disabled_at = (await fleet.users["bob"]).disabled_at
    await (await bob.enable()).set_password("another password of his")

    assert disabled_at is not None
    assert (await bob.refresh()).disabled_at is None
    assert [one.username for one in await fleet.users.to_list()] == ["ada", "bob"]
    await bob.remove()
    assert not await fleet.users.exists("bob")


async def test_failure_is_raised_with_the_end_of_the_log(
    fleet: AsyncFleet, agent: FakeAgent
) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    job = await (await fleet.hosts["web1"]).backup(["/etc"])
    await finish(agent, job.id, outcome=Outcome.FAILED, lines=3)

    with pytest.raises(JobFailedError) as caught:
        await job.wait(raise_on_failure=True)

    assert caught.value.last_lines == ("line 0", "line 1", "line 2")


async def test_wait_ends_within_a_second_of_the_job_and_asks_twice(
    fleet: AsyncFleet, agent: FakeAgent, services: Services
) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    job = await (await fleet.hosts["web1"]).backup(["/etc"])
    asked: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        asked.append(request)

    fleet.client._http.event_hooks["request"].append(note)
    waiting = asyncio.create_task(job.wait())
    async with asyncio.timeout(20):
        while not services.wakeups.waiting:
            await asyncio.sleep(0.01)
    await finish(agent, job.id, outcome=Outcome.SUCCEEDED)
    ended = time.monotonic()

    await waiting

    assert time.monotonic() - ended < 1
    # One to see how it stands, one that is held; each change that it goes through wakes one more.
    assert len(asked) <= 5


async def test_schedule_is_changed_unless_somebody_else_was_first(
    fleet: AsyncFleet, agent: FakeAgent
) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    await fleet.sources.create("etc", ["/etc"])
    mine = await fleet.schedules.create("0 2 * * *", source="etc", host="web1")
    theirs = await fleet.schedules[mine.id]

    await theirs.disable()
    with pytest.raises(PreconditionFailedError):
        await mine.update(cron="0 3 * * *")
    await mine.refresh()
    await mine.update(cron="0 3 * * *")

    assert (mine.enabled, mine.cron) == (False, "0 3 * * *")
    assert [fire.at for fire in (await mine.preview(count=1)).fires] == [
        "2026-11-24T03:00:00+00:00"
    ]
    await mine.delete()
    assert await fleet.schedules.first() is None


async def test_restore_goes_to_the_host_that_is_named(fleet: AsyncFleet, agent: FakeAgent) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    host = await fleet.hosts["web1"]

    job = await host.run("restore", snapshot="latest", target="/restore", include=["/etc/hosts"])

    assert job.arguments == RestoreArguments(
        snapshot="latest", target="/restore", include=("/etc/hosts",)
    )


async def test_repository_must_be_named_when_there_are_several(
    fleet: AsyncFleet, agent: FakeAgent
) -> None:
    host = await fleet.hosts["web1"]
    for name in ("nas", "cloud"):
        await fleet.repositories.create(name, f"/srv/{name}", password="a password of its own")

    with pytest.raises(InvalidRequestError, match="repository: name one of cloud, nas"):
        await host.backup(["/etc"])
    with pytest.raises(InvalidRequestError, match="host"):
        await fleet.schedules.create("0 2 * * *", kind="check", repository="nas")


async def test_jobs_are_found_by_when_they_were_made_and_how_they_ended(
    fleet: AsyncFleet, agent: FakeAgent, clock: FakeClock
) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    host = await fleet.hosts["web1"]
    old = await host.run("check")
    clock.advance(hours=4)
    new = await host.run("prune")

    async def find(**filters: object) -> list[object]:
        return [job.id async for job in fleet.jobs.list(**filters)]  # type: ignore[arg-type]

    later = timedelta(hours=2)
    assert await find(since=START + later) == [new.id]
    assert await find(until=START + later) == [old.id]
    assert await find(since=START, until=START + later) == [old.id]
    assert await find(state=["queued", "failed"], kind="check") == [old.id]
    assert await find(state="failed") == []
    with pytest.raises(InvalidRequestError, match="state"):
        await find(state="sleeping")


async def test_hosts_are_found_by_state_and_labels(
    fleet: AsyncFleet, agent: FakeAgent, services: Services, app: Litestar, clock: FakeClock
) -> None:
    await add_agent(services, app, name="never")
    host = await fleet.hosts["web1"]
    await host.update(labels={"env": "prod"})
    await agent.poll()

    async def find(**filters: object) -> list[tuple[str, str]]:
        hosts = fleet.hosts.list(**filters)  # type: ignore[arg-type]
        return [(one.name, one.state) async for one in hosts]

    assert await find(state=HostState.ONLINE) == [("web1", "online")]
    assert await find(labels={"env": "prod"}) == [("web1", "online")]
    assert await find(labels={"env": "test"}) == []
    assert await find(state="never_seen") == [("never", "never_seen")]
    clock.advance(OFFLINE_AFTER.total_seconds())
    assert await find(state="offline") == [("web1", "offline")]
    assert await find(state="online") == []


async def test_last_backup_is_the_newest_good_one_whatever_comes_late(
    fleet: AsyncFleet, agent: FakeAgent, services: Services
) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    host = await fleet.hosts["web1"]
    good, bad = await host.backup(["/etc"]), await host.backup(["/etc"])

    await finish(agent, bad.id, outcome=Outcome.FAILED)
    assert (await host.refresh()).last_backup_at is None
    await finish(agent, good.id, outcome=Outcome.SUCCEEDED)

    assert (await host.refresh()).last_backup_at == START


async def test_dry_run_is_no_backup(fleet: AsyncFleet, agent: FakeAgent) -> None:
    await fleet.repositories.create("nas", "/srv/restic", password="a password of its own")
    host = await fleet.hosts["web1"]
    trial = await host.backup(["/etc"], dry_run=True)

    await finish(agent, trial.id, outcome=Outcome.SUCCEEDED)

    assert (await trial.refresh()).state == "succeeded"
    assert (await host.refresh()).last_backup_at is None


async def test_tokens_and_audit(fleet: AsyncFleet) -> None:
    made = await fleet.enrollment_tokens.create(labels={"env": "prod"}, uses=3, expires_in="2h")
    script = await fleet.api_tokens.create("ci", expires_in=timedelta(days=1))

    (listed,) = await fleet.enrollment_tokens.to_list()
    (token,) = await fleet.api_tokens.to_list()

    assert (listed.uses_left, listed.labels) == (3, {"env": "prod"})
    for secret in (made.token, script.token):
        assert secret not in repr(made) + repr(script) + repr(listed) + listed._repr_html_()
    await token.revoke()
    await listed.revoke()
    actions = [entry.action async for entry in fleet.audit]
    assert {"enrollment_token.create", "api_token.create"} <= set(actions)


async def test_pictures_are_drawn_of_what_the_server_says(
    fleet: AsyncFleet, agent: FakeAgent
) -> None:
    repository = await fleet.repositories.create("nas", "/srv", password="a password of its own")
    await fleet.sources.create("etc", ["/etc"])
    host = await fleet.hosts["web1"]
    await host.schedules.create("0 * * * *", source="etc")
    job = await host.backup(source="etc")
    await finish(agent, job.id, outcome=Outcome.SUCCEEDED)

    drawn = [
        await fleet.timeline(since=START - timedelta(days=1)),
        await fleet.calendar(),
        await fleet.upcoming(days=1),
        await fleet.compliance(rpo="24h"),
        await repository.growth(),
    ]

    for chart in drawn:
        assert chart.to_dict()["title"]["subtitle"] == []
