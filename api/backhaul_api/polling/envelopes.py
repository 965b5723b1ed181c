"""What is due for a host, derived from rows: nothing is queued, so nothing can be lost."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import HeldJob
from backhaul.wire.commands import CommandCancel, CommandRun, JobPriority
from backhaul.wire.jobs import JobState, Obstacle
from backhaul.wire.kinds import Arguments, CopyArguments, InitArguments, JobKind
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import jobs
from backhaul_api.errors import ConflictError, NotFoundError
from backhaul_api.jobs import turns
from backhaul_api.jobs.active import IS_ACTIVE
from backhaul_api.keys import SecretDoesNotOpenError
from backhaul_api.kinds import complete
from backhaul_api.logs import facts
from backhaul_api.polling.sealing import Sealer
from backhaul_api.repositories.rules import choose_access

log = logging.getLogger(__name__)

MAX_DUE = 100
"""Envelopes in one answer; the rest are due next time."""


@dataclass(frozen=True, slots=True)
class Due:
    """What one look found."""

    envelopes: list[msgspec.Raw] = field(default_factory=list)
    overdue: list[UUID] = field(default_factory=list)
    """Jobs that have to expire, because this look came too late for them."""
    unsendable: dict[UUID, str] = field(default_factory=dict)
    """Jobs that have to fail, because what they need cannot be sent; and why."""
    held_back: list[UUID] = field(default_factory=list)
    """Jobs whose secrets do not open here now."""
    queries: list[UUID] = field(default_factory=list)
    """Whose envelopes are among them."""
    is_waiting: bool = False
    """A job of the host is queued: what keeps it waiting may end without a word."""
    again_in_s: float | None = None
    """When to look again: a retry is due then."""
    is_old_news: bool = False
    """All of it stays due until the agent has done something that may take it a while."""
    returned: list[UUID] = field(default_factory=list)
    """Jobs that count as lost, and that the host says it works on."""


@dataclass(slots=True)
class Sorted:
    """The active jobs of a host, by what is to be done about them."""

    due: Due = field(default_factory=Due)
    """As far as it does not depend on other jobs."""
    cancels: list[msgspec.Raw] = field(default_factory=list)
    waiting: list[sa.RowMapping] = field(default_factory=list)
    """Jobs that the host may have, once their turn has come."""
    again_at: datetime | None = None


async def fetch_active(
    connection: AsyncConnection, host_ids: Sequence[UUID]
) -> dict[UUID, list[sa.RowMapping]]:
    """Fetch the active jobs of hosts, oldest first."""
    found: dict[UUID, list[sa.RowMapping]] = {host_id: [] for host_id in host_ids}
    rows = (await connection.execute(_ACTIVE, {"host_ids": list(host_ids)})).mappings()
    # Sorted only here: asked for an order, SQLite walks through every job the hosts ever had.
    for row in sorted(rows, key=lambda row: row["id"]):
        found[row["host_id"]].append(row)
    return found


async def sort_jobs(
    sealer: Sealer, rows: Sequence[sa.RowMapping], held: Iterable[HeldJob], *, now: datetime
) -> Sorted:
    """Sort a host's active jobs by what is due, beside those that the agent says it holds."""
    holds = {job.job_id: job for job in held}
    sorted_ = Sorted()
    due, cancels, waiting = sorted_.due, sorted_.cancels, sorted_.waiting
    cancels += await _look_behind(due, sealer, holds, {row["id"] for row in rows})
    for row in rows:
        hold = holds.get(row["id"])
        if row["state"] != JobState.QUEUED:
            if row["cancel_requested_at"] and _is_at_work(hold):
                cancels.append(encode(CommandCancel(job_id=row["id"])))
            elif hold is None and _may_be_unknown(row):
                await _add_run(due, sealer, _read_run(row), now=now)
        elif hold and hold.attempt >= row["attempt"]:
            continue  # the host holds it: its claim, or its report of an offline run, is on the way
        elif row["start_deadline_at"] and row["start_deadline_at"] < now:
            due.overdue.append(row["id"])
        elif row["retry_at"] and row["retry_at"] > now:
            sorted_.again_at = min(sorted_.again_at or row["retry_at"], row["retry_at"])
        else:
            waiting.append(row)
    return sorted_


async def hand_out(
    sorted_: Sorted, sealer: Sealer, obstacles: Mapping[UUID, Obstacle], *, now: datetime
) -> Due:
    """Build what is due, with the commands for the jobs whose turn it is."""
    due, cancels, waiting, again_at = (
        sorted_.due,
        sorted_.cancels,
        sorted_.waiting,
        sorted_.again_at,
    )
    repeated = len(due.envelopes)
    await _add_runs(due, sealer, waiting, obstacles, now=now)
    return dataclasses.replace(
        due,
        envelopes=[*cancels, *due.envelopes][:MAX_DUE],
        is_waiting=bool(waiting or due.held_back) or again_at is not None,
        again_in_s=None if again_at is None else (again_at - now).total_seconds(),
        is_old_news=bool(cancels or repeated) and len(due.envelopes) == repeated,
    )


async def _look_behind(
    due: Due, sealer: Sealer, holds: Mapping[UUID, HeldJob], active: set[UUID]
) -> list[msgspec.Raw]:
    """Look for jobs that are over here and at work there; give the cancels of those that nobody
    wants any more.

    A job can be cancelled while it waits, and the host has begun it by itself. One that counts as
    lost is at work again once its host, which fell silent, is back.
    """
    strays = [one for one in holds.values() if one.job_id not in active and _is_at_work(one)]
    if not strays:
        return []
    query = sa.select(jobs.c.id, jobs.c.state, jobs.c.cancel_requested_at).where(
        jobs.c.id.in_([one.job_id for one in strays]), jobs.c.host_id == sealer.host_id
    )
    cancels: list[msgspec.Raw] = []
    for row in await sealer.connection.execute(query):
        is_lost = row.state == JobState.LOST
        if is_lost and holds[row.id].state == "running":
            due.returned.append(row.id)
        if row.state == JobState.CANCELLED or (is_lost and row.cancel_requested_at):
            cancels.append(encode(CommandCancel(job_id=row.id)))
    return cancels


