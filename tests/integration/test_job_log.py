"""A job's log: stored once and without a gap, read in pages, followed by waiting."""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backhaul.wire.agents import ReceiptStatus
from backhaul.wire.jobs import LogLine, Outcome
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul_api.jobs.log import MAX_LINE_LENGTH
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_job


@pytest.fixture
async def job_id(operator: httpx.AsyncClient, agent: FakeAgent) -> UUID:
    """A job that runs."""
    return await _start(operator, agent)


def logged(job_id: UUID, seq: int, *texts: str) -> JobLog:
    lines = tuple(LogLine(at=START, stream="stderr", text=text) for text in texts)
    return JobLog(job_id=job_id, attempt=1, seq=seq, lines=lines)


def finished(job_id: UUID, log_lines: int) -> JobFinished:
    return JobFinished(
        job_id=job_id, attempt=1, at=START, outcome=Outcome.SUCCEEDED, log_lines=log_lines
    )


async def test_gap_is_refused_with_the_number_that_comes_next(
    agent: FakeAgent, job_id: UUID
) -> None:
    receipts = await agent.send(logged(job_id, 0, "a"), logged(job_id, 2, "c"))

    assert [receipt.status for receipt in receipts] == ["ok", "rejected"]
    problem = receipts[1].problem
    assert problem is not None
    assert (problem.type, problem.expected_seq) == (ProblemType.LOG_GAP, 1)


async def test_end_waits_for_the_whole_log(
    operator: httpx.AsyncClient, agent: FakeAgent, job_id: UUID
) -> None:
    receipts = await agent.send(
        logged(job_id, 0, "a"), finished(job_id, 3), logged(job_id, 1, "b", "c")
    )
    again = await agent.send(finished(job_id, 3))

    assert [receipt.status for receipt in (*receipts, *again)] == ["ok", "rejected", "ok", "ok"]
    assert receipts[1].problem is not None
    assert receipts[1].problem.expected_seq == 1


async def test_overlap_is_stored_once(
    operator: httpx.AsyncClient, agent: FakeAgent, job_id: UUID
) -> None:
    receipts = await agent.send(
        logged(job_id, 0, "a", "b"),
        logged(job_id, 1, "b", "c"),
        logged(job_id, 0, "a", "b", "c"),
        logged(job_id, 3),
    )

    assert [receipt.status for receipt in receipts] == ["ok", "ok", "duplicate", "duplicate"]
    assert await _read(operator, job_id) == ["a", "b", "c"]


async def test_log_of_a_job_that_is_over_takes_no_more(agent: FakeAgent, job_id: UUID) -> None:
    receipts = await agent.send(
        logged(job_id, 0, "a"), finished(job_id, 1), logged(job_id, 0, "a"), logged(job_id, 1, "b")
    )

    assert [receipt.status for receipt in receipts] == ["ok", "ok", "duplicate", "rejected"]


async def test_negative_number_is_refused(agent: FakeAgent, job_id: UUID) -> None:
    [receipt] = await agent.send(logged(job_id, -1, "a"))

    assert receipt.status is ReceiptStatus.REJECTED


async def test_long_line_is_cut_and_says_so(
    operator: httpx.AsyncClient, agent: FakeAgent, job_id: UUID
) -> None:
    await agent.send(logged(job_id, 0, "x" * (MAX_LINE_LENGTH + 9)))

    [text] = await _read(operator, job_id)
    assert text == "x" * MAX_LINE_LENGTH + " … [9 more characters cut]"


async def test_pages_follow_one_another_to_the_end(
    operator: httpx.AsyncClient, agent: FakeAgent, job_id: UUID
) -> None:
    await agent.send(logged(job_id, 0, *"abcde"), finished(job_id, 5))
    path, cursor, pages = f"/v1/jobs/{job_id}/log", "", []

    for _ in range(4):
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await operator.get(path, params=query)).json()
        pages.append(("".join(line["text"] for line in page["lines"]), page["is_complete"]))
        cursor = page["next_cursor"]

    assert pages == [("ab", False), ("cd", False), ("e", True), ("", True)]


async def test_lines_carry_their_place_and_origin(
    operator: httpx.AsyncClient, agent: FakeAgent, job_id: UUID
) -> None:
    await agent.send(logged(job_id, 0, "a"))

    page = (await operator.get(f"/v1/jobs/{job_id}/log")).json()

    assert page["lines"] == [
        {"attempt": 1, "seq": 0, "at": "2026-11-23T12:00:00Z", "stream": "stderr", "text": "a"}
    ]
    assert (page["state"], page["is_complete"]) == ("running", False)


