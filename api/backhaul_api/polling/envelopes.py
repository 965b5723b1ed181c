"""What is due for a host, derived from rows: nothing is queued, so nothing can be lost."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from backhaul.wire.agents import HeldJob
from backhaul.wire.commands import CommandCancel, CommandRun, JobPriority
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import Arguments
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.tables import jobs
from backhaul_api.errors import ConflictError, NotFoundError
from backhaul_api.jobs import turns
from backhaul_api.keys import SecretDoesNotOpenError
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
    queries: list[UUID] = field(default_factory=list)
    """Whose envelopes are among them."""
    again_in_s: float | None = None
    """When to look again: a retry is due then."""
    is_old_news: bool = False
    """All of it stays due until the agent has done something that may take it a while."""


async def fetch_due(
    sealer: Sealer,
    host_id: UUID,
    held: Iterable[HeldJob],
    *,
    now: datetime,
    silent_since: datetime | None,
) -> Due:
    """Derive what is due from the host's active jobs and those that the agent says it holds.

    `silent_since` is that of `turns.find_obstacles`.
    """
    holds = {job.job_id: job for job in held}
    due = Due()
    cancels: list[msgspec.Raw] = []
    waiting: list[sa.RowMapping] = []
    again_at: datetime | None = None
    rows = (await sealer.connection.execute(_ACTIVE, {"host_id": host_id})).mappings()
    for row in sorted(rows, key=lambda row: row["id"]):
        hold = holds.get(row["id"])
        if row["state"] != JobState.QUEUED:
            if row["cancel_requested_at"] and hold and hold.state in {"accepted", "running"}:
                cancels.append(encode(CommandCancel(job_id=row["id"])))
        elif hold and hold.attempt >= row["attempt"]:
            continue  # the host holds it: its claim, or its report of an offline run, is on the way
        elif row["start_deadline_at"] and row["start_deadline_at"] < now:
            due.overdue.append(row["id"])
        elif row["retry_at"] and row["retry_at"] > now:
            again_at = min(again_at or row["retry_at"], row["retry_at"])
        else:
            waiting.append(row)
    await _add_runs(due, sealer, waiting, now=now, silent_since=silent_since)
    return Due(
        envelopes=[*cancels, *due.envelopes][:MAX_DUE],
        overdue=due.overdue,
        unsendable=due.unsendable,
        again_in_s=None if again_at is None else (again_at - now).total_seconds(),
        is_old_news=bool(cancels) and not due.envelopes,
    )


async def _add_runs(
    due: Due,
    sealer: Sealer,
    waiting: list[sa.RowMapping],
    *,
    now: datetime,
    silent_since: datetime | None,
) -> None:
    """Add the jobs whose turn it is, those of the highest priority first."""
    wanted = [built for row in waiting if (built := turns.build_waiting(row)) is not None]
    obstacles = await turns.find_obstacles(
        sealer.connection, wanted, now=now, silent_since=silent_since
    )
    for row in sorted(waiting, key=lambda row: (-_priority_of(row), row["id"])):
        if len(due.envelopes) == MAX_DUE:
            break
        if row["id"] in obstacles or (row["kind"] in EXCLUSIVE_KINDS and due.envelopes):
            continue  # one that needs the repository for itself begins at once, or not yet
        await _add_run(due, sealer, row)


def _priority_of(row: sa.RowMapping) -> JobPriority:
    return turns.choose_priority(row["kind"], row["actor_kind"])


async def _add_run(due: Due, sealer: Sealer, row: sa.RowMapping) -> None:
    try:
        access = choose_access(msgspec.convert(row["arguments"], Arguments))
        credentials = await sealer.seal(row["repository_id"], access)
    except (NotFoundError, ConflictError) as error:
        due.unsendable[row["id"]] = f"The repository's credentials cannot be sent: {error}"
        return
    except SecretDoesNotOpenError as error:
        # The server's own fault, which a person can mend: the job waits for that.
        log.error("job.unsendable", extra=facts(job=row["id"], reason=str(error)))
        return
    due.envelopes.append(
        encode(
            CommandRun(
                job_id=row["id"],
                attempt=row["attempt"],
                kind=row["kind"],
                arguments=encode(row["arguments"]),
                repository_id=row["repository_id"],
                credentials=credentials,
                start_deadline_at=row["start_deadline_at"],
                max_duration=row["max_duration"],
                priority=_priority_of(row),
            )
        )
    )


def encode(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


# The states stand in the statement itself, else no database can see that the partial index fits.
# Sorted only afterwards: asked for an order, SQLite walks through every job the host ever had.
_ACTIVE = sa.select(
    jobs.c.id,
    jobs.c.host_id,
    jobs.c.attempt,
    jobs.c.kind,
    jobs.c.actor_kind,
    jobs.c.state,
    jobs.c.arguments,
    jobs.c.repository_id,
    jobs.c.start_deadline_at,
    jobs.c.max_duration,
    jobs.c.retry_at,
    jobs.c.cancel_requested_at,
).where(
    jobs.c.host_id == sa.bindparam("host_id"),
    jobs.c.state.in_(
        sa.bindparam(
            "states",
            [JobState.QUEUED.value, JobState.ACCEPTED.value, JobState.RUNNING.value],
            expanding=True,
            literal_execute=True,
        )
    ),
)
