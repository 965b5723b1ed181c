"""`command.ack` and `job.*`: what a host says about a job of its own.

A report moves the job along the table of moves, repeats what is known (`duplicate`), or is refused.
A job of another host is not found here: a host learns nothing about its neighbours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from backhaul.wire.agents import Receipt
from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import OUTCOME_EVENTS, TERMINAL_STATES, Job, JobEvent, JobState, Outcome
from backhaul.wire.kinds import BackupResult, InitResult, PasswdResult, StatsResult, kind_of
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul_api.db.block import postpone
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import repositories
from backhaul_api.errors import ConflictError, InvalidError, LogGapError
from backhaul_api.jobs import log, rules, store
from backhaul_api.polling.arrival import DUPLICATE, OK, Arrival
from backhaul_api.repositories import password_changes, sizes
from backhaul_api.snapshots.store import note_maker

MAX_MESSAGE_LENGTH = 4096
_MAX_EXIT_CODE = 2**31 - 1


async def apply_ack(arrival: Arrival, ack: CommandAck) -> Receipt:
    """Give the job to the agent that claims it, or note that its policy refuses it."""
    job = await _fetch(arrival, ack.job_id)
    if ack.attempt != job.attempt:
        raise ConflictError(
            f"Job {job.id} is at attempt {job.attempt}: attempt {ack.attempt} must not be started."
        )
    if _is_known(job, ack):
        return DUPLICATE
    if job.state in TERMINAL_STATES:
        raise ConflictError(f"Job {job.id} is {job.state}: it must not be started any more.")
    if rules.is_overdue(job, arrival.now):
        raise ConflictError(f"Job {job.id} has passed its start deadline: it must not be started.")
    if ack.is_accepted:
        await arrival.gathered.claims.refuse_early(job)
        await _move(arrival, job, JobEvent.ACCEPT, accepted_at=arrival.now)
    else:
        reason = ack.reason or "The agent's policy refuses it."
        await _move(arrival, job, JobEvent.REJECT, message=_cap_message(reason))
    return OK


async def apply_started(arrival: Arrival, started: JobStarted) -> Receipt:
    job = await _fetch_attempt(arrival, started)
    if job is None:
        return DUPLICATE
    if job.accepted_at is not None and job.state is not JobState.ACCEPTED:
        return DUPLICATE
    started_at = _choose_time(started.at, earliest=job.accepted_at, now=arrival.now)
    await _move(arrival, job, JobEvent.START, started_at=started_at, progressed_at=arrival.now)
    return OK


async def apply_progress(arrival: Arrival, report: JobProgress) -> Receipt:
    """Keep it if it is the newest of a running job. It is of no use otherwise, but no fault."""
    job = await _fetch_attempt(arrival, report)
    if job is None:
        return DUPLICATE
    last, new = job.progress, report.progress
    is_older = last is not None and new.seconds_elapsed < last.seconds_elapsed
    if job.state is not JobState.RUNNING or is_older or new == last:
        return DUPLICATE
    progressed_at = arrival.now if rules.has_advanced(last, new) else job.progressed_at
    await store.save_progress(arrival.connection, job, new, progressed_at=progressed_at)
    arrival.topics.add(job.id)
    return OK


async def apply_log(arrival: Arrival, report: JobLog) -> Receipt:
    """Store the lines that are new.

    Raises:
        LogGapError: lines are missing before these.
        ConflictError: new lines for a job that is over, or was never accepted.
    """
    if report.seq < 0:
        raise InvalidError.of("seq", "counts from 0")
    job = await _fetch_attempt(arrival, report)
    if job is None:
        return DUPLICATE
    has_new = report.seq + len(report.lines) > job.log_lines
    if has_new and job.state not in _STATES_WITH_NEWS:
        raise ConflictError(f"Job {job.id} is {job.state}: its log takes no more lines.")
    if not await log.append(
        arrival.connection, job, seq=report.seq, lines=report.lines, now=arrival.now
    ):
        return DUPLICATE
    arrival.topics.add(job.id)
    return OK


async def apply_finished(arrival: Arrival, report: JobFinished) -> Receipt:
    """End the job, once its whole log is there; or queue its next attempt.

    Raises:
        LogGapError: log lines are missing.
        InvalidError: a field does not fit the job.
        IllegalJobMoveError: the job was never accepted, or cannot end like this.
    """
    job = await _fetch_attempt(arrival, report)
    if job is None or _has_ended_so(job, report):
        return DUPLICATE
    _check_end(job, report)
    if await _retry(arrival, job, report):
        return OK
    await _move(
        arrival,
        job,
        OUTCOME_EVENTS[report.outcome],
        finished_at=_choose_time(
            report.at, earliest=job.started_at or job.accepted_at, now=arrival.now
        ),
        exit_code=report.exit_code,
        failure_class=report.failure_class,
        message=None if report.message is None else _cap_message(report.message),
        result=report.result,
    )
    if report.outcome in {Outcome.SUCCEEDED, Outcome.INCOMPLETE}:
        await _note_existence(arrival, job, report)
        await _take_result(arrival, job, report)
    return OK


_STATES_WITH_NEWS = frozenset({JobState.ACCEPTED, JobState.RUNNING, JobState.LOST})
_STATES_REPORTED = frozenset(
    {JobState.SUCCEEDED, JobState.INCOMPLETE, JobState.FAILED, JobState.CANCELLED}
)


async def _retry(arrival: Arrival, job: Job, report: JobFinished) -> bool:
    """Queue the next attempt of a job that failed in a way that may pass."""
    if report.outcome is not Outcome.FAILED:
        return False
    delay_s = await store.fetch_retry_delay(arrival.connection, job.id)
    pause_s = rules.choose_retry(job, report.failure_class, delay_s=delay_s)
    if pause_s is None:
        return False
    await store.retry(
        arrival.connection,
        job,
        at=arrival.now,
        retry_at=arrival.now + timedelta(seconds=pause_s),
        exit_code=report.exit_code,
        failure_class=report.failure_class,
        message=None if report.message is None else _cap_message(report.message),
    )
    arrival.gathered.claims.note_move(job)
    arrival.topics.add(job.id)
    arrival.gathered.ended.append(job)
    return True


async def _fetch(arrival: Arrival, job_id: UUID) -> Job:
    known = arrival.gathered.jobs.pop(job_id, None)  # whoever changes it puts it back
    if known is not None and known.host_id == arrival.host_id:
        return known
    return await store.fetch_of_host(arrival.connection, job_id, arrival.host_id)


async def _fetch_attempt(
    arrival: Arrival, report: JobStarted | JobProgress | JobLog | JobFinished
) -> Job | None:
    """Fetch the job of a report; None when the report repeats what was said of an older attempt:
    all of that was here before the next one began."""
    # Not by other envelopes: a process that has lost the host says hello until the one that has it
    # is silent, and must not be taken for that one.
    arrival.has_news_of_jobs = True
    job = await _fetch(arrival, report.job_id)
    if not 1 <= report.attempt <= job.attempt:
        raise InvalidError.of("attempt", f"job {job.id} is at attempt {job.attempt}")
    return job if report.attempt == job.attempt else None


async def _move(arrival: Arrival, job: Job, event: JobEvent, **changes: Any) -> None:
    moved = await store.move(arrival.connection, job, event, at=arrival.now, **changes)
    arrival.gathered.jobs[job.id] = moved
    arrival.gathered.claims.note_move(job)
    arrival.topics.add(job.id)
    if moved.state in TERMINAL_STATES:
        arrival.gathered.ended.append(job)


def _is_known(job: Job, ack: CommandAck) -> bool:
    if not ack.is_accepted:
        return job.state is JobState.REJECTED
    # A job that was lost or cancelled was accepted too, but it must not start now: an agent that
    # asks again after a restart would take `duplicate` for leave to run it.
    is_closed = job.state in {JobState.LOST, JobState.CANCELLED}
    return job.accepted_at is not None and not is_closed


def _has_ended_so(job: Job, report: JobFinished) -> bool:
    if job.accepted_at is not None:
        return job.state in _STATES_REPORTED
    # Cancelled on both sides before its claim came here.
    return job.state is JobState.CANCELLED and report.outcome is Outcome.CANCELLED


def _check_end(job: Job, report: JobFinished) -> None:
    if report.log_lines < 0:
        raise InvalidError.of("log_lines", "counts from 0")
    if report.log_lines > job.log_lines:
        raise LogGapError(job.id, expected_seq=job.log_lines, got=report.log_lines)
    if report.result is not None and kind_of(report.result) is not job.kind:
        raise InvalidError.of("result", f"is not that of a {job.kind} job")
    if report.exit_code is not None and abs(report.exit_code) > _MAX_EXIT_CODE:
        raise InvalidError.of("exit_code", "is not an exit code")


async def _note_existence(arrival: Arrival, job: Job, report: JobFinished) -> None:
    """A job that worked proves that its repository exists; a copy, that both do."""
    rows = [
        {"which": repository_id, "now": arrival.now}
        for repository_id in filter(None, (job.repository_id, job.destination_id))
    ]
    if isinstance(report.result, InitResult):
        rows = [{**row, "restic_id": report.result.repository_id} for row in rows]
        await postpone(arrival.connection, _NOTE_INIT, rows)
    else:
        await postpone(arrival.connection, _NOTE_EXISTENCE, rows)


async def _take_result(arrival: Arrival, job: Job, report: JobFinished) -> None:
    """Do what follows from a result, with the end of its job: both happen, or neither."""
    match report.result:
        case BackupResult():
            await note_maker(arrival.connection, job, report.result.snapshot_id)
        case StatsResult() if job.repository_id is not None:
            at = _choose_time(report.at, earliest=job.accepted_at, now=arrival.now)
            await sizes.insert(arrival.connection, job.repository_id, job.id, report.result, at=at)
        case PasswdResult():
            arrival.topics.update(
                await password_changes.apply_success(arrival.connection, job, now=arrival.now)
            )
            arrival.gathered.forget()
        case _:
            pass


def _choose_time(said: datetime, *, earliest: datetime | None, now: datetime) -> datetime:
    """Believe the host's clock as far as the server's own times allow."""
    return said if (earliest or said) <= said <= now else now


def _cap_message(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:MAX_MESSAGE_LENGTH]} …"


_NOTE_EXISTENCE = constant(
    sa.update(repositories)
    .where(
        repositories.c.id == sa.bindparam("which"),
        repositories.c.initialized_at.is_(None),
    )
    .values(initialized_at=sa.bindparam("now"))
)
_NOTE_INIT = constant(_NOTE_EXISTENCE.values(restic_id=sa.bindparam("restic_id")))

APPLY: Mapping[type[msgspec.Struct], Callable[[Arrival, Any], Awaitable[Receipt]]] = {
    CommandAck: apply_ack,
    JobStarted: apply_started,
    JobProgress: apply_progress,
    JobLog: apply_log,
    JobFinished: apply_finished,
}
"""Who applies what of jobs."""
