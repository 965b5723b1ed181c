"""Whose turn it is on a repository.

restic locks a whole repository for a forget, a prune or a check. Such a job begins when no other
job is at work on the repository, on any host, and its own host is free to begin at once; until it
has ended, nothing else begins there. While it waits, later jobs let it go first: a fleet that backs
up around the clock would leave no gap for it. What people wait for (a restore, what an operator
started) does not let it go first, nor does anybody for a host that is away.

A poll hands out only jobs whose turn it is; the claim asks again, under a lock, because two polls
can look at the same moment. A host that works without the server asks nobody: there, restic's own
lock decides. So it does where a host has been silent for so long that its jobs count as lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.commands import JobPriority
from backhaul.wire.jobs import ActorKind, Job, JobState, Obstacle
from backhaul.wire.kinds import JobKind
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.tables import hosts, jobs

LETS_GO_FIRST_FOR = timedelta(hours=6)
"""A job that cannot begin for so long does not hold up the fleet any more."""

PRESENT_WITHIN = timedelta(minutes=5)
"""A host that polls is noted once a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued job that wants its turn."""

    id: UUID
    host_id: UUID
    repository_id: UUID
    kind: JobKind
    priority: JobPriority

    @property
    def is_exclusive(self) -> bool:
        return self.kind in EXCLUSIVE_KINDS


def build_waiting(job: Job | sa.RowMapping) -> Waiting | None:
    """Build what waits; None for a job without a repository, which waits for nobody."""
    get = job.__getitem__ if isinstance(job, sa.RowMapping) else lambda name: getattr(job, name)
    if get("repository_id") is None:
        return None
    kind = JobKind(get("kind"))
    return Waiting(
        id=get("id"),
        host_id=get("host_id"),
        repository_id=get("repository_id"),
        kind=kind,
        priority=choose_priority(kind, get("actor_kind")),
    )


def choose_priority(kind: JobKind | str, actor_kind: ActorKind | str) -> JobPriority:
    """Choose who goes first on a host, and who waits for nobody who waits himself."""
    if kind == JobKind.RESTORE:
        return JobPriority.RESTORE
    if kind == JobKind.DRILL:
        return JobPriority.SCHEDULED  # evidence can wait, also for whoever asks for it by hand
    return JobPriority.OPERATOR if actor_kind == ActorKind.USER else JobPriority.SCHEDULED


async def find_obstacles(
    connection: AsyncConnection,
    waiting: Sequence[Waiting],
    *,
    now: datetime,
    silent_since: datetime | None,
) -> dict[UUID, Obstacle]:
    """Find what each job has to wait for; a job whose turn it is has no entry.

    What is with a host that has been silent since `silent_since` keeps nobody waiting.
    """
    if not waiting:
        return {}
    exclusive = await _fetch_exclusive(connection, {job.repository_id for job in waiting})
    found: dict[UUID, Obstacle] = {}
    for job in waiting:
        others = [row for row in exclusive if _concerns(row, job)]
        at_work = next((row for row in others if _is_at_work(row, silent_since)), None)
        if at_work is None and job.is_exclusive:
            at_work = await _fetch_at_work(connection, job, silent_since)
        if at_work is None and (job.is_exclusive or job.priority is JobPriority.SCHEDULED):
            at_work = next((row for row in others if _goes_first(row, job, now)), None)
        if at_work is not None:
            found[job.id] = _build(at_work)
    return found


async def find_obstacle_to_claim(
    connection: AsyncConnection, job: Job, *, silent_since: datetime | None
) -> Obstacle | None:
    """Find what keeps a job from being claimed now. Nobody else can claim another on the same
    repository before this transaction ends; if somebody is about to, that is the obstacle."""
    waiting = build_waiting(job)
    if waiting is None:
        return None
    if not await _lock(connection, waiting):
        return Obstacle(job_id=job.id, kind=job.kind, state=job.state, host=job.host)
    exclusive = await _fetch_exclusive(connection, {waiting.repository_id})
    at_work = [
        row for row in exclusive if _concerns(row, waiting) and _is_at_work(row, silent_since)
    ]
    found = at_work[0] if at_work else None
    if found is None and waiting.is_exclusive:
        found = await _fetch_at_work(connection, waiting, silent_since)
    return None if found is None else _build(found)


async def find_next(connection: AsyncConnection, job: Job) -> set[UUID]:
    """Find the hosts for whose jobs the end of this one, or that it waits no more, makes way."""
    if job.repository_id is None:
        return {job.host_id}
    query = (
        sa.select(jobs.c.host_id)
        .distinct()
        .where(
            jobs.c.repository_id == job.repository_id, _IS_ACTIVE, jobs.c.state == JobState.QUEUED
        )
    )
    if job.kind not in EXCLUSIVE_KINDS:
        # The others did not wait for it. There may be thousands of them.
        query = query.where(jobs.c.kind.in_(sorted(EXCLUSIVE_KINDS)))
    return {job.host_id, *(await connection.scalars(query))}


async def _lock(connection: AsyncConnection, job: Waiting) -> bool:
    """Keep others from claiming on the repository. Never waits: two batches that waited for each
    other's repositories would be a deadlock. SQLite has one writer."""
    if connection.dialect.name != "postgresql":
        return True
    try_lock = (
        sa.func.pg_try_advisory_xact_lock
        if job.is_exclusive
        else sa.func.pg_try_advisory_xact_lock_shared
    )
    number = int.from_bytes(job.repository_id.bytes[-8:], signed=True)
    return bool(await connection.scalar(sa.select(try_lock(sa.literal(number, sa.BigInteger)))))