@pytest.mark.parametrize("cursor", ["?", "WyJ4Il0", "WzAsMTAwMDAwMDAwMDAwMDAwMF0"])
async def test_foreign_cursor_is_refused(
    operator: httpx.AsyncClient, job_id: UUID, cursor: str
) -> None:
    answer = await operator.get(f"/v1/jobs/{job_id}/log", params={"cursor": cursor})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "cursor"


async def test_follower_gets_lines_as_they_come_and_then_the_end(
    operator: httpx.AsyncClient, agent: FakeAgent, job_id: UUID, services: Services
) -> None:
    path = f"/v1/jobs/{job_id}/log"
    following = asyncio.create_task(operator.get(path, params={"wait": 20}))
    await _until_parked(services)
    await agent.send(logged(job_id, 0, "a"))
    first = (await following).json()
    query = {"wait": 20, "cursor": first["next_cursor"]}
    following = asyncio.create_task(operator.get(path, params=query))
    await _until_parked(services)
    await agent.send(finished(job_id, 1))
    last = (await following).json()

    assert [line["text"] for line in first["lines"]] == ["a"]
    assert (last["lines"], last["state"], last["is_complete"]) == ([], "succeeded", True)


async def test_news_that_are_no_lines_do_not_end_the_wait(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await add_job(operator)
    following = asyncio.create_task(operator.get(f"/v1/jobs/{job_id}/log", params={"wait": 20}))
    await _until_parked(services)

    await agent.accept(job_id)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not following.done()

    await agent.send(logged(job_id, 0, "a"))
    assert len((await following).json()["lines"]) == 1


@settings(
    max_examples=20,
    deadline=None,
    # Each example has a job of its own; the host and the database may be shared.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    stretches=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 6)), min_size=1, max_size=10)
)
async def test_any_split_repetition_and_overlap_stores_each_line_once_in_order(
    operator: httpx.AsyncClient, agent: FakeAgent, stretches: list[tuple[int, int]]
) -> None:
    job_id = await _start(operator, agent)
    expected = 0

    for begin, count in stretches:
        texts = [f"line {number}" for number in range(begin, begin + count)]
        [receipt] = await agent.send(logged(job_id, begin, *texts))
        if begin > expected:
            assert receipt.status is ReceiptStatus.REJECTED
            assert receipt.problem is not None
            assert receipt.problem.expected_seq == expected
        elif begin + count > expected:
            assert receipt.status is ReceiptStatus.OK
            expected = begin + count
        else:
            assert receipt.status is ReceiptStatus.DUPLICATE

    assert await _read(operator, job_id) == [f"line {number}" for number in range(expected)]


async def _start(operator: httpx.AsyncClient, agent: FakeAgent) -> UUID:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
    return job_id


async def _read(operator: httpx.AsyncClient, job_id: UUID) -> list[str]:
    page = (await operator.get(f"/v1/jobs/{job_id}/log")).json()
    return [line["text"] for line in page["lines"]]


async def _until_parked(services: Services) -> None:
    async with asyncio.timeout(20):
        while services.wakeups.waiting < 1:
            await asyncio.sleep(0)


async def test_tail_is_the_end_of_the_log_and_goes_on_from_there(
    operator: httpx.AsyncClient, agent: FakeAgent, job_id: UUID
) -> None:
    await agent.send(logged(job_id, 0, *"abcde"))

    page = (await operator.get(f"/v1/jobs/{job_id}/log", params={"tail": 2})).json()
    whole = (await operator.get(f"/v1/jobs/{job_id}/log", params={"tail": 9})).json()
    await agent.send(logged(job_id, 5, "f"))
    cursor = {"tail": 2, "cursor": page["next_cursor"]}
    rest = (await operator.get(f"/v1/jobs/{job_id}/log", params=cursor)).json()
    refused = await operator.get(f"/v1/jobs/{job_id}/log", params={"tail": -1})

    assert [line["text"] for line in page["lines"]] == ["d", "e"]
    assert len(whole["lines"]) == 5
    assert [line["text"] for line in rest["lines"]] == ["f"]
    assert refused.status_code == 422
