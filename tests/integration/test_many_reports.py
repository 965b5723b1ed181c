"""Reports of many hosts at once: one transaction for them, and for each receipt the same as if it
had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import Receipt, ReceiptStatus
from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import FailureClass, JobEvent, LogLine, Outcome, Progress
from backhaul.wire.kinds import BackupResult, PasswdResult, PasswdStep
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul_api.db.tables import events, hosts, job_events, job_log, jobs, repositories
from backhaul_api.errors import NotReadyError
from backhaul_api.polling import job_reports
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository, add_source
from tests.fakes.statements import fail_at, watch_statements

COUNT = 12
OK = [ReceiptStatus.OK]
ACCEPTED = events.c.kind == "job.accepted"

Fleet = list[tuple[FakeAgent, UUID]]


@pytest.fixture
async def agents(services: Services, app: Litestar, operator: httpx.AsyncClient) -> list[FakeAgent]:
    await add_repository(operator)
    await add_source(operator)
    made = [await add_agent(services, app, name=f"web{number}") for number in range(COUNT)]
    for agent in made:
        await agent.say_hello()
    return made


@pytest.fixture
async def fleet(operator: httpx.AsyncClient, agents: list[FakeAgent]) -> Fleet:
    """Hosts with a job each."""
    return [(agent, await add_job(operator, host=agent.name)) for agent in agents]


def claim(job_id: UUID) -> CommandAck:
    return CommandAck(job_id=job_id, is_accepted=True)


def start(job_id: UUID) -> JobStarted:
    return JobStarted(job_id=job_id, attempt=1, at=START)


def end(job_id: UUID, *, log_lines: int = 0) -> JobFinished:
    result = BackupResult(snapshot_id="0" * 64, files_new=1)
    return JobFinished(
        job_id=job_id,
        attempt=1,
        at=START,
        outcome=Outcome.SUCCEEDED,
        log_lines=log_lines,
        exit_code=0,
        result=result,
    )


def log_line(job_id: UUID) -> JobLog:
    line = LogLine(at=START, stream="stdout", text="no files changed")
    return JobLog(job_id=job_id, attempt=1, seq=0, lines=(line,))


def progress(job_id: UUID) -> JobProgress:
    status = Progress(seconds_elapsed=1, percent_done=0.5, total_files=2, files_done=1)
    return JobProgress(job_id=job_id, attempt=1, at=START, progress=status)


async def send_all(fleet: Fleet, *build: Callable[[UUID], object]) -> list[list[Receipt]]:
    """Send a batch of each host's job, all at once."""
    return list(
        await asyncio.gather(
            *(agent.send(*(one(job_id) for one in build)) for agent, job_id in fleet)
        )
    )


async def fetch_states(services: Services) -> dict[UUID, str]:
    async with services.database.reading() as connection:
        rows = await connection.execute(sa.select(jobs.c.id, jobs.c.state))
        return {row.id: row.state for row in rows}


def statuses(receipts: list[list[Receipt]]) -> list[list[ReceiptStatus]]:
    return [[receipt.status for receipt in one] for one in receipts]


@contextmanager
def watching_transactions(services: Services) -> Iterator[list[str]]:
    """Note of each transaction with reports whether it is one for all, or for one batch alone."""
    begins = {
        "SELECT hosts.id, hosts.last_seen_at": "together",
        "SELECT hosts.last_seen_at": "alone",
    }
    looked: list[str] = []

    def note(statement: str, _: object) -> None:
        looked.extend(how for begin, how in begins.items() if statement.startswith(begin))

    with watch_statements(services.database, note):
        yield looked


async def test_reports_that_come_together_are_committed_together(
    services: Services, fleet: Fleet
) -> None:
    with watching_transactions(services) as looked:
        claimed = await send_all(fleet, claim)
        ended = await send_all(fleet, start, end)

    assert statuses(claimed) == [OK] * COUNT
    assert statuses(ended) == [OK * 2] * COUNT
    assert set((await fetch_states(services)).values()) == {"succeeded"}
    assert len(looked) < COUNT


