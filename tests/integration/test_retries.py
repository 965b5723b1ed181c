"""Further attempts of a job, stalls, and jobs whose host fell silent."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from litestar import Litestar

from backhaul.wire.agents import HeldJob, ReceiptStatus
from backhaul.wire.commands import CommandAck, CommandCancel, CommandRun
from backhaul.wire.jobs import FailureClass, LogLine, Outcome, Progress
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul.wire.schedules import ScheduleFire
from backhaul_api.jobs.silence import HEARING_AGAIN
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


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1` whose agent has said hello, a repository `nas`, and a source `etc`."""
    await add_repository(operator)
    await add_source(operator)
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent


async def fire(operator: httpx.AsyncClient, agent: FakeAgent, **policies: Any) -> UUID:
    """Have a schedule of these policies fire; gives the job."""
    schedule_id = UUID((await add_schedule(operator, **policies))["id"])
    slot = START - timedelta(minutes=10)
    (receipt,) = await agent.send(
        ScheduleFire(schedule_id=schedule_id, scheduled_at=slot, fired_at=START)
    )
    assert receipt.job_id is not None
    return receipt.job_id


def begin(job_id: UUID, attempt: int = 1) -> tuple[CommandAck, JobStarted]:
    return (
        CommandAck(job_id=job_id, attempt=attempt, is_accepted=True),
        JobStarted(job_id=job_id, attempt=attempt, at=START),
    )


def say(job_id: UUID, text: str, attempt: int = 1, seq: int = 0) -> JobLog:
    line = LogLine(at=START, stream="stderr", text=text)
    return JobLog(job_id=job_id, attempt=attempt, seq=seq, lines=(line,))


def fail(job_id: UUID, attempt: int = 1, *, lines: int = 0, **changes: Any) -> JobFinished:
    report: dict[str, Any] = {
        "job_id": job_id,
        "attempt": attempt,
        "at": START,
        "outcome": Outcome.FAILED,
        "log_lines": lines,
        "exit_code": 1,
        "failure_class": FailureClass.NETWORK,
        "message": "dial tcp: no route to host",
        **changes,
    }
    return JobFinished(**report)


async def show(operator: httpx.AsyncClient, job_id: UUID) -> dict[str, Any]:
    shown: dict[str, Any] = (await operator.get(f"/v1/jobs/{job_id}")).json()
    return shown


async def find_due(agent: FakeAgent, **poll: Any) -> list[CommandRun]:
    return [one for one in read_commands(await agent.poll(**poll)) if isinstance(one, CommandRun)]


