"""POST /v1/agent/envelopes: what each envelope does, what it refuses, and what repeats do."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import (
    MAX_BATCH_BYTES,
    HeldJob,
    Hello,
    Receipt,
    ReceiptStatus,
)
from backhaul.wire.commands import CommandAck, QueryAnswer
from backhaul.wire.jobs import (
    FailureClass,
    JobEvent,
    LogLine,
    Outcome,
    Progress,
)
from backhaul.wire.kinds import BackupResult, InitResult, SnapshotsResult
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul_api.db.tables import hosts, job_events, jobs
from backhaul_api.errors import ConflictError
from backhaul_api.jobs import store
from backhaul_api.polling import job_reports
from backhaul_api.polling.hello import MAX_RECENT_BOOTS, SILENT_AFTER
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FACTS,
    FakeAgent,
    add_agent,
    add_job,
    add_schedule,
    add_source,
    build_batch,
)

OK, DUPLICATE, REJECTED = ReceiptStatus.OK, ReceiptStatus.DUPLICATE, ReceiptStatus.REJECTED


def started(job_id: UUID, **changes: Any) -> JobStarted:
    return JobStarted(**{"job_id": job_id, "attempt": 1, "at": START, **changes})


def finished(job_id: UUID, **changes: Any) -> JobFinished:
    report = {
        "job_id": job_id,
        "attempt": 1,
        "at": START,
        "outcome": Outcome.SUCCEEDED,
        "log_lines": 0,
        "exit_code": 0,
    }
    return JobFinished(**{**report, **changes})


def logged(job_id: UUID, seq: int, *texts: str) -> JobLog:
    lines = tuple(LogLine(at=START, stream="stdout", text=text) for text in texts)
    return JobLog(job_id=job_id, attempt=1, seq=seq, lines=lines)


def progressed(job_id: UUID, seconds: int) -> JobProgress:
    return JobProgress(
        job_id=job_id, attempt=1, at=START, progress=Progress(seconds_elapsed=seconds)
    )


async def show(operator: httpx.AsyncClient, job_id: UUID) -> dict[str, Any]:
    answer = await operator.get(f"/v1/jobs/{job_id}")
    shown: dict[str, Any] = answer.json()
    return shown


def statuses(receipts: list[Receipt]) -> list[ReceiptStatus]:
    return [receipt.status for receipt in receipts]


async def start(operator: httpx.AsyncClient, agent: FakeAgent, **request: Any) -> UUID:
    job_id = await add_job(operator, **request)
    assert statuses(
        await agent.send(CommandAck(job_id=job_id, is_accepted=True), started(job_id))
    ) == [OK, OK]
    return job_id


# The life of a job -------------------------------------------------------------------------------


async def test_whole_life_of_a_backup(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await add_job(operator)
    result = BackupResult(snapshot_id="0a1b2c3d", files_new=3)

    receipts = await agent.send(
        CommandAck(job_id=job_id, is_accepted=True),
        started(job_id),
        progressed(job_id, 1),
        logged(job_id, 0, "hello", "world"),
        finished(job_id, log_lines=2, result=result),
    )

    assert statuses(receipts) == [OK] * 5
    job = await show(operator, job_id)
    assert job["state"] == "succeeded"
    assert job["result"]["snapshot_id"] == "0a1b2c3d"
    assert (job["exit_code"], job["log_lines"], job["revision"]) == (0, 2, 5)
    assert None not in {job["accepted_at"], job["started_at"], job["finished_at"]}


async def test_whole_batch_may_come_twice(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await add_job(operator)
    batch = (
        CommandAck(job_id=job_id, is_accepted=True),
        started(job_id),
        progressed(job_id, 1),
        logged(job_id, 0, "hello"),
        finished(job_id, log_lines=1),
    )
    await agent.send(*batch)
    before = await show(operator, job_id)

    receipts = await agent.send(*batch)

    assert statuses(receipts) == [DUPLICATE] * 5
    assert await show(operator, job_id) == before


async def test_same_batch_twice_at_once_changes_everything_once(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await add_job(operator)
    batch = (
        CommandAck(job_id=job_id, is_accepted=True),
        started(job_id),
        logged(job_id, 0, *"abc"),
        finished(job_id, log_lines=3),
    )

    both = await asyncio.gather(*(agent.send(*batch) for _ in range(2)))

    assert sorted(map(str, statuses([*both[0], *both[1]]))) == ["duplicate"] * 4 + ["ok"] * 4
    async with services.database.reading() as connection:
        events = await connection.scalar(sa.select(sa.func.count()).select_from(job_events))
    assert events == 3
    lines = (await operator.get(f"/v1/jobs/{job_id}/log")).json()["lines"]
    assert [line["text"] for line in lines] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.SUCCEEDED, "succeeded"),
        (Outcome.INCOMPLETE, "incomplete"),
        (Outcome.FAILED, "failed"),
        (Outcome.CANCELLED, "cancelled"),
    ],
)
async def test_outcome_decides_the_end(
    operator: httpx.AsyncClient, agent: FakeAgent, outcome: Outcome, state: str
) -> None:
    job_id = await start(operator, agent)

    await agent.send(
        finished(
            job_id,
            outcome=outcome,
            exit_code=-2,
            failure_class=FailureClass.LOCKED,
            message="it was locked",
        )
    )

    job = await show(operator, job_id)
    assert (job["state"], job["exit_code"]) == (state, -2)
    assert (job["failure_class"], job["message"]) == ("locked", "it was locked")


async def test_agent_that_cannot_start_reports_failure_without_a_start(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)

    receipts = await agent.send(
        logged(job_id, 0, "restic is missing"),
        finished(job_id, outcome=Outcome.FAILED, log_lines=1, exit_code=None),
    )

    assert statuses(receipts) == [OK, OK]
    assert (await show(operator, job_id))["state"] == "failed"


async def test_policy_of_the_agent_rejects_a_job(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    refusal = CommandAck(job_id=job_id, is_accepted=False, reason="paths: /etc is not allowed")

    receipts = await agent.send(refusal, refusal)

    assert statuses(receipts) == [OK, DUPLICATE]
    job = await show(operator, job_id)
    assert (job["state"], job["message"]) == ("rejected", "paths: /etc is not allowed")


@pytest.mark.parametrize("event", ["cancel", "expire", "fail", "reject"])
async def test_job_that_is_over_before_it_began_cannot_be_claimed(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    clock: FakeClock,
    event: Any,
) -> None:
    job_id = await add_job(operator)
    async with services.database.writing() as connection:
        job = await store.fetch(connection, job_id)
        await store.move(connection, job, event, at=clock.now())

    receipts = await agent.send(
        CommandAck(job_id=job_id, is_accepted=True), started(job_id), finished(job_id)
    )

    assert statuses(receipts) == [REJECTED] * 3
    assert receipts[0].problem is not None
    assert "must not be started" in receipts[0].problem.detail


@pytest.mark.parametrize("event", [JobEvent.CANCEL, JobEvent.VANISH])
async def test_accepted_job_that_was_closed_since_cannot_be_claimed_again(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    clock: FakeClock,
    event: JobEvent,
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    async with services.database.writing() as connection:
        job = await store.fetch(connection, job_id)
        await store.move(connection, job, event, at=clock.now())

    again = await agent.accept(job_id)

    assert again.status is REJECTED


async def test_job_past_its_deadline_cannot_be_claimed(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    job_id = await add_job(operator)
    async with services.database.writing() as connection:
        await connection.execute(sa.update(jobs).values(start_deadline_at=clock.now()))
    clock.advance(1)

    assert (await agent.accept(job_id)).status is REJECTED
    assert (await show(operator, job_id))["state"] == "expired"


async def test_start_and_end_without_a_claim_are_refused(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    receipts = await agent.send(
        started(job_id), logged(job_id, 0, "x"), finished(job_id), progressed(job_id, 1)
    )

    assert statuses(receipts) == [REJECTED, REJECTED, REJECTED, DUPLICATE]
    assert [r.problem and r.problem.type for r in receipts[:3]] == [
        ProblemType.ILLEGAL_MOVE,
        ProblemType.CONFLICT,
        ProblemType.ILLEGAL_MOVE,
    ]
    assert (await show(operator, job_id))["state"] == "queued"


async def test_job_of_another_host_does_not_exist_for_this_one(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    stranger = await add_agent(services, app, name="web2")
    job_id = await add_job(operator)

    receipts = await stranger.send(
        CommandAck(job_id=job_id, is_accepted=True), started(job_id), finished(job_id)
    )
    unknown = await stranger.accept(uuid4())

    assert statuses(receipts) == [REJECTED] * 3
    for receipt in (*receipts, unknown):
        assert receipt.problem is not None
        assert receipt.problem.type == ProblemType.NOT_FOUND
    assert (await show(operator, job_id))["state"] == "queued"


async def test_report_of_another_attempt_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent)

    [receipt] = await agent.send(finished(job_id, attempt=2))

    assert receipt.problem is not None
    assert [error.field for error in receipt.problem.errors] == ["attempt"]


async def test_result_of_another_kind_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent)

    receipts = await agent.send(
        finished(job_id, result=SnapshotsResult(snapshots_count=1)),
        finished(job_id, exit_code=2**40),
    )

    assert statuses(receipts) == [REJECTED, REJECTED]
    assert (await show(operator, job_id))["state"] == "running"


async def test_clock_of_the_host_is_believed_within_the_servers_times(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    clock.advance(600)

    await agent.send(
        started(job_id, at=START + timedelta(seconds=5)),
        finished(job_id, at=START + timedelta(days=3)),
    )

    job = await show(operator, job_id)
    assert job["started_at"] == "2026-11-23T12:00:05Z"
    assert job["finished_at"] == "2026-11-23T12:10:00Z"


async def test_newest_progress_wins_and_leaves_no_event(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await start(operator, agent)

    receipts = await agent.send(progressed(job_id, 5), progressed(job_id, 3), progressed(job_id, 6))

    assert statuses(receipts) == [OK, DUPLICATE, OK]
    job = await show(operator, job_id)
    assert job["progress"] == {"seconds_elapsed": 6}
    assert job["revision"] == 4
    async with services.database.reading() as connection:
        events = (await connection.scalars(sa.select(job_events.c.event))).all()
    assert sorted(events) == ["accept", "start"]


async def test_init_makes_the_repository_known(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent, kind="init")

    await agent.send(finished(job_id, result=InitResult(repository_id="9f8e7d6c5b")))

    repository = (await operator.get("/v1/repositories/nas")).json()
    assert repository["initialized_at"] is not None
    assert repository["restic_id"] == "9f8e7d6c5b"


async def test_first_job_that_worked_makes_the_repository_known(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    failing, first, second = [await start(operator, agent) for _ in range(3)]

    async def known_since() -> Any:
        return (await operator.get("/v1/repositories/nas")).json()["initialized_at"]

    await agent.send(finished(failing, outcome=Outcome.FAILED))
    assert await known_since() is None
    await agent.send(finished(first, outcome=Outcome.INCOMPLETE))
    since = await known_since()
    clock.advance(60)
    await agent.send(finished(second))

    assert since is not None
    assert await known_since() == since


# Hello -------------------------------------------------------------------------------------------


async def test_hello_makes_its_process_the_current_one_and_updates_the_facts(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    boot_id = uuid4()
    facts = msgspec.structs.replace(FACTS, restic_version="0.18.0")

    receipts = await agent.send(
        Hello(boot_id=boot_id, facts=facts), Hello(boot_id=boot_id, facts=facts)
    )

    assert statuses(receipts) == [OK, DUPLICATE]
    assert (await agent.ask()).status_code == 409
    assert (await agent.ask(boot_id=boot_id)).status_code == 200
    assert (await operator.get("/v1/hosts/web1")).json()["facts"]["restic_version"] == "0.18.0"


async def test_hello_loses_the_jobs_that_the_agent_forgot(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    queued = await add_job(operator)
    forgotten, held = await start(operator, agent), await start(operator, agent)

    await agent.say_hello(HeldJob(job_id=held, state="running"), boot_id=uuid4())

    states = [(await show(operator, job_id))["state"] for job_id in (queued, forgotten, held)]
    assert states == ["queued", "lost", "running"]


async def test_repeated_hello_does_not_lose_what_came_after_the_first(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent)

    assert (await agent.say_hello()).status is DUPLICATE

    assert (await show(operator, job_id))["state"] == "running"


async def test_hello_of_an_older_process_changes_nothing_while_a_newer_one_lives(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    old, new = agent.boot_id, uuid4()
    await agent.say_hello(boot_id=new)
    job_id = await start(operator, agent)
    clock.advance(SILENT_AFTER.total_seconds() - 1)

    receipt = await agent.say_hello(boot_id=old)

    assert receipt.status is DUPLICATE
    assert (await show(operator, job_id))["state"] == "running"
    assert (await agent.ask(boot_id=old)).status_code == 409
    assert (await agent.ask(boot_id=new)).status_code == 200


async def test_older_process_gets_the_host_back_from_one_that_fell_silent(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    old, new = agent.boot_id, uuid4()
    await agent.say_hello(boot_id=new)
    job_id = await start(operator, agent)
    await agent.ask(boot_id=new)
    clock.advance(SILENT_AFTER.total_seconds())

    receipt = await agent.say_hello(boot_id=old)

    assert receipt.status is OK
    assert (await show(operator, job_id))["state"] == "lost"
    assert (await agent.ask(boot_id=old)).status_code == 200
    # And now the other one is the older.
    assert (await agent.say_hello(boot_id=new)).status is DUPLICATE


async def test_no_process_of_before_is_a_new_one(agent: FakeAgent) -> None:
    boots = [agent.boot_id, *(uuid4() for _ in range(3))]
    for boot_id in boots[1:]:
        assert (await agent.say_hello(boot_id=boot_id)).status is OK

    receipts = [await agent.say_hello(boot_id=boot_id) for boot_id in boots]

    assert statuses(receipts) == [DUPLICATE] * 4


async def test_number_of_processes_that_are_remembered_is_bounded(
    agent: FakeAgent, services: Services
) -> None:
    boots = [uuid4() for _ in range(MAX_RECENT_BOOTS + 4)]
    for boot_id in boots:
        await agent.say_hello(boot_id=boot_id)

    async with services.database.reading() as connection:
        kept = await connection.scalar(sa.select(hosts.c.recent_boots))

    assert kept == [str(boot_id) for boot_id in boots[-MAX_RECENT_BOOTS:]]


async def test_late_report_of_a_lost_job_is_adopted(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent)
    await agent.say_hello(boot_id=uuid4())
    report = finished(job_id, log_lines=1, result=BackupResult(snapshot_id="0a1b2c3d"))

    receipts = await agent.send(started(job_id), logged(job_id, 0, "late"), report, report)

    assert statuses(receipts) == [DUPLICATE, OK, OK, DUPLICATE]
    job = await show(operator, job_id)
    assert (job["state"], job["message"]) == ("succeeded", None)


async def test_lost_job_must_not_start_any_more(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent)
    await agent.say_hello(boot_id=uuid4())

    assert (await agent.accept(job_id)).status is REJECTED


# Batches -----------------------------------------------------------------------------------------


async def test_bad_envelopes_leave_their_neighbours_alone(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    receipts = await agent.send(
        b'{"type": "job.paused", "job_id": 7}',
        b'{"type": "job.started", "job_id": 7}',
        b'{"type": "job.started"}',
        b'{"no": "type"}',
        b"[]",
        b'{"type": 7}',
        CommandAck(job_id=job_id, is_accepted=True),
    )

    assert statuses(receipts) == [REJECTED] * 6 + [OK]
    types = [receipt.problem.type for receipt in receipts if receipt.problem]
    assert types == [ProblemType.UNKNOWN_ENVELOPE] + [ProblemType.INVALID_REQUEST] * 5


async def test_unknown_fields_are_ignored(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    job_id = await add_job(operator)
    ack = (
        f'{{"type":"command.ack","job_id":"{job_id}","is_accepted":true,"colour":"blue"}}'.encode()
    )

    assert statuses(await agent.send(ack)) == [OK]


async def test_refused_envelope_changes_nothing(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = await start(operator, agent, kind="init")

    async def refuse(*_: Any) -> None:
        raise ConflictError("no")

    # The last step of an end, after the job has moved.
    monkeypatch.setattr(job_reports, "_note_existence", refuse)
    receipts = await agent.send(finished(job_id), logged(job_id, 0, "still running"))

    assert statuses(receipts) == [REJECTED, OK]
    assert (await show(operator, job_id))["state"] == "running"


async def test_fault_of_the_server_undoes_the_batch_and_asks_for_it_again(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job_id = await add_job(operator)

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(job_reports, "_choose_time", fail)  # of a start and an end
    answer = await agent.post(CommandAck(job_id=job_id, is_accepted=True), started(job_id))

    assert answer.status_code == 500
    assert (await show(operator, job_id))["state"] == "queued"
    assert "ZeroDivisionError" in caplog.text


async def test_batch_has_limits(agent: FakeAgent) -> None:
    many = await agent.post(*[QueryAnswer(query_id=uuid4())] * 501)
    large = await agent.client.post(
        "/v1/agent/envelopes", content=b'{"envelopes":[]}' + b" " * MAX_BATCH_BYTES
    )

    for answer in (many, large):
        assert answer.status_code == 413
        assert answer.json()["type"] == ProblemType.TOO_LARGE
        assert "Split it" in answer.json()["detail"]
        assert answer.headers["backhaul-protocol"] == "1"


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b'{"envelopes": 7}', b"\xff"], ids=repr)
async def test_body_that_is_no_batch_is_refused(agent: FakeAgent, body: bytes) -> None:
    answer = await agent.client.post("/v1/agent/envelopes", content=body)

    assert answer.status_code == 422
    assert answer.json()["type"] == ProblemType.INVALID_REQUEST


async def test_empty_batch_has_no_receipts(agent: FakeAgent) -> None:
    assert await agent.send() == []


async def test_batches_need_the_token_and_the_protocol_of_an_agent(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    headers = {"Backhaul-Protocol": "1"}
    as_operator = await operator.post("/v1/agent/envelopes", content=build_batch(), headers=headers)
    agent.client.headers["Backhaul-Protocol"] = "7"
    from_the_future = await agent.post()

    assert as_operator.status_code == 401
    assert from_the_future.status_code == 426
    assert from_the_future.json()["protocol"] == {"minimum": 1, "maximum": 1}


async def test_removed_host_is_told_so(
    agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(sa.update(hosts).values(removed_at=clock.now()))

    answer = await agent.post()

    assert answer.status_code == 410
    assert answer.json()["type"] == ProblemType.HOST_REMOVED


async def test_nul_characters_are_stored_as_replacement_characters(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent)

    receipts = await agent.send(
        logged(job_id, 0, "a\x00b", "not one: \\u0000"),
        finished(job_id, log_lines=2, message="c\x00", outcome=Outcome.FAILED),
    )

    assert statuses(receipts) == [OK, OK]
    lines = (await operator.get(f"/v1/jobs/{job_id}/log")).json()["lines"]
    assert [line["text"] for line in lines] == ["a\ufffdb", "not one: \\u0000"]
    assert (await show(operator, job_id))["message"] == "c\ufffd"


async def test_time_that_no_database_holds_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await start(operator, agent)
    await add_source(operator)
    schedule_id = (await add_schedule(operator))["id"]
    impossible = "0001-01-01T00:00:00+14:00"
    line = f'{{"at":"{impossible}","stream":"stdout","text":"x"}}'
    log = f'{{"type":"job.log","job_id":"{job_id}","attempt":1,"seq":0,"lines":[{line}]}}'
    fire = f'{{"type":"schedule.fire","schedule_id":"{schedule_id}","scheduled_at":"{impossible}"'
    fire += f',"fired_at":"{impossible}"}}'

    receipts = await agent.send(log.encode(), fire.encode(), logged(job_id, 0, "y"))

    assert statuses(receipts) == [REJECTED, REJECTED, OK]


async def test_what_is_not_kept_here_is_refused_with_a_reason(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await start(operator, agent)
    unknown = f'{{"type": "repo.weather", "job_id": "{job_id}"}}'.encode()

    receipts = await agent.send(unknown, QueryAnswer(query_id=uuid4()))

    assert [receipt.problem and receipt.problem.type for receipt in receipts] == [
        ProblemType.UNKNOWN_ENVELOPE,
        ProblemType.NOT_FOUND,
    ]