async def test_jobs_of_reports_that_come_together_are_written_together(
    services: Services, fleet: Fleet
) -> None:
    """Each once, though its reports move it twice."""
    changed: list[int] = []

    def note(statement: str, values: object) -> None:
        if statement.startswith("UPDATE jobs"):
            changed.append(len(values) if isinstance(values, list) else 1)

    with watch_statements(services.database, note):
        await send_all(fleet, claim)
        claims, changed = sum(changed), []
        await send_all(fleet, start, end)

    assert claims == sum(changed) == COUNT
    assert len(changed) < COUNT
    async with services.database.reading() as connection:
        found = (await connection.execute(sa.select(jobs))).all()
        moves = (await connection.execute(sa.select(job_events).order_by(job_events.c.id))).all()
    assert {(job.state, job.exit_code, job.revision - found[0].revision) for job in found} == {
        ("succeeded", 0, 0)
    }
    assert {tuple(one.event for one in moves if one.job_id == job.id) for job in found} == {
        ("accept", "start", "succeed")
    }


async def test_bad_time_in_one_batch_leaves_the_others_together(
    services: Services, fleet: Fleet
) -> None:
    """Before year 1 in UTC; nothing that is stored can be so."""
    (agent, job_id), *others = fleet
    bad = msgspec.structs.replace(
        end(job_id),
        outcome=Outcome.CANCELLED,
        result=None,
        at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    )

    with watching_transactions(services) as looked:
        [told], *claimed = await asyncio.gather(
            agent.send(bad), *(other.send(claim(id_)) for other, id_ in others)
        )

    assert told.status is ReceiptStatus.REJECTED
    assert statuses(claimed) == [OK] * len(others)
    assert looked.count("alone") <= 2


async def test_log_lines_that_are_there_already_are_no_word_on_the_report(
    services: Services, fleet: Fleet
) -> None:
    """The table was damaged, or the server erred: the agent keeps them and asks again, and its
    neighbours lose nothing."""
    await send_all(fleet, claim, start)
    (agent, job_id), *others = fleet
    row = {"job_id": job_id, "attempt": 1, "seq": 0, "at": START, "stream": "stdout", "text": "a"}
    async with services.database.writing() as connection:
        await connection.execute(sa.insert(job_log).values(row))

    answers = await asyncio.gather(
        agent.post(log_line(job_id)), *(other.post(log_line(id_)) for other, id_ in others)
    )

    assert [answer.status_code for answer in answers] == [500, *[200] * len(others)]
    for other, id_ in others:
        [again] = await other.send(log_line(id_))
        assert again.status is ReceiptStatus.DUPLICATE


@pytest.mark.parametrize("log_lines", [-1, -(2**63)])
async def test_end_that_counts_fewer_lines_than_none_is_refused(
    services: Services, fleet: Fleet, log_lines: int
) -> None:
    agent, job_id = fleet[0]
    await agent.send(claim(job_id), start(job_id))

    [receipt] = await agent.send(end(job_id, log_lines=log_lines))

    assert receipt.problem is not None
    assert "log_lines: counts from 0" in receipt.problem.detail
    assert (await fetch_states(services))[job_id] == "running"


async def test_each_report_that_moves_a_job_raises_its_revision(
    operator: httpx.AsyncClient, services: Services, fleet: Fleet
) -> None:
    """Readers wait for that, and each sees as many moves as there were."""
    (agent, job_id), (other, other_id) = fleet[:2]
    before = (await operator.get(f"/v1/jobs/{job_id}")).json()["revision"]

    await agent.send(claim(job_id), start(job_id), log_line(job_id), end(job_id, log_lines=1))
    for report in (claim, start, log_line):
        await other.send(report(other_id))
    await other.send(end(other_id, log_lines=1))

    shown = [(await operator.get(f"/v1/jobs/{id_}")).json() for id_ in (job_id, other_id)]
    assert [job["revision"] - before for job in shown] == [4, 4]
    assert [job["log_lines"] for job in shown] == [1, 1]
    [page, other_page] = [
        (await operator.get(f"/v1/jobs/{id_}/log")).json()["lines"] for id_ in (job_id, other_id)
    ]
    assert page == other_page != []


async def test_batch_that_is_refused_is_not_followed_by_an_empty_round(
    services: Services, fleet: Fleet
) -> None:
    agent, job_id = fleet[0]

    with watching_transactions(services) as transactions:
        [receipt] = await agent.send(start(job_id))

    assert receipt.status is ReceiptStatus.REJECTED
    assert transactions == ["together", "alone", "alone"]