async def _fetch_exclusive(
    connection: AsyncConnection, repository_ids: Iterable[UUID]
) -> Sequence[sa.Row[Any]]:
    query = _SELECT.where(
        jobs.c.repository_id.in_(list(repository_ids)),
        jobs.c.kind.in_(sorted(EXCLUSIVE_KINDS)),
        _IS_ACTIVE,
    )
    return sorted(await connection.execute(query), key=lambda row: row.id)


async def _fetch_at_work(
    connection: AsyncConnection, job: Waiting, silent_since: datetime | None
) -> Any:
    """Fetch any job that works on the repository, or else on the job's own host."""
    for where in (jobs.c.repository_id == job.repository_id, jobs.c.host_id == job.host_id):
        query = _SELECT.where(
            where,
            jobs.c.id != job.id,
            _IS_ACTIVE,
            jobs.c.state.in_([JobState.ACCEPTED, JobState.RUNNING]),
        )
        if silent_since is not None:
            query = query.where(
                sa.or_(jobs.c.accepted_at >= silent_since, hosts.c.last_seen_at >= silent_since)
            )
        found: Sequence[Any] = (await connection.execute(query.limit(1))).all()
        if found:
            return found[0]
    return None


def _concerns(row: sa.Row[Any], job: Waiting) -> bool:
    return bool(row.repository_id == job.repository_id and row.id != job.id)


def _is_at_work(row: sa.Row[Any], silent_since: datetime | None) -> bool:
    if row.state == JobState.QUEUED:
        return False
    heard_at = max(filter(None, (row.accepted_at, row.last_seen_at)))
    return bool(silent_since is None or heard_at >= silent_since)


def _goes_first(row: sa.Row[Any], job: Waiting, now: datetime) -> bool:
    """Tell whether an exclusive job that waits itself was there first, and can make use of that."""
    is_present = row.last_seen_at is not None and now - row.last_seen_at <= PRESENT_WITHIN
    is_due = row.retry_at is None or row.retry_at <= now
    is_fresh = now - row.created_at <= LETS_GO_FIRST_FOR
    return bool(row.id < job.id and is_present and is_due and is_fresh)


def _build(row: sa.Row[Any]) -> Obstacle:
    return Obstacle(job_id=row.id, kind=JobKind(row.kind), state=JobState(row.state), host=row.host)


# Written out, else no database can see that the partial indexes fit.
_IS_ACTIVE = jobs.c.state.in_(
    sa.bindparam(
        "active_states",
        [JobState.QUEUED.value, JobState.ACCEPTED.value, JobState.RUNNING.value],
        expanding=True,
        literal_execute=True,
    )
)

_SELECT = sa.select(
    jobs.c.id,
    jobs.c.kind,
    jobs.c.state,
    jobs.c.repository_id,
    jobs.c.created_at,
    jobs.c.accepted_at,
    jobs.c.retry_at,
    hosts.c.name.label("host"),
    hosts.c.last_seen_at,
).select_from(jobs.join(hosts, jobs.c.host_id == hosts.c.id))