def _is_at_work(hold: HeldJob | None) -> bool:
    return hold is not None and hold.state in {"accepted", "running"}


def _may_be_unknown(row: sa.RowMapping) -> bool:
    """Tell whether the host may not know of a job that it has claimed.

    It gives a job back whose turn has not come, and a copy of its claim can arrive late, when the
    turn has come. A host that knows the job, or knew it once, does nothing with the command.
    """
    began_by_itself = row["ran_offline"] and row["attempt"] == 1
    return row["state"] == JobState.ACCEPTED and not began_by_itself


async def _add_runs(
    due: Due,
    sealer: Sealer,
    waiting: list[sa.RowMapping],
    obstacles: Mapping[UUID, Obstacle],
    *,
    now: datetime,
) -> None:
    """Add the jobs whose turn it is, those of the highest priority first."""
    first_held_back: UUID | None = None
    for row in sorted(waiting, key=lambda row: (-_priority_of(row), row["id"])):
        if len(due.envelopes) >= MAX_DUE:
            break
        if row["id"] in obstacles or _is_behind(row, first_held_back):
            continue
        if row["kind"] in EXCLUSIVE_KINDS and due.envelopes:
            # It needs the repository for itself, and begins at once, or not yet. What came after
            # it would only keep its host busy for longer.
            first_held_back = min(first_held_back or row["id"], row["id"])
            continue
        await _add_run(due, sealer, _read_run(row), now=now)


def _is_behind(row: sa.RowMapping, first: UUID | None) -> bool:
    is_scheduled = _priority_of(row) is JobPriority.SCHEDULED
    return first is not None and is_scheduled and bool(row["id"] > first)


def _priority_of(row: sa.RowMapping) -> JobPriority:
    return turns.choose_priority(row["kind"], row["actor_kind"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A job, as far as its host is told of it."""

    job_id: UUID
    attempt: int
    kind: JobKind
    priority: JobPriority
    arguments: Any
    """An `Arguments`, or what a row has of it: by another version of the server, that may be more
    than this one knows."""
    repository_id: UUID
    start_deadline_at: datetime | None
    max_duration: float | None


def _read_run(row: sa.RowMapping) -> Run:
    return Run(
        job_id=row["id"],
        attempt=row["attempt"],
        kind=row["kind"],
        priority=_priority_of(row),
        arguments=row["arguments"],
        repository_id=row["repository_id"],
        start_deadline_at=row["start_deadline_at"],
        max_duration=row["max_duration"],
    )


async def _add_run(due: Due, sealer: Sealer, run: Run, *, now: datetime) -> None:
    """Add the command for a job, or what keeps it from being sent."""
    try:
        asked: Arguments = msgspec.convert(run.arguments, Arguments)
        credentials = await sealer.seal(run.repository_id, choose_access(asked))
        second_id = find_second(asked)
        second_credentials = await sealer.seal(second_id)
    except (NotFoundError, ConflictError) as error:
        due.unsendable[run.job_id] = f"The repository's credentials cannot be sent: {error}"
        return
    except SecretDoesNotOpenError as error:
        # The server's own fault, which a person can mend: the job waits for that.
        due.held_back.append(run.job_id)
        log.error("job.unsendable", extra=facts(job=run.job_id, reason=str(error)))
        return
    arguments = await complete(
        sealer.connection, run.kind, run.repository_id, run.arguments, now=now
    )
    command = build_command(
        run,
        arguments,
        credentials=credentials,
        second_repository_id=second_id,
        second_credentials=second_credentials,
    )
    due.envelopes.append(command)


def build_command(
    run: Run,
    arguments: Any,
    *,
    credentials: bytes | None,
    second_repository_id: UUID | None = None,
    second_credentials: bytes | None = None,
) -> msgspec.Raw:
    """Build the command for a job, with its arguments as they are now and the sealed boxes of what
    it needs."""
    return encode(
        CommandRun(
            job_id=run.job_id,
            attempt=run.attempt,
            kind=run.kind,
            arguments=encode(arguments),
            repository_id=run.repository_id,
            credentials=credentials,
            second_repository_id=second_repository_id,
            second_credentials=second_credentials,
            start_deadline_at=run.start_deadline_at,
            max_duration=run.max_duration,
            priority=run.priority,
        )
    )


def find_second(arguments: Arguments) -> UUID | None:
    """Find the second repository that a job needs the credentials of."""
    match arguments:
        case CopyArguments():
            return arguments.destination_id
        case InitArguments():
            return arguments.chunker_of_id
        case _:
            return None


def encode(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


_ACTIVE = constant(
    sa.select(
        jobs.c.id,
        jobs.c.host_id,
        jobs.c.attempt,
        jobs.c.kind,
        jobs.c.actor_kind,
        jobs.c.state,
        jobs.c.arguments,
        jobs.c.repository_id,
        jobs.c.destination_id,
        jobs.c.start_deadline_at,
        jobs.c.max_duration,
        jobs.c.retry_at,
        jobs.c.cancel_requested_at,
        jobs.c.ran_offline,
    ).where(
        jobs.c.host_id.in_(sa.bindparam("host_ids", expanding=True)),
        IS_ACTIVE,
    )
)