async def test_heavy_batch_keeps_no_other_waiting_for_it(services: Services, fleet: Fleet) -> None:
    agent, job_id = fleet[0]
    await agent.send(claim(job_id), start(job_id))
    lines = tuple(LogLine(at=START, stream="stdout", text="x" * 4096) for _ in range(40))

    with watching_transactions(services) as transactions:
        receipts = await agent.send(JobLog(job_id=job_id, attempt=1, seq=0, lines=lines))

    assert statuses([receipts]) == [OK]
    assert transactions == ["alone"]


async def test_prune_that_waits_for_its_next_attempt_lets_others_begin(
    services: Services, agents: list[FakeAgent], operator: httpx.AsyncClient
) -> None:
    prune = await add_job(operator, kind="prune", host="web0")
    async with services.database.writing() as connection:
        await connection.execute(sa.update(jobs).values(attempts=2))
    backup = await add_job(operator, host="web0")
    await agents[0].send(claim(prune), start(prune))
    failed = JobFinished(
        job_id=prune,
        attempt=1,
        at=START,
        outcome=Outcome.FAILED,
        failure_class=FailureClass.LOCKED,
        log_lines=0,
        exit_code=11,
    )

    with watching_transactions(services) as transactions:
        receipts = await agents[0].send(failed, claim(backup))

    assert statuses([receipts]) == [OK * 2]
    assert transactions == ["together"]
    assert await fetch_states(services) == {prune: "queued", backup: "accepted"}


async def test_job_is_the_same_whichever_way_its_reports_came(
    services: Services, agents: list[FakeAgent], operator: httpx.AsyncClient, clock: FakeClock
) -> None:
    reports: list[list[Callable[[UUID], object]]] = [
        [claim],
        [start, progress],
        [log_line],
        [lambda job_id: end(job_id, log_lines=1)],
    ]
    together, alone = agents[:2]
    rows: list[dict[str, Any]] = []
    for agent in (together, alone):
        job_id = await add_job(operator, host=agent.name)
        for batch in reports:
            envelopes = [one(job_id) for one in batch]
            # A batch with anything else in it has a transaction of its own.
            beside = [] if agent is together else [{"type": "not.ours"}]
            receipts = await agent.send(*envelopes, *beside)
            assert {receipt.status for receipt in receipts[: len(envelopes)]} == {ReceiptStatus.OK}
        async with services.database.reading() as connection:
            row = (
                await connection.execute(
                    sa.select(jobs, hosts.c.last_backup_at, repositories.c.initialized_at)
                    .join(hosts, hosts.c.id == jobs.c.host_id)
                    .join(repositories, repositories.c.id == jobs.c.repository_id)
                    .where(jobs.c.id == job_id)
                )
            ).one()
            moves = await connection.execute(
                sa.select(job_events.c.event, job_events.c.from_state, job_events.c.to_state)
                .where(job_events.c.job_id == job_id)
                .order_by(job_events.c.id)
            )
            told = await connection.scalars(
                sa.select(events.c.kind).where(events.c.job_id == job_id).order_by(events.c.id)
            )
            left_out = {"id", "host_id"}
            rows.append(
                {name: row._mapping[name] for name in row._mapping if name not in left_out}
                | {"moves": [tuple(move) for move in moves], "told": list(told)}
            )

    assert rows[0] == rows[1]
    assert [move[0] for move in rows[0]["moves"]] == [
        JobEvent.ACCEPT,
        JobEvent.START,
        JobEvent.SUCCEED,
    ]
    assert rows[0]["last_backup_at"] is not None
    assert rows[0]["initialized_at"] is not None


@pytest.mark.parametrize("bad", [1, 5])
async def test_bad_batches_cost_their_neighbours_nothing(
    services: Services, fleet: Fleet, bad: int
) -> None:
    def claim_wrongly(job_id: UUID) -> CommandAck:
        return CommandAck(job_id=job_id, attempt=7, is_accepted=True)

    results = await asyncio.gather(
        *(
            agent.send((claim_wrongly if number < bad else claim)(job_id))
            for number, (agent, job_id) in enumerate(fleet)
        )
    )

    for [receipt] in results[:bad]:
        assert receipt.problem is not None
        assert receipt.problem.type == ProblemType.CONFLICT
    assert statuses(results[bad:]) == [OK] * (COUNT - bad)
    states = await fetch_states(services)
    assert [states[job_id] for _, job_id in fleet] == [
        *["queued"] * bad,
        *["accepted"] * (COUNT - bad),
    ]


