"""Cancelling jobs: at once while they wait, by the host once it has them."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import httpx
import pytest

from backhaul.wire.agents import HeldJob, ReceiptStatus
from backhaul.wire.commands import CommandCancel
from backhaul.wire.jobs import Outcome
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_job, read_commands


async def cancel(operator: httpx.AsyncClient, job_id: UUID) -> httpx.Response:
    return await operator.post(f"/v1/jobs/{job_id}/cancel")


def build_end(job_id: UUID, outcome: Outcome) -> JobFinished:
    return JobFinished(job_id=job_id, attempt=1, at=START, outcome=outcome, log_lines=0)


async def test_job_that_waits_is_cancelled_at_once_and_never_sent(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    answer = await cancel(operator, job_id)

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["message"]) == (
        "cancelled",
        "Cancelled by ada before the host took it up.",
    )
    assert answer.json() == (await operator.get(f"/v1/jobs/{job_id}")).json()
    assert (await agent.poll()).envelopes == ()


async def test_late_claim_of_a_cancelled_job_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    await agent.poll()
    await cancel(operator, job_id)

    receipt = await agent.accept(job_id)

    assert receipt.status is ReceiptStatus.REJECTED


async def test_running_job_is_asked_to_end_until_its_host_confirms(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
    held = [HeldJob(job_id=job_id, state="running")]
    poll = asyncio.create_task(agent.poll(hold=20, jobs=held))
    while not services.wakeups.waiting:
        await asyncio.sleep(0)

    answer = await cancel(operator, job_id)
    woken = await asyncio.wait_for(poll, 5)

    assert (answer.json()["state"], answer.json()["cancel_requested_at"] is None) == (
        "running",
        False,
    )
    assert read_commands(woken) == [CommandCancel(job_id=job_id)]
    assert read_commands(await agent.poll(jobs=held)) == [CommandCancel(job_id=job_id)]
    await agent.send(build_end(job_id, Outcome.CANCELLED))
    ended = (await operator.get(f"/v1/jobs/{job_id}")).json()
    assert ended["state"] == "cancelled"
    assert (await agent.poll()).envelopes == ()


async def test_job_that_was_done_before_the_cancel_came_stays_done(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
    await cancel(operator, job_id)

    await agent.send(build_end(job_id, Outcome.SUCCEEDED))

    assert (await operator.get(f"/v1/jobs/{job_id}")).json()["state"] == "succeeded"


async def test_asking_again_changes_nothing(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    first = await cancel(operator, job_id)

    second = await cancel(operator, job_id)

    assert (second.status_code, second.json()) == (200, first.json())
    actions = [one["action"] for one in (await operator.get("/v1/audit")).json()["items"]]
    assert actions.count("job.cancel") == 1


async def test_of_many_who_cancel_at_once_all_are_answered_alike(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)

    answers = await asyncio.gather(*(cancel(operator, job_id) for _ in range(5)))

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["revision"] for answer in answers} == {answers[0].json()["revision"]}


@pytest.mark.parametrize("outcome", Outcome)
async def test_job_that_is_over_is_not_cancelled(
    operator: httpx.AsyncClient, agent: FakeAgent, outcome: Outcome
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
    await agent.send(build_end(job_id, outcome))

    answer = await cancel(operator, job_id)

    assert answer.status_code == 409
    assert "nothing to cancel" in answer.json()["detail"]


async def test_job_that_is_not_there_is_404(operator: httpx.AsyncClient) -> None:
    assert (await cancel(operator, uuid4())).status_code == 404


async def test_those_who_follow_are_told(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    await cancel(operator, job_id)

    items = (await operator.get("/v1/events", params={"kind": "job"})).json()["items"]

    assert [one["kind"] for one in items][-1] == "job.cancel_requested"
