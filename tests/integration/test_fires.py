"""`schedule.fire`: one job for each schedule and slot, whatever is sent how often."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar

from backhaul.wire.agents import HeldJob, Receipt, ReceiptStatus
from backhaul.wire.commands import CommandAck, CommandCancel, CommandRun
from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import Arguments, BackupArguments, BackupResult, PruneArguments
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import ScheduleFire, build_scheduled_job_id
from backhaul_api.db.tables import job_events, jobs
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_agent,
    add_job,
    add_repository,
    add_schedule,
    add_source,
    read_commands,
)

OK, DUPLICATE, REJECTED = ReceiptStatus.OK, ReceiptStatus.DUPLICATE, ReceiptStatus.REJECTED
SLOT = START - timedelta(minutes=10)
"""A slot that has passed; the schedules' expressions do not matter to the server."""

NIGHT = BackupArguments(paths=("/home",), tags=("home",))


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1` whose agent has said hello, a repository `nas`, and a source `etc`.

    All schedules in here are applied, so that polls carry commands only.
    """
    await add_repository(operator)
    await add_source(operator, retention={"keep_daily": 7})
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent


async def _add(operator: httpx.AsyncClient, **request: Any) -> UUID:
    return UUID((await add_schedule(operator, **request))["id"])


def fired(schedule_id: UUID, **changes: Any) -> ScheduleFire:
    return ScheduleFire(
        **{"schedule_id": schedule_id, "scheduled_at": SLOT, "fired_at": SLOT, **changes}
    )


async def fire(agent: FakeAgent, schedule_id: UUID, **changes: Any) -> Receipt:
    [receipt] = await agent.send(fired(schedule_id, **changes))
    return receipt


async def _show(operator: httpx.AsyncClient, job_id: UUID | None) -> dict[str, Any]:
    job: dict[str, Any] = (await operator.get(f"/v1/jobs/{job_id}")).json()
    return job


async def _list(operator: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = (await operator.get("/v1/jobs", params=query)).json()["items"]
    return jobs


# One job -----------------------------------------------------------------------------------------


async def test_fire_creates_its_job_once(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    schedule_id = await _add(operator, max_duration=60)

    first, second = await agent.send(fired(schedule_id, missed=2), fired(schedule_id))

    assert (first.status, second.status) == (OK, DUPLICATE)
    assert first.job_id == second.job_id == build_scheduled_job_id(schedule_id, SLOT)
    job = await _show(operator, first.job_id)
    assert (job["state"], job["actor_kind"], job["actor_id"]) == (
        "queued",
        "schedule",
        str(schedule_id),
    )
    assert (job["schedule_id"], job["scheduled_at"]) == (str(schedule_id), "2026-11-23T11:50:00Z")
    assert (job["missed"], job["ran_offline"]) == (2, False)
    assert (job["host"], job["repository"]) == ("web1", "nas")


async def test_fires_job_comes_down_the_parked_poll(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    schedule_id = await _add(operator, max_duration=60, start_deadline=3600)
    parked = asyncio.create_task(agent.poll(hold=20, schedule_version=1))
    async with asyncio.timeout(20):
        while not services.wakeups.waiting:
            await asyncio.sleep(0)

    receipt = await fire(agent, schedule_id)

    async with asyncio.timeout(5):
        [command] = read_commands(await parked)
    assert isinstance(command, CommandRun)
    assert (command.job_id, command.kind) == (receipt.job_id, "backup")
    assert command.max_duration == 60
    assert agent.unseal(command).location == "/srv/restic/nas"


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (
            "backup",
            {
                "paths": ["/etc"],
                "excludes": [],
                "tags": ["etc", "nightly"],
                "one_file_system": False,
            },
        ),
        ("forget", {"tag": "etc", "keep": {"keep_daily": 7}}),
        ("prune", {}),
        ("check", {"read_data_subset": None}),
    ],
)
async def test_arguments_follow_from_the_kind(
    operator: httpx.AsyncClient, agent: FakeAgent, kind: str, arguments: dict[str, Any]
) -> None:
    receipt = await fire(agent, await _add(operator, kind=kind))

    job = await _show(operator, receipt.job_id)
    assert job["kind"] == kind
    assert {name: job["arguments"][name] for name in ("kind", *arguments)} == {
        "kind": kind,
        **arguments,
    }


async def test_job_takes_the_source_as_it_is_at_the_fire(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    await operator.patch("/v1/sources/etc", json={"paths": ["/srv"], "name": "srv"})

    receipt = await fire(agent, schedule_id, arguments=NIGHT)

    job = await _show(operator, receipt.job_id)
    assert job["arguments"]["paths"] == ["/srv"]
    assert job["arguments"]["tags"] == ["srv", "nightly"]


async def test_start_deadline_counts_from_the_receipt_of_the_fire(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    schedule_id = await _add(operator, start_deadline=3600)
    clock.advance(hours=2)

    receipt = await fire(agent, schedule_id)

    job = await _show(operator, receipt.job_id)
    assert job["start_deadline_at"] == "2026-11-23T15:00:00Z"


async def test_same_fire_at_once_creates_one_job(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    first, second = await _add(operator), await _add(operator)
    batch = (fired(first), fired(second), fired(first))

    answers = await asyncio.gather(*(agent.send(*batch) for _ in range(4)))

    receipts = [receipt for answer in answers for receipt in answer]
    assert sorted(receipt.status for receipt in receipts) == [DUPLICATE] * 10 + [OK] * 2
    assert {receipt.job_id for receipt in receipts} == {
        build_scheduled_job_id(first, SLOT),
        build_scheduled_job_id(second, SLOT),
    }
    assert len(await _list(operator)) == 2


async def test_slot_is_the_same_in_every_time_zone(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    elsewhere = SLOT.astimezone(timezone(timedelta(hours=-7)))

    receipts = await agent.send(fired(schedule_id), fired(schedule_id, scheduled_at=elsewhere))

    assert [receipt.status for receipt in receipts] == [OK, DUPLICATE]


async def test_repeat_after_the_job_and_the_schedule_are_over_names_the_job(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    receipt = await fire(agent, schedule_id)
    assert receipt.job_id is not None
    await agent.send(CommandAck(job_id=receipt.job_id, is_accepted=False))
    await operator.delete(f"/v1/schedules/{schedule_id}")

    again = await fire(agent, schedule_id)

    assert (again.status, again.job_id) == (DUPLICATE, receipt.job_id)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_any_order_and_repetition_of_fires_makes_one_job_for_each_slot(
    operator: httpx.AsyncClient, agent: FakeAgent, data: st.DataObject
) -> None:
    # Each example has schedules of its own; the database stays.
    schedule_ids = [await _add(operator) for _ in range(2)]
    slots = st.integers(0, 3).map(lambda n: SLOT - timedelta(minutes=n))
    fires = st.builds(
        fired,
        st.sampled_from(schedule_ids),
        scheduled_at=slots,
        missed=st.integers(0, 5),
        ran_offline=st.booleans(),
    )
    batches = data.draw(st.lists(st.lists(fires, min_size=1, max_size=6), min_size=1, max_size=4))

    receipts = [receipt for batch in batches for receipt in await agent.send(*batch)]

    sent = [one for batch in batches for one in batch]
    wanted = {(one.schedule_id, one.scheduled_at) for one in sent}
    made = [job for id_ in schedule_ids for job in await _list(operator, schedule=str(id_))]
    assert {receipt.status for receipt in receipts} <= {OK, DUPLICATE}
    assert sorted((job["schedule_id"], job["scheduled_at"]) for job in made) == sorted(
        (str(schedule_id), _json(slot)) for schedule_id, slot in wanted
    )
    offline = {(one.schedule_id, one.scheduled_at) for one in sent if one.ran_offline}
    assert {job["id"] for job in made if job["ran_offline"]} == {
        str(build_scheduled_job_id(*key)) for key in offline
    }
    for one, receipt in zip(sent, receipts, strict=True):
        assert receipt.job_id == build_scheduled_job_id(one.schedule_id, one.scheduled_at)


def _json(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


# Refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["disabled", "deleted"])
async def test_fire_of_a_schedule_that_runs_nothing_is_refused_with_its_reason(
    operator: httpx.AsyncClient, agent: FakeAgent, how: str
) -> None:
    schedule_id = await _add(operator)
    path = f"/v1/schedules/{schedule_id}"
    if how == "disabled":
        await operator.patch(path, json={"enabled": False})
    else:
        await operator.delete(path)

    receipt = await fire(agent, schedule_id)

    assert receipt.status is REJECTED
    assert receipt.problem is not None
    assert f"was {how}" in receipt.problem.detail or f"is {how}" in receipt.problem.detail
    assert await _list(operator) == []


@pytest.mark.parametrize("ran_offline", [False, True])
async def test_fire_of_another_hosts_schedule_is_refused(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    app: Litestar,
    ran_offline: bool,
) -> None:
    schedule_id = await _add(operator)
    stranger = await add_agent(services, app, name="web2")

    foreign, unknown = await stranger.send(
        fired(schedule_id, ran_offline=ran_offline), fired(uuid4(), ran_offline=ran_offline)
    )

    for receipt in (foreign, unknown):
        assert receipt.problem is not None
        assert receipt.problem.type == ProblemType.NOT_FOUND
    assert await _list(operator) == []


@pytest.mark.parametrize("ran_offline", [False, True])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scheduled_at": START + timedelta(days=1, minutes=1)}, "set the host's clock"),
        ({"scheduled_at": datetime.fromisoformat("1969-12-31T23:59:00Z")}, "set the host's clock"),
        ({"scheduled_at": SLOT + timedelta(microseconds=1)}, "a whole second"),
        ({"missed": -1}, "counts from 0"),
    ],
    ids=str,
)
async def test_fire_that_no_schedule_can_have_made_is_refused(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    changes: dict[str, Any],
    reason: str,
    ran_offline: bool,
) -> None:
    receipt = await fire(agent, await _add(operator), ran_offline=ran_offline, **changes)

    assert receipt.status is REJECTED
    assert receipt.problem is not None
    assert reason in receipt.problem.detail
    assert await _list(operator) == []


async def test_clock_that_is_somewhat_ahead_and_many_missed_slots_are_taken(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    ahead = START + timedelta(hours=23)

    receipt = await fire(agent, await _add(operator), scheduled_at=ahead, missed=10**15)

    assert receipt.status is OK
    assert (await _show(operator, receipt.job_id))["missed"] == 2**31 - 1


# Run offline -------------------------------------------------------------------------------------


async def test_run_without_the_server_is_recorded_with_its_own_times(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    schedule_id = await _add(operator, start_deadline=60)
    clock.advance(hours=5)
    job_id = build_scheduled_job_id(schedule_id, SLOT)
    begin, end = SLOT + timedelta(seconds=3), SLOT + timedelta(seconds=90)

    receipts = await agent.send(
        fired(schedule_id, fired_at=SLOT + timedelta(seconds=2), ran_offline=True, arguments=NIGHT),
        JobStarted(job_id=job_id, attempt=1, at=begin),
        JobFinished(job_id=job_id, attempt=1, at=end, outcome=Outcome.SUCCEEDED, log_lines=0),
    )

    assert [receipt.status for receipt in receipts] == [OK] * 3
    job = await _show(operator, job_id)
    assert (job["state"], job["ran_offline"]) == ("succeeded", True)
    assert job["arguments"]["paths"] == ["/home"]
    assert (job["accepted_at"], job["started_at"], job["finished_at"]) == (
        "2026-11-23T11:50:02Z",
        "2026-11-23T11:50:03Z",
        "2026-11-23T11:51:30Z",
    )
    async with services.database.reading() as connection:
        events = list(await connection.scalars(sa.select(job_events.c.event)))
    assert events == ["accept", "start", "succeed"]


async def test_offline_run_is_recorded_though_the_schedule_was_deleted_with_its_source(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    for path in (f"schedules/{schedule_id}", "sources/etc", "repositories/nas"):
        assert (await operator.delete(f"/v1/{path}")).status_code == 204

    receipt = await fire(agent, schedule_id, ran_offline=True, arguments=NIGHT)
    blind = await fire(agent, schedule_id, ran_offline=True, scheduled_at=START)

    assert receipt.status is OK
    job = await _show(operator, receipt.job_id)
    assert (job["state"], job["ran_offline"]) == ("accepted", True)
    assert blind.status is REJECTED
    assert blind.problem is not None
    assert "source" in blind.problem.detail


async def test_offline_run_of_a_disabled_schedule_is_recorded(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator, enabled=False)

    receipt = await fire(agent, schedule_id, ran_offline=True)

    job = await _show(operator, receipt.job_id)
    assert (job["state"], job["arguments"]["paths"]) == ("accepted", ["/etc"])


async def test_run_on_a_repository_that_nobody_knows_ends_like_any_other(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    job_id = build_scheduled_job_id(schedule_id, SLOT)
    reports = [
        JobStarted(job_id=job_id, attempt=1, at=SLOT),
        JobFinished(job_id=job_id, attempt=1, at=SLOT, outcome=Outcome.SUCCEEDED, log_lines=0),
    ]

    await fire(agent, schedule_id, ran_offline=True, repository_id=uuid4(), arguments=NIGHT)
    receipts = await agent.send(*reports)

    assert [receipt.status for receipt in receipts] == [OK, OK]
    job = await _show(operator, job_id)
    assert (job["state"], job["repository_id"]) == ("succeeded", None)


async def test_fire_whose_job_was_queued_already_is_marked_as_run_offline(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    queued = await fire(agent, schedule_id)

    first = await fire(agent, schedule_id, ran_offline=True, arguments=NIGHT)
    again = await fire(agent, schedule_id, ran_offline=True, arguments=NIGHT)

    assert [(first.status, first.job_id), (again.status, again.job_id)] == [
        (OK, queued.job_id),
        (DUPLICATE, queued.job_id),
    ]
    job = await _show(operator, queued.job_id)
    assert (job["state"], job["ran_offline"]) == ("accepted", True)
    assert job["arguments"]["paths"] == ["/home"]
    assert (await agent.poll(schedule_version=1)).envelopes == ()


async def test_job_that_the_agent_runs_offline_is_not_sent_to_it(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    receipt = await fire(agent, await _add(operator))
    assert receipt.job_id is not None

    held = [HeldJob(job_id=receipt.job_id, state="running")]

    assert (await agent.poll(schedule_version=1, jobs=held)).envelopes == ()


async def test_job_that_the_server_gave_stays_one_that_it_gave(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    receipt = await fire(agent, schedule_id)
    assert receipt.job_id is not None
    await agent.accept(receipt.job_id)

    again = await fire(agent, schedule_id, ran_offline=True)

    assert again.status is DUPLICATE
    assert (await _show(operator, receipt.job_id))["ran_offline"] is False


async def test_offline_run_is_recorded_though_its_job_had_expired(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    schedule_id = await _add(operator, start_deadline=60)
    await fire(agent, schedule_id)
    clock.advance(61)
    await agent.poll(schedule_version=1)
    job_id = build_scheduled_job_id(schedule_id, SLOT)
    assert (await _show(operator, job_id))["state"] == "expired"
    begin, end = SLOT + timedelta(seconds=3), SLOT + timedelta(seconds=90)

    late = [
        fired(schedule_id, ran_offline=True, arguments=NIGHT),
        JobStarted(job_id=job_id, attempt=1, at=begin),
        JobFinished(job_id=job_id, attempt=1, at=end, outcome=Outcome.SUCCEEDED, log_lines=0),
    ]
    first, again = await agent.send(*late), await agent.send(*late)

    assert [receipt.status for receipt in first] == [OK] * 3
    assert [receipt.status for receipt in again] == [DUPLICATE] * 3
    job = await _show(operator, job_id)
    assert (job["state"], job["ran_offline"], job["message"]) == ("succeeded", True, None)
    assert len(await _list(operator)) == 1


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.CANCELLED])
async def test_job_that_was_cancelled_while_its_host_had_begun_it_offline_is_ended_there(
    operator: httpx.AsyncClient, agent: FakeAgent, outcome: Outcome
) -> None:
    schedule_id = await _add(operator, attempts=3)
    job_id = (await fire(agent, schedule_id)).job_id
    assert job_id is not None
    cancelled = (await operator.post(f"/v1/jobs/{job_id}/cancel")).json()
    held = [HeldJob(job_id=job_id, state="running")]

    # Whichever comes first: the poll, or the report of the fire.
    before = await agent.poll(schedule_version=1, jobs=held)
    receipt = await fire(agent, schedule_id, ran_offline=True, arguments=NIGHT)
    after = await agent.poll(schedule_version=1, jobs=held)

    assert cancelled["state"] == "cancelled"
    assert read_commands(before) == read_commands(after) == [CommandCancel(job_id=job_id)]
    assert receipt.status is OK
    assert (await _show(operator, job_id))["state"] == "accepted"
    result = BackupResult(snapshot_id="0a1b2c3d") if outcome is Outcome.SUCCEEDED else None
    reports = [
        JobStarted(job_id=job_id, attempt=1, at=SLOT),
        JobFinished(job_id=job_id, attempt=1, at=SLOT, outcome=outcome, log_lines=0, result=result),
    ]
    assert [one.status for one in await agent.send(*reports)] == [OK, OK]
    job = await _show(operator, job_id)
    assert (job["state"], job["ran_offline"]) == (outcome.value, True)
    assert (job["result"] is None) == (result is None)
    assert (await fire(agent, schedule_id, ran_offline=True)).status is DUPLICATE


async def test_job_that_is_cancelled_on_both_sides_before_its_claim_came_is_over(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    await operator.post(f"/v1/jobs/{job_id}/cancel")
    held = [HeldJob(job_id=job_id, state="accepted")]
    assert read_commands(await agent.poll(jobs=held)) == [CommandCancel(job_id=job_id)]

    claim, end = await agent.send(
        CommandAck(job_id=job_id, is_accepted=True),
        JobFinished(job_id=job_id, attempt=1, at=SLOT, outcome=Outcome.CANCELLED, log_lines=0),
    )

    assert (claim.status, end.status) == (REJECTED, DUPLICATE)
    assert (await _show(operator, job_id))["accepted_at"] is None


async def test_expired_job_that_was_not_begun_stays_expired(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    schedule_id = await _add(operator, start_deadline=60)
    receipt = await fire(agent, schedule_id)
    clock.advance(61)
    await agent.poll(schedule_version=1)
    assert receipt.job_id is not None

    claim = await agent.accept(receipt.job_id)

    assert claim.status is REJECTED
    assert (await _show(operator, receipt.job_id))["state"] == "expired"


@pytest.mark.parametrize("is_queued", [False, True])
async def test_offline_run_is_booked_on_the_repository_that_it_used(
    operator: httpx.AsyncClient, agent: FakeAgent, is_queued: bool
) -> None:
    schedule_id = await _add(operator)
    old = (await operator.get("/v1/repositories/nas")).json()["id"]
    await add_repository(operator, name="cloud")
    if is_queued:
        await fire(agent, schedule_id)
    change = await operator.patch(f"/v1/schedules/{schedule_id}", json={"repository": "cloud"})
    assert change.status_code == 200, change.text

    receipt = await fire(agent, schedule_id, ran_offline=True, repository_id=UUID(old))

    assert (await _show(operator, receipt.job_id))["repository"] == "nas"


async def test_older_agent_leaves_a_job_on_the_repository_that_it_was_made_for(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    await fire(agent, schedule_id)
    await add_repository(operator, name="cloud")
    await operator.patch(f"/v1/schedules/{schedule_id}", json={"repository": "cloud"})

    receipt = await fire(agent, schedule_id, ran_offline=True)

    assert (await _show(operator, receipt.job_id))["repository"] == "nas"


async def test_offline_run_names_no_repository_that_its_schedule_never_had(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    foreign = await add_repository(operator, name="of-others")

    receipt = await fire(agent, schedule_id, ran_offline=True, repository_id=foreign)

    job = await _show(operator, receipt.job_id)
    assert (receipt.status, job["repository"], job["repository_id"]) == (OK, None, None)


@pytest.mark.parametrize(
    ("arguments", "status"), [(NIGHT, OK), (None, OK), (PruneArguments(), REJECTED)], ids=str
)
@pytest.mark.parametrize("is_queued", [False, True])
async def test_arguments_of_an_offline_run_must_be_of_the_schedules_kind(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    arguments: Arguments | None,
    status: ReceiptStatus,
    is_queued: bool,
) -> None:
    schedule_id = await _add(operator)
    if is_queued:
        await fire(agent, schedule_id)

    receipt = await fire(agent, schedule_id, ran_offline=True, arguments=arguments)

    assert receipt.status is status
    states = [job["state"] for job in await _list(operator)]
    accepted, refused = ["accepted"], ["queued"] if is_queued else []
    assert states == (accepted if status is OK else refused)


# History -----------------------------------------------------------------------------------------


async def test_jobs_of_a_schedule_are_its_history(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id, other = await _add(operator), await _add(operator)
    for minutes in (0, 1, 2):
        await fire(agent, schedule_id, scheduled_at=SLOT + timedelta(minutes=minutes))
    await fire(agent, other)
    await add_job(operator)
    await operator.delete(f"/v1/schedules/{schedule_id}")

    history = await _list(operator, schedule=str(schedule_id))

    assert [job["scheduled_at"] for job in history] == [
        "2026-11-23T11:52:00Z",
        "2026-11-23T11:51:00Z",
        "2026-11-23T11:50:00Z",
    ]
    unknown = await operator.get("/v1/jobs", params={"schedule": str(uuid4())})
    nonsense = await operator.get("/v1/jobs", params={"schedule": "nightly"})
    assert (unknown.status_code, nonsense.status_code) == (404, 422)


async def test_fires_and_edits_at_once_do_not_wait_for_each_other_for_ever(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    schedule_id = await _add(operator)

    async def edit(n: int) -> int:
        path = f"/v1/schedules/{schedule_id}"
        return (await operator.patch(path, json={"jitter": n})).status_code

    async def change_repository(n: int) -> int:
        body = {"password": f"p{n}"}
        return (await operator.patch("/v1/repositories/nas", json=body)).status_code

    async def run(n: int) -> int:
        slot = SLOT + timedelta(minutes=n)
        job_id = build_scheduled_job_id(schedule_id, slot)
        # The first success marks the repository as initialised: the batch writes to it as well.
        answer = await agent.post(
            fired(schedule_id, scheduled_at=slot),
            CommandAck(job_id=job_id, is_accepted=True),
            JobStarted(job_id=job_id, attempt=1, at=START),
            JobFinished(job_id=job_id, attempt=1, at=START, outcome=Outcome.SUCCEEDED, log_lines=0),
        )
        return answer.status_code

    statuses = await asyncio.gather(
        *(task(n) for n in range(5) for task in (edit, change_repository, run))
    )

    assert set(statuses) == {200}
    async with services.database.reading() as connection:
        states = set(await connection.scalars(sa.select(jobs.c.state)))
    assert states == {"succeeded"}


# Fires that were replaced while they were on their way --------------------------------------------


async def test_fire_that_arrives_after_the_one_that_replaced_it_makes_no_second_job(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    later = SLOT + timedelta(minutes=3)
    (receipt,) = await agent.send(
        fired(schedule_id, scheduled_at=later, missed=2, missed_since=SLOT + timedelta(minutes=1))
    )

    late = [
        (await agent.send(fired(schedule_id, scheduled_at=SLOT + timedelta(minutes=number))))[0]
        for number in (0, 1, 2)
    ]

    assert [one.status for one in late] == [OK, DUPLICATE, DUPLICATE]
    assert [one.job_id == receipt.job_id for one in late] == [False, True, True]


async def test_slot_that_has_a_job_is_not_counted_by_the_fire_that_replaced_its_fire(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    # It made its job, and its receipt got lost; on the host, the next fire took its place.
    await agent.send(fired(schedule_id, scheduled_at=SLOT, missed=1))
    later = SLOT + timedelta(minutes=2)

    (receipt,) = await agent.send(
        fired(schedule_id, scheduled_at=later, missed=3, missed_since=SLOT)
    )

    assert receipt.status is OK
    job = (await operator.get(f"/v1/jobs/{receipt.job_id}")).json()
    assert job["missed"] == 1


async def test_run_without_the_server_is_recorded_though_a_later_job_stands_for_its_slot(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = await _add(operator)
    await agent.send(
        fired(schedule_id, scheduled_at=SLOT + timedelta(minutes=1), missed=1, missed_since=SLOT)
    )

    (receipt,) = await agent.send(
        fired(schedule_id, scheduled_at=SLOT, ran_offline=True, arguments=NIGHT)
    )

    assert receipt.status is OK