async def test_host_that_is_refused_again_and_again_costs_the_others_one_more_round(
    services: Services, fleet: Fleet
) -> None:
    (bad, bad_job), *others = fleet

    with watching_transactions(services) as transactions:
        *refused, first, last = await asyncio.gather(
            *(bad.send(start(bad_job)) for _ in range(3)),
            *(agent.send(claim(job_id)) for agent, job_id in (others[0], others[-1])),
        )

    assert statuses([first, last]) == [OK, OK]
    assert statuses(refused) == [[ReceiptStatus.REJECTED]] * 3
    assert transactions.count("alone") == 2 * 3


async def test_host_learns_nothing_about_a_neighbours_job(services: Services, fleet: Fleet) -> None:
    [(thief, own), (owner, job_id), *others] = fleet

    stolen, claimed, *rest = await asyncio.gather(
        thief.send(claim(job_id)),
        owner.send(claim(job_id)),
        *(agent.send(claim(one)) for agent, one in others),
    )

    assert stolen[0].problem is not None
    assert stolen[0].problem.type == ProblemType.NOT_FOUND
    assert statuses([claimed, *rest]) == [OK] * (COUNT - 1)
    assert (await fetch_states(services))[own] == "queued"


async def test_fault_of_the_server_in_one_batch_undoes_that_one_only(
    services: Services, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send_all(fleet, claim)
    unlucky = fleet[3][1]
    fetch = job_reports._fetch_attempt

    async def fail_for_one(arrival: Any, report: Any) -> Any:
        if report.job_id == unlucky:
            raise ZeroDivisionError
        return await fetch(arrival, report)

    monkeypatch.setattr(job_reports, "_fetch_attempt", fail_for_one)
    answers = await asyncio.gather(*(agent.post(start(job_id)) for agent, job_id in fleet))

    states = await fetch_states(services)
    assert [answer.status_code for answer in answers] == [
        500 if job_id == unlucky else 200 for _, job_id in fleet
    ]
    assert {job_id for job_id, state in states.items() if state != "running"} == {unlucky}


async def test_database_that_says_nothing_more_is_no_fault_of_a_batch(
    services: Services, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, job_id = fleet[0]
    await agent.send(claim(job_id))

    async def wait_in_vain(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(job_reports, "_fetch_attempt", wait_in_vain)

    with pytest.raises(NotReadyError):
        await services.reports.take(agent.host_id, [start(job_id)], size=1)


@pytest.mark.parametrize("tag", ["passwd", r"passw\u0064"])
async def test_change_of_a_password_is_never_applied_with_the_reports_of_others(
    services: Services, fleet: Fleet, tag: str
) -> None:
    """It locks hosts in an order of its own, however it is written."""
    agent, job_id = fleet[0]
    finished = JobFinished(
        job_id=job_id,
        attempt=1,
        at=START,
        outcome=Outcome.SUCCEEDED,
        log_lines=0,
        result=PasswdResult(step=PasswdStep.ADD),
    )
    raw = msgspec.json.encode(finished).replace(b'"passwd"', f'"{tag}"'.encode())

    with watching_transactions(services) as transactions:
        await agent.send(raw)

    assert transactions == ["alone", "alone"]


@pytest.mark.parametrize("is_prune_first", [True, False])
async def test_of_claims_that_come_together_the_first_keeps_the_others_waiting(
    services: Services,
    agents: list[FakeAgent],
    operator: httpx.AsyncClient,
    *,
    is_prune_first: bool,
) -> None:
    """Whichever transaction they are in, nothing works beside a prune."""
    prune = await add_job(operator, kind="prune", host="web0")
    backups = [(agent, await add_job(operator, host=agent.name)) for agent in agents[1:]]
    claims = [agent.send(claim(job_id)) for agent, job_id in backups]
    claims.insert(0 if is_prune_first else len(claims), agents[0].send(claim(prune)))

    results = await asyncio.gather(*claims)

    states = await fetch_states(services)
    accepted = {job_id for job_id, state in states.items() if state == "accepted"}
    assert accepted in ({prune}, {job_id for _, job_id in backups})
    for [receipt] in results:
        assert receipt.status is ReceiptStatus.OK or (
            receipt.problem is not None and receipt.problem.type == ProblemType.JOB_WAITS
        )


async def test_end_of_a_prune_wakes_those_who_wait_for_it(
    services: Services, agents: list[FakeAgent], operator: httpx.AsyncClient
) -> None:
    prune = await add_job(operator, kind="prune", host="web0")
    assert statuses([await agents[0].send(claim(prune), start(prune))]) == [OK * 2]
    await add_job(operator, host="web5")
    finished = JobFinished(
        job_id=prune, attempt=1, at=START, outcome=Outcome.FAILED, log_lines=0, exit_code=1
    )

    with services.wakeups.listen(agents[5].host_id) as bell:
        assert statuses([await agents[0].send(finished)]) == [OK]
        rang = bell.has_rung()

    assert rang


async def test_batches_of_one_host_are_applied_in_their_order(
    services: Services, fleet: Fleet
) -> None:
    """As they came: on their way here, requests that are made at once can overtake each other."""
    agent, job_id = fleet[0]
    batches = [
        *((other.host_id, claim(one)) for other, one in fleet[1:]),
        *((agent.host_id, build(job_id)) for build in (claim, start, end)),
    ]

    receipts = await asyncio.gather(
        *(services.reports.take(host_id, [report], size=1) for host_id, report in batches)
    )

    assert receipts == [[Receipt(status=ReceiptStatus.OK)]] * (COUNT + 2)
    assert (await fetch_states(services))[job_id] == "succeeded"


async def test_repeated_reports_are_duplicates(services: Services, fleet: Fleet) -> None:
    await send_all(fleet, claim)
    await send_all(fleet, start, end)

    again = await send_all(fleet, claim, start, end)

    assert statuses(again) == [[ReceiptStatus.DUPLICATE] * 3] * COUNT
    async with services.database.reading() as connection:
        moves = await connection.scalar(sa.select(sa.func.count()).select_from(job_events))
    assert moves == 3 * COUNT


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_host_that_is_locked_keeps_only_itself_waiting(
    services: Services, fleet: Fleet
) -> None:
    (slow, slow_job), *others = fleet
    async with services.database.writing() as connection:
        await connection.execute(
            sa.select(hosts.c.id).where(hosts.c.id == slow.host_id).with_for_update()
        )
        waiting = asyncio.create_task(slow.send(claim(slow_job)))
        receipts = await send_all(others, claim)
        is_held_up = not waiting.done()

    assert statuses(receipts) == [OK] * (COUNT - 1)
    assert is_held_up
    assert statuses([await waiting]) == [OK]


async def test_visit_is_noted_with_the_news_of_a_job(
    services: Services, fleet: Fleet, clock: FakeClock
) -> None:
    await send_all(fleet, claim)
    clock.advance(timedelta(minutes=5).total_seconds())

    await send_all(fleet, start)

    async with services.database.reading() as connection:
        seen = set(await connection.scalars(sa.select(hosts.c.last_seen_at)))
    assert seen == {clock.now()}


async def test_receipts_are_given_only_for_what_was_committed(
    services: Services, fleet: Fleet
) -> None:
    with watch_statements(services.database, fail_at("COMMIT")):
        answers = await asyncio.gather(*(agent.post(claim(job_id)) for agent, job_id in fleet))
    again = await send_all(fleet, claim)

    assert {answer.status_code for answer in answers} == {500}
    assert statuses(again) == [OK] * COUNT
    async with services.database.reading() as connection:
        told = await connection.scalars(sa.select(events.c.job_id).where(ACCEPTED))
    assert sorted(told) == sorted(job_id for _, job_id in fleet)


async def test_report_counts_though_its_sender_has_gone(services: Services, fleet: Fleet) -> None:
    agent, job_id = fleet[0]
    reporting = asyncio.create_task(services.reports.take(agent.host_id, [claim(job_id)], size=1))
    for _ in range(2):
        await asyncio.sleep(0)

    reporting.cancel()
    receipts = await agent.send(claim(job_id))

    assert [receipt.status for receipt in receipts] == [ReceiptStatus.DUPLICATE]
