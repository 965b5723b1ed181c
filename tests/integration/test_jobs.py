"""/v1/jobs over a real database."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.commands import CommandRun
from backhaul.wire.jobs import JobEvent, JobState, Outcome
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.db.tables import hosts, job_events, jobs, repositories, snapshots
from backhaul_api.errors import IllegalJobMoveError, LostRaceError
from backhaul_api.jobs import store
from backhaul_api.jobs.targets import fetch_targets
from backhaul_api.services import Services
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository, read_commands

PLAIN_OPTIONS = {
    "exclude_files": [],
    "exclude_caches": False,
    "exclude_larger_than": None,
    "limit_upload": None,
    "limit_download": None,
    "compression": None,
    "nice": None,
    "ionice": None,
    "dump": None,
    "dry_run": False,
}


async def test_job_shows_what_was_asked_and_the_names_of_its_host_and_repository(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    body = {"kind": "backup", "host": "web1", "repository": "nas", "paths": ["/etc", "/srv"]}

    answer = await operator.post("/v1/jobs", json=body)

    assert answer.status_code == 201
    job = answer.json()
    assert (job["host"], job["repository"], job["state"]) == ("web1", "nas", "queued")
    assert job["arguments"] == {
        "kind": "backup",
        "paths": ["/etc", "/srv"],
        "excludes": [],
        "tags": [],
        "one_file_system": False,
        **PLAIN_OPTIONS,
    }
    assert (job["actor_kind"], job["attempt"], job["revision"]) == ("user", 1, 0)
    assert (await operator.get(f"/v1/jobs/{job['id']}")).json() == job


async def test_source_becomes_paths_and_its_name_the_first_tag(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    source = {
        "name": "home",
        "paths": ["/home"],
        "excludes": ["*.iso"],
        "tags": ["people"],
        "one_file_system": True,
    }
    assert (await operator.post("/v1/sources", json=source)).status_code == 201

    job_id = await add_job(operator, source="home", tags=["before-upgrade", "people"])

    assert (await operator.get(f"/v1/jobs/{job_id}")).json()["arguments"] == {
        "kind": "backup",
        "paths": ["/home"],
        "excludes": ["*.iso"],
        "tags": ["home", "people", "before-upgrade"],
        "one_file_system": True,
        **PLAIN_OPTIONS,
    }


async def test_job_adds_to_the_lists_of_its_source_and_overrides_its_figures(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    source = {
        "name": "home",
        "paths": ["/home"],
        "exclude_files": ["/etc/not-these"],
        "exclude_larger_than": "2G",
        "limit_upload": 100,
        "limit_download": 200,
        "compression": "max",
        "nice": 10,
        "ionice": "idle",
    }
    assert (await operator.post("/v1/sources", json=source)).status_code == 201

    job_id = await add_job(
        operator,
        source="home",
        exclude_files=["/etc/nor-those"],
        limit_upload=50,
        compression="off",
        nice=0,
        dry_run=True,
    )

    arguments = (await operator.get(f"/v1/jobs/{job_id}")).json()["arguments"]
    assert {name: arguments[name] for name in PLAIN_OPTIONS} == {
        "exclude_files": ["/etc/not-these", "/etc/nor-those"],
        "exclude_caches": False,
        "exclude_larger_than": "2G",
        "limit_upload": 50,
        "limit_download": 200,
        "compression": "off",
        "nice": 0,
        "ionice": "idle",
        "dump": None,
        "dry_run": True,
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "backup"}, "paths"),
        ({"kind": "backup", "paths": ["/etc"], "source": "home"}, "paths"),
        ({"kind": "backup", "paths": ["/etc/"]}, "paths[0]"),
        ({"kind": "backup", "paths": ["etc"]}, "paths[0]"),
        ({"kind": "backup", "paths": ["/etc"], "dump": "postgres"}, "paths"),
        ({"kind": "backup", "dump": "postgres", "source": "home"}, "dump"),
        ({"kind": "backup", "dump": "postgres", "excludes": ["*.tmp"]}, "excludes"),
        ({"kind": "backup", "dump": "pg_dump --all"}, "dump"),
        ({"kind": "backup", "paths": ["/etc"], "exclude_files": ["/x/"]}, "exclude_files[0]"),
        ({"kind": "backup", "paths": ["/etc"], "exclude_larger_than": "2P"}, "exclude_larger_than"),
        ({"kind": "backup", "paths": ["/etc"], "limit_upload": 0}, "limit_upload"),
        ({"kind": "backup", "paths": ["/etc"], "compression": "zstd"}, "compression"),
        ({"kind": "backup", "paths": ["/etc"], "nice": 20}, "nice"),
        ({"kind": "backup", "paths": ["/etc"], "ionice": "realtime"}, "ionice"),
        ({"kind": "restore", "snapshot": "latest", "target": "/"}, "target"),
        ({"kind": "restore", "snapshot": "latest", "target": "/tmp/../etc"}, "target"),
        ({"kind": "restore", "snapshot": "nope", "target": "/tmp/r"}, "snapshot"),
        ({"kind": "restore", "snapshot": "latest\n", "target": "/tmp/r"}, "snapshot"),
        ({"kind": "backup", "paths": ["/etc"], "path": "/srv"}, "path"),
        ({"kind": "forget"}, "source"),
        ({"kind": "forget", "source": "home"}, "source"),
        ({"kind": "prune", "source": "home"}, "source"),
        ({"kind": "check", "read_data_subset": "half"}, "read_data_subset"),
        ({"kind": "check", "read_data_subset": "1/7\n"}, "read_data_subset"),
        ({"kind": "check", "read_data_subset": "8/7"}, "read_data_subset"),
        ({"kind": "check", "read_data_subset": "0/0"}, "read_data_subset"),
        ({"kind": "check", "read_data_subset": "0%"}, "read_data_subset"),
        ({"kind": "check", "read_data_subset": "120%"}, "read_data_subset"),
        ({"kind": "restore", "snapshot": "latest"}, "target"),
        ({"kind": "restore", "snapshot": "latest", "in_place": True}, "confirm_host"),
        ({"kind": "drill", "of_host": "nowhere"}, "of_host"),
        ({"kind": "drill", "snapshot": "0a1b2c3d", "of_host": "web1"}, "of_host"),
        ({"kind": "drill", "files": 1001}, "files"),
        ({"kind": "drill", "max_bytes": 0}, "max_bytes"),
        ({"kind": "diff", "snapshot": "0a1b2c3d", "other": "latest"}, "other"),
    ],
)
async def test_refusal_names_the_field(
    operator: httpx.AsyncClient, agent: FakeAgent, body: dict[str, object], field: str
) -> None:
    source = {"name": "home", "paths": ["/home"]}
    assert (await operator.post("/v1/sources", json=source)).status_code == 201

    answer = await operator.post("/v1/jobs", json={"host": "web1", "repository": "nas", **body})

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await operator.get("/v1/jobs")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ({"kind": "forget", "source": "home"}, {"tag": "home", "keep": {"keep_daily": 7}}),
        ({"kind": "prune"}, {}),
        ({"kind": "check"}, {"read_data_subset": None}),
        (
            {"kind": "drill"},
            {"snapshot": "latest", "of_host": None, "files": 20, "max_bytes": 2**30},
        ),
        (
            {"kind": "diff", "snapshot": "0a1b2c3d", "other": "4e5f6a7b"},
            {"snapshot": "0a1b2c3d", "other": "4e5f6a7b"},
        ),
        ({"kind": "check", "read_data_subset": "2.5%"}, {"read_data_subset": "2.5%"}),
    ],
    ids=str,
)
async def test_upkeep_is_a_job_too(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    body: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    source = {"name": "home", "paths": ["/home"], "retention": {"keep_daily": 7}}
    assert (await operator.post("/v1/sources", json=source)).status_code == 201

    job_id = await add_job(operator, **body)

    job = (await operator.get(f"/v1/jobs/{job_id}")).json()
    assert job["arguments"] == {"kind": body["kind"], **arguments}
    [command] = read_commands(await agent.poll())
    assert isinstance(command, CommandRun)
    assert command.kind == body["kind"]
    assert agent.unseal(command).location == "/srv/restic/nas"


@pytest.mark.parametrize("missing", ["host", "repository", "source"])
async def test_unknown_name_is_refused_with_its_field(
    operator: httpx.AsyncClient, agent: FakeAgent, missing: str
) -> None:
    body = {"kind": "backup", "host": "web1", "repository": "nas", missing: "nobody"}
    if missing != "source":
        body |= {"paths": ["/etc"]}  # type: ignore[dict-item]  # JSON

    answer = await operator.post("/v1/jobs", json=body)

    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == missing
    assert f"there is no {missing} 'nobody'; name one that exists" in error["message"]


async def test_creating_a_job_is_in_the_audit_log(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    entries = (await operator.get("/v1/audit")).json()["items"]
    assert [(e["actor"], e["target_id"]) for e in entries if e["action"] == "job.create"] == [
        ("ada", str(job_id))
    ]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_jobs_of_one_host_and_repository_are_made_at_the_same_time(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    async with services.database.writing() as connection:
        await fetch_targets(connection, host="web1", repository="nas", is_one_at_a_time=False)
        async with asyncio.timeout(10):
            await add_job(operator)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("path", ["/v1/hosts/web1", "/v1/repositories/nas"])
@pytest.mark.parametrize("is_one_at_a_time", [True, False])
async def test_what_a_job_is_being_made_for_is_not_removed_meanwhile(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    path: str,
    is_one_at_a_time: bool,
) -> None:
    async with services.database.writing() as connection:
        await fetch_targets(
            connection, host="web1", repository="nas", is_one_at_a_time=is_one_at_a_time
        )
        removing = asyncio.create_task(operator.delete(path))
        early, _ = await asyncio.wait([removing], timeout=0.3)

    assert not early
    assert (await removing).status_code in {200, 204}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", [hosts, repositories])
async def test_jobs_that_waited_for_what_is_removed_are_all_refused(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    clock: FakeClock,
    table: sa.Table,
) -> None:
    """None of them may wait for another to find out which of the two is gone."""
    body = {"kind": "backup", "host": "web1", "repository": "nas", "paths": ["/etc"]}
    async with services.database.writing() as connection:
        await connection.execute(sa.update(table).values(removed_at=clock.now()))
        asking = [asyncio.create_task(operator.post("/v1/jobs", json=body)) for _ in range(4)]
        await asyncio.wait(asking, timeout=0.3)
    answers = [await one for one in asking]

    field = {hosts: "host", repositories: "repository"}[table]
    told = [(one.status_code, one.json()["errors"][0]["field"]) for one in answers]
    assert told == [(422, field)] * 4


async def test_second_init_waits_for_the_first(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    first = await add_job(operator, kind="init")

    answer = await operator.post(
        "/v1/jobs", json={"kind": "init", "host": "web1", "repository": "nas"}
    )

    assert answer.status_code == 409
    assert str(first) in answer.json()["detail"]


async def test_two_inits_at_once_make_one_job(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    body = {"kind": "init", "host": "web1", "repository": "nas"}

    answers = await asyncio.gather(*(operator.post("/v1/jobs", json=body) for _ in range(4)))

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_init_of_a_known_repository_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(sa.update(repositories).values(initialized_at=clock.now()))

    answer = await operator.post(
        "/v1/jobs", json={"kind": "init", "host": "web1", "repository": "nas"}
    )

    assert answer.status_code == 409
    assert "known to exist since 2026-11-23 12:00 UTC" in answer.json()["detail"]


async def test_short_id_of_two_snapshots_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    repository_id = (await operator.get("/v1/repositories/nas")).json()["id"]
    async with services.database.writing() as connection:
        for end in "01":
            await connection.execute(
                sa.insert(snapshots).values(
                    repository_id=UUID(repository_id),
                    id="ab" * 31 + "a" + end,
                    time=clock.now(),
                    hostname="web1",
                    username="root",
                    paths=["/etc"],
                    tags=[],
                    tree="",
                    reported_at=clock.now(),
                )
            )
    body = {"kind": "restore", "host": "web1", "repository": "nas", "target": "/tmp/r"}

    short = await operator.post("/v1/jobs", json={**body, "snapshot": "abababab"})
    whole = await operator.post("/v1/jobs", json={**body, "snapshot": "ab" * 31 + "a1"})

    assert short.status_code == 422
    assert short.json()["errors"][0]["field"] == "snapshot"
    assert whole.status_code == 201


async def test_list_goes_backwards_in_pages(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    made = [str(await add_job(operator)) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None

    for _ in range(3):
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await operator.get("/v1/jobs", params=query)).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]

    assert seen == made[::-1]
    assert cursor is None


async def test_list_filters(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    await add_agent(services, app, name="web2")
    await add_repository(operator, name="cloud")
    init = await add_job(operator, kind="init")
    elsewhere = await add_job(operator, host="web2", repository="cloud")
    running = await add_job(operator)
    await agent.accept(running)

    async def ids(**query: str | list[str]) -> list[str]:
        answer = await operator.get("/v1/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["items"]]

    assert await ids(host="web2") == [str(elsewhere)]
    assert await ids(host=str(agent.host_id)) == [str(running), str(init)]
    assert await ids(repository="cloud") == [str(elsewhere)]
    assert await ids(kind="init") == [str(init)]
    assert await ids(kind=["init", "backup"], host="web1") == [str(running), str(init)]
    assert await ids(state="accepted") == [str(running)]
    assert await ids(state=["accepted", "queued"], kind="backup") == [str(running), str(elsewhere)]


@pytest.mark.parametrize(
    "query",
    [{"state": "done"}, {"kind": "tidy"}, {"cursor": "?"}, {"limit": "0"}],
    ids=str,
)
async def test_list_refuses_what_it_does_not_know(
    operator: httpx.AsyncClient, query: dict[str, str]
) -> None:
    assert (await operator.get("/v1/jobs", params=query)).status_code == 422


async def test_list_of_an_unknown_host_is_not_found(operator: httpx.AsyncClient) -> None:
    assert (await operator.get("/v1/jobs", params={"host": "nobody"})).status_code == 404


async def test_unknown_job_is_not_found(operator: httpx.AsyncClient) -> None:
    for path in (f"/v1/jobs/{uuid4()}", f"/v1/jobs/{uuid4()}/log", "/v1/jobs/nonsense"):
        assert (await operator.get(path)).status_code == 404, path


async def test_agents_and_strangers_see_no_jobs(api: httpx.AsyncClient, agent: FakeAgent) -> None:
    assert (await api.get("/v1/jobs")).status_code == 401
    assert (await agent.client.get("/v1/jobs")).status_code == 401


async def test_wait_ends_with_the_next_change(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await add_job(operator)
    waiting = asyncio.create_task(
        operator.get(f"/v1/jobs/{job_id}", params={"after_revision": 0, "wait": 20})
    )
    await _until_parked(services, 1)

    await agent.accept(job_id)

    job = (await waiting).json()
    assert (job["state"], job["revision"]) == ("accepted", 1)
    assert services.wakeups.waiting == 0


async def test_wait_ends_at_once_when_there_is_a_newer_revision_or_an_end(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    newer = await operator.get(f"/v1/jobs/{job_id}", params={"after_revision": 0, "wait": 25})
    now = "2026-11-23T12:00:00Z"
    await agent.send(
        JobStarted(job_id=job_id, attempt=1, at=now),  # type: ignore[arg-type]  # as JSON has it
        JobFinished(
            job_id=job_id,
            attempt=1,
            at=now,  # type: ignore[arg-type]  # as JSON has it
            outcome=Outcome.FAILED,
            log_lines=0,
        ),
    )
    over = await operator.get(f"/v1/jobs/{job_id}", params={"after_revision": 99, "wait": 25})

    assert newer.json()["revision"] == 1
    assert over.json()["state"] == "failed"


async def test_wait_ends_in_any_case(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await add_job(operator)

    answer = await operator.get(f"/v1/jobs/{job_id}", params={"after_revision": 0, "wait": 0.05})

    assert answer.json()["revision"] == 0


async def test_drain_ends_a_wait_with_an_ordinary_answer(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await add_job(operator)
    waits = [
        asyncio.create_task(operator.get(f"/v1/jobs/{job_id}", params={"after_revision": 0})),
        asyncio.create_task(operator.get(f"/v1/jobs/{job_id}/log", params={"wait": 20})),
    ]
    await _until_parked(services, 2)

    services.wakeups.drain()

    assert [answer.status_code for answer in await asyncio.gather(*waits)] == [200, 200]


async def test_job_that_nobody_took_up_in_time_is_expired_when_looked_at(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    first, second = await add_job(operator), await add_job(operator)
    deadline = clock.now()
    async with services.database.writing() as connection:
        await connection.execute(sa.update(jobs).values(start_deadline_at=deadline))
    clock.advance(1)

    shown = (await operator.get(f"/v1/jobs/{first}")).json()
    listed = (await operator.get("/v1/jobs", params={"state": "expired"})).json()["items"]

    assert shown["state"] == "expired"
    assert "before its start deadline" in shown["message"]
    assert {job["id"] for job in listed} == {str(first), str(second)}


async def test_move_writes_the_event_in_the_same_transaction(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    job_id = await add_job(operator)

    async with services.database.writing() as connection:
        job = await store.fetch(connection, job_id)
        moved = await store.move(connection, job, JobEvent.CANCEL, at=clock.now())

    assert moved.state is JobState.CANCELLED
    assert moved.finished_at == clock.now()
    async with services.database.reading() as connection:
        assert await store.fetch(connection, job_id) == moved
        event = (await connection.execute(sa.select(job_events))).one()
    assert (event.event, event.from_state, event.to_state) == ("cancel", "queued", "cancelled")


async def test_move_of_a_job_that_moved_meanwhile_is_a_lost_race(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    job_id = await add_job(operator)
    async with services.database.reading() as connection:
        stale = await store.fetch(connection, job_id)
    await agent.accept(job_id)

    with pytest.raises(LostRaceError):
        async with services.database.writing() as connection:
            await store.move(connection, stale, JobEvent.CANCEL, at=clock.now())

    assert (await operator.get(f"/v1/jobs/{job_id}")).json()["state"] == "accepted"


async def test_move_that_the_table_lacks_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    job_id = await add_job(operator)
    async with services.database.reading() as connection:
        job = await store.fetch(connection, job_id)

    with pytest.raises(IllegalJobMoveError, match="cannot succeed"):
        async with services.database.writing() as connection:
            await store.move(connection, job, JobEvent.SUCCEED, at=clock.now())


async def _until_parked(services: Services, count: int) -> None:
    while services.wakeups.waiting < count:
        await asyncio.sleep(0)