async def test_every_attempt_may_wait_for_its_start_as_long_as_the_first(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    job_id = await fire(operator, agent, start_deadline=600, retry_delay=3600, attempts=4)
    for attempt in range(1, 4):
        clock.advance(5)
        await agent.send(*begin(job_id, attempt), fail(job_id, attempt))

        waiting = await show(operator, job_id)

        assert waiting["attempt"] == attempt + 1
        begins, ends = (
            datetime.fromisoformat(waiting[name]) for name in ("retry_at", "start_deadline_at")
        )
        assert ends - begins == timedelta(seconds=600)
        clock.advance((begins - clock.now()).total_seconds())


@pytest.mark.parametrize("end", ["cancelled", "expired", "rejected"])
async def test_retry_that_never_began_does_not_end_for_the_reason_of_the_attempt_before(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, end: str
) -> None:
    job_id = await fire(operator, agent, start_deadline=60, attempts=2)
    await agent.send(*begin(job_id), fail(job_id))
    assert (await show(operator, job_id))["failure_class"] == "network"

    match end:
        case "cancelled":
            await operator.post(f"/v1/jobs/{job_id}/cancel")
        case "expired":
            clock.advance(3600)
        case _:
            await agent.send(CommandAck(job_id=job_id, attempt=2, is_accepted=False, reason="no"))

    job = await show(operator, job_id)
    assert (job["state"], job["failure_class"], job["exit_code"]) == (end, None, None)


async def test_failed_attempt_is_followed_by_another_one_each_with_its_log(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    job_id = await fire(operator, agent, attempts=2, retry_delay=60)
    await agent.send(*begin(job_id), say(job_id, "first"), fail(job_id, lines=1))

    waiting = await show(operator, job_id)
    assert (waiting["state"], waiting["attempt"], waiting["attempts"]) == ("queued", 2, 2)
    assert (waiting["failure_class"], waiting["exit_code"]) == ("network", 1)
    assert waiting["message"] == "dial tcp: no route to host"
    pause = datetime.fromisoformat(waiting["retry_at"]) - clock.now()
    assert timedelta(seconds=48) <= pause <= timedelta(seconds=72)
    version = {"schedule_version": 1}
    assert await find_due(agent, **version) == []

    clock.advance(73)
    (command,) = await find_due(agent, **version)
    assert (command.job_id, command.attempt) == (job_id, 2)
    # The agent still waits for the receipt of the first attempt's end.
    held = HeldJob(job_id=job_id, attempt=1, state="finished")
    assert len(await find_due(agent, jobs=[held], **version)) == 1

    await agent.send(*begin(job_id, 2), say(job_id, "second", 2))
    running = await show(operator, job_id)
    assert (running["message"], running["failure_class"], running["retry_at"]) == (None, None, None)
    await agent.send(
        fail(job_id, 2, lines=1, outcome=Outcome.SUCCEEDED, failure_class=None, message=None)
    )
    assert (await show(operator, job_id))["state"] == "succeeded"
    log = (await operator.get(f"/v1/jobs/{job_id}/log")).json()["lines"]
    assert [(line["attempt"], line["seq"], line["text"]) for line in log] == [
        (1, 0, "first"),
        (2, 0, "second"),
    ]
    kinds = [one["kind"] for one in (await operator.get("/v1/events")).json()["items"]]
    assert [kind for kind in kinds if kind.startswith("job.")] == [
        "job.queued",
        "job.accepted",
        "job.running",
        "job.retry",
        "job.accepted",
        "job.running",
        "job.succeeded",
    ]


async def test_last_attempt_fails_for_good(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await fire(operator, agent, attempts=1)

    await agent.send(*begin(job_id), fail(job_id))

    assert (await show(operator, job_id))["state"] == "failed"


@pytest.mark.parametrize(
    "failure_class",
    [
        FailureClass.WRONG_PASSWORD,
        FailureClass.REPOSITORY_MISSING,
        FailureClass.NO_SPACE,
        FailureClass.DAMAGED,
        FailureClass.SOURCE_MISSING,
        FailureClass.SNAPSHOT_MISSING,
        FailureClass.RESTIC_MISSING,
        FailureClass.REFUSED,
    ],
)
async def test_what_a_person_has_to_mend_is_not_tried_again(
    operator: httpx.AsyncClient, agent: FakeAgent, failure_class: FailureClass
) -> None:
    job_id = await fire(operator, agent)

    await agent.send(*begin(job_id), fail(job_id, failure_class=failure_class))

    assert (await show(operator, job_id))["state"] == "failed"


async def test_job_of_an_operator_has_one_attempt(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    await agent.send(*begin(job_id), fail(job_id))

    assert (await show(operator, job_id))["state"] == "failed"


async def test_late_repeats_of_an_older_attempt_change_nothing(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    job_id = await fire(operator, agent)
    first = (*begin(job_id), say(job_id, "first"), fail(job_id, lines=1))
    await agent.send(*first)
    before = await show(operator, job_id)

    claim, *rest = await agent.send(*first)

    # Its claim would be one of the second attempt, which nobody has been sent.
    assert claim.status is REJECTED
    assert [one.status for one in rest] == [DUPLICATE] * 3
    assert await show(operator, job_id) == before
    clock.advance(3600)
    await agent.send(*begin(job_id, 2))
    again = [one.status for one in await agent.send(*first)]
    assert again == [REJECTED, DUPLICATE, DUPLICATE, DUPLICATE]
    assert (await show(operator, job_id))["state"] == "running"


async def test_waiting_retry_is_cancelled_at_once_and_a_cancelled_job_is_not_tried_again(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    waits = await fire(operator, agent)
    await agent.send(*begin(waits), fail(waits))
    runs = await fire(operator, agent)
    await agent.send(*begin(runs))
    await operator.post(f"/v1/jobs/{waits}/cancel")
    await operator.post(f"/v1/jobs/{runs}/cancel")

    await agent.send(fail(runs))

    assert (await show(operator, waits))["state"] == "cancelled"
    assert (await show(operator, waits))["retry_at"] is None
    assert (await show(operator, runs))["state"] == "failed"


async def test_parked_poll_is_answered_when_the_retry_is_due(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    job_id = await fire(operator, agent, retry_delay=1)
    await agent.send(*begin(job_id), fail(job_id))

    poll = asyncio.create_task(find_due(agent, hold=20, schedule_version=1))
    await asyncio.sleep(0.1)
    clock.advance(2)

    (command,) = await asyncio.wait_for(poll, 5)
    assert command.attempt == 2


async def test_start_deadline_of_a_retry_counts_from_when_it_may_begin(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    job_id = await fire(operator, agent, start_deadline=600, retry_delay=3600)
    clock.advance(500)
    await agent.send(*begin(job_id), fail(job_id))

    retry_at = datetime.fromisoformat((await show(operator, job_id))["retry_at"])
    clock.advance((retry_at - clock.now()).total_seconds() + 600)
    assert (await show(operator, job_id))["state"] == "queued"
    clock.advance(1)
    await operator.get("/v1/jobs")
    assert (await show(operator, job_id))["state"] == "expired"


# Stalls ------------------------------------------------------------------------------------------


async def test_job_that_does_not_get_on_is_shown_as_stalled_and_left_alone(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    job_id = await add_job(operator)
    await agent.send(*begin(job_id))
    await agent.send(_progress(job_id, 10, bytes_done=1))
    last = clock.now()
    clock.advance(services.settings.stall_after)
    # That time passes is no progress, nor that the agent lives.
    await agent.send(_progress(job_id, 1800, bytes_done=1))
    await agent.poll(jobs=[HeldJob(job_id=job_id, state="running")])
    assert (await show(operator, job_id))["stalled_since"] is None

    clock.advance(1)

    shown = await show(operator, job_id)
    assert (shown["state"], datetime.fromisoformat(shown["stalled_since"])) == ("running", last)
    await agent.send(_progress(job_id, 1802, bytes_done=2))
    assert (await show(operator, job_id))["stalled_since"] is None
    clock.advance(services.settings.stall_after + 1)
    await agent.send(say(job_id, "still here"))
    assert (await show(operator, job_id))["stalled_since"] is None


def _progress(job_id: UUID, seconds: int, **changes: Any) -> JobProgress:
    progress = Progress(seconds_elapsed=seconds, **changes)
    return JobProgress(job_id=job_id, attempt=1, at=START, progress=progress)


# Hosts that fall silent --------------------------------------------------------------------------


async def test_job_of_a_silent_host_is_lost_until_its_report_comes(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    await agent.poll()
    job_id = await add_job(operator)
    await agent.send(*begin(job_id))
    clock.advance(services.settings.lost_after + 61)

    shown = await show(operator, job_id)

    assert shown["state"] == "lost"
    assert "not been heard of" in shown["message"]
    await agent.send(fail(job_id, outcome=Outcome.SUCCEEDED, failure_class=None, message=None))
    assert (await show(operator, job_id))["state"] == "succeeded"


async def test_lost_job_runs_again_once_its_host_says_so_and_can_be_cancelled_meanwhile(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    await agent.poll()
    job_id = await add_job(operator)
    await agent.send(*begin(job_id))
    clock.advance(services.settings.lost_after + 61)
    assert (await show(operator, job_id))["state"] == "lost"
    prune = await add_job(operator, kind="prune")

    asked = (await operator.post(f"/v1/jobs/{job_id}/cancel")).json()
    # A process that the host no longer is says nothing of it.
    stale = await agent.ask(boot_id=uuid4(), jobs=[HeldJob(job_id=job_id, state="running")])
    assert stale.status_code == 409
    assert (await show(operator, job_id))["state"] == "lost"
    commands = read_commands(await agent.poll(jobs=[HeldJob(job_id=job_id, state="running")]))

    assert (asked["state"], asked["cancel_requested_at"] is None) == ("lost", False)
    assert commands == [CommandCancel(job_id=job_id)]
    back = await show(operator, job_id)
    assert (back["state"], back["message"], back["finished_at"]) == ("running", None, None)
    assert (await show(operator, prune))["waits_for"]["job_id"] == str(job_id)
    await agent.send(fail(job_id, outcome=Outcome.CANCELLED, failure_class=None))
    assert (await show(operator, job_id))["state"] == "cancelled"


async def test_lost_job_that_its_host_has_not_begun_is_ended_there_when_it_was_cancelled(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    await agent.poll()
    job_id = await add_job(operator)
    await agent.accept(job_id)
    clock.advance(services.settings.lost_after + 61)
    held = [HeldJob(job_id=job_id, state="accepted")]
    assert (await show(operator, job_id))["state"] == "lost"
    assert read_commands(await agent.poll(jobs=held)) == []

    await operator.post(f"/v1/jobs/{job_id}/cancel")

    assert read_commands(await agent.poll(jobs=held)) == [CommandCancel(job_id=job_id)]
    assert (await show(operator, job_id))["state"] == "lost"


async def test_host_whose_polls_do_not_come_through_lives_by_its_reports(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    await agent.poll()
    job_id = await add_job(operator)
    await agent.send(*begin(job_id))
    for seconds in range(10):
        clock.advance(services.settings.lost_after / 2)
        await agent.send(_progress(job_id, seconds + 1))

    assert (await show(operator, job_id))["state"] == "running"
    host = (await operator.get("/v1/hosts/web1")).json()
    assert datetime.fromisoformat(host["last_seen_at"]) == clock.now()
    # Once a minute is enough.
    clock.advance(59)
    await agent.send(_progress(job_id, 60))
    assert (await operator.get("/v1/hosts/web1")).json()["last_seen_at"] == host["last_seen_at"]


async def test_lists_tell_of_lost_jobs_too(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    await agent.poll()
    job_id = await add_job(operator)
    await agent.send(*begin(job_id))
    clock.advance(services.settings.lost_after + 61)

    (listed,) = (await operator.get("/v1/jobs")).json()["items"]

    assert (listed["id"], listed["state"]) == (str(job_id), "lost")


async def test_host_that_polls_keeps_its_job_however_long_it_takes(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    job_id = await add_job(operator)
    await agent.send(*begin(job_id))
    clock.advance(services.settings.lost_after * 10)
    await agent.poll(jobs=[HeldJob(job_id=job_id, state="running")])

    assert (await show(operator, job_id))["state"] == "running"


async def test_instance_that_has_just_started_gives_hosts_time_to_come_back(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock, services: Services
) -> None:
    await agent.poll()
    job_id = await add_job(operator)
    await agent.send(*begin(job_id))
    clock.advance(services.settings.lost_after * 10)
    services.silence.listens_from = clock.now()

    assert (await show(operator, job_id))["state"] == "running"
    clock.advance(HEARING_AGAIN.total_seconds())
    assert (await show(operator, job_id))["state"] == "lost"
