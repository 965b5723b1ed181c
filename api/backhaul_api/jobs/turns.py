"""Whose turn it is on a repository.

restic locks a whole repository for a forget, a prune or a check. Such a job begins when no other
job is at work on the repository, on any host, and its own host is free to begin at once; until it
has ended, nothing else begins there. While it waits, later jobs let it go first: a fleet that backs
up around the clock would leave no gap for it. What people wait for (a restore, what an operator
started) does not let it go first, nor does anybody for a host that is away, or busy with another
repository. If it waits for nothing but its own host, later scheduled jobs of that host wait behind
it, for else the host would never be free. An unlock takes no lock: it waits for nobody, and nobody
for it, unless it is to remove the locks of living processes as well.

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

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.commands import JobPriority
from backhaul.wire.jobs import ActorKind, Job, JobState, Obstacle
from backhaul.wire.kinds import JobKind
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul.wire.kinds.unlock import UnlockArguments
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, jobs
from backhaul_api.errors import JobWaitsError
from backhaul_api.jobs.active import IS_ACTIVE, is_active

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
    destination_id: UUID | None
    """A copy works on two repositories, and takes its turn on both."""
    kind: JobKind
    priority: JobPriority

    @property
    def repository_ids(self) -> set[UUID]:
        return {self.repository_id, *filter(None, (self.destination_id,))}

    @property
    def is_exclusive(self) -> bool:
        return self.kind in EXCLUSIVE_KINDS


def build_waiting(job: Job | sa.RowMapping) -> Waiting | None:
    """Build what waits; None for a job that waits for nobody."""
    get = job.__getitem__ if isinstance(job, sa.RowMapping) else lambda name: getattr(job, name)
    kind = JobKind(get("kind"))
    if get("repository_id") is None or (
        kind is JobKind.UNLOCK and not _removes_all(get("arguments"))
    ):
        return None
    return Waiting(
        id=get("id"),
        host_id=get("host_id"),
        repository_id=get("repository_id"),
        destination_id=get("destination_id"),
        kind=kind,
        priority=choose_priority(kind, get("actor_kind")),
    )


def _removes_all(arguments: Any) -> bool:
    return msgspec.convert(arguments, UnlockArguments, from_attributes=True).remove_all


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
    scheduled = {job.host_id for job in waiting if job.priority is JobPriority.SCHEDULED}
    own = await _fetch_queued_exclusive(connection, scheduled)
    repository_ids = {row.repository_id for row in own}.union(
        *(job.repository_ids for job in waiting)
    )
    look = _Look(
        connection=connection,
        exclusive=await _fetch_exclusive(connection, repository_ids),
        now=now,
        silent_since=silent_since,
    )
    wants_host = [row for row in own if await look.waits_only_for_its_host(row)]
    found: dict[UUID, Obstacle] = {}
    for job in waiting:
        obstacle = await look.find(job)
        if obstacle is None and job.priority is JobPriority.SCHEDULED:
            obstacle = next((row for row in wants_host if _is_before_on_host(row, job)), None)
        if obstacle is not None:
            found[job.id] = _build(obstacle)
    return found


class Claims:
    """The claims of one transaction. Each repository is locked, and looked at, once for all of
    them."""

    def __init__(self, connection: AsyncConnection, *, silent_since: datetime | None) -> None:
        """`silent_since` as for `find_obstacles`."""
        self._connection = connection
        self._silent_since = silent_since
        self._locked: set[tuple[UUID, bool]] = set()
        self._exclusive: dict[UUID, list[sa.Row[Any]]] = {}

    async def look_at(self, claimed: Iterable[Job]) -> None:
        """Look at once at the repositories of jobs that may be claimed."""
        repository_ids: set[UUID] = set()
        for job in claimed:
            waiting = build_waiting(job) if job.state is JobState.QUEUED else None
            if waiting is not None and await self._lock(waiting):
                repository_ids |= waiting.repository_ids
        await self._look_at(repository_ids)

    async def refuse_early(self, job: Job) -> None:
        """Refuse the claim of a job whose turn it is not. Nobody else can claim another on the same
        repository before this transaction ends.

        Raises:
            JobWaitsError: another job keeps it waiting, or may be about to.
        """
        waiting = build_waiting(job)
        if waiting is None:
            return
        if not await self._lock(waiting):
            raise JobWaitsError(
                f"Job {job.id} waits: another claim on repository {job.repository} is under way."
            )
        found = await self._find_at_work(waiting)
        if found is not None:
            raise JobWaitsError(
                f"Job {job.id} waits for {found.kind} on {found.host} (job {found.id})."
            )

    def note_move(self, job: Job) -> None:
        """Take what was seen for old: a job has moved that others may wait for."""
        if job.kind in EXCLUSIVE_KINDS:
            self._exclusive.clear()

    def forget(self) -> None:
        """Forget what was seen and locked: it may have been undone."""
        self._locked.clear()
        self._exclusive.clear()

    async def _find_at_work(self, waiting: Waiting) -> Any:
        await self._look_at(waiting.repository_ids)
        for repository_id in waiting.repository_ids:
            for row in self._exclusive[repository_id]:
                if _concerns(row, waiting) and _is_at_work(row, self._silent_since):
                    return row
        if waiting.is_exclusive:
            return await _fetch_at_work(self._connection, waiting, self._silent_since)
        return None

    async def _look_at(self, repository_ids: set[UUID]) -> None:
        """Look at repositories that are locked: what is seen of another changes meanwhile."""
        if new := repository_ids - self._exclusive.keys():
            self._exclusive |= {repository_id: [] for repository_id in new}
            for row in await _fetch_exclusive(self._connection, new):
                self._exclusive[row.repository_id].append(row)

    async def _lock(self, job: Waiting) -> bool:
        """Keep others from claiming on the repositories. Never waits: two batches that waited for
        each other's repositories would be a deadlock. SQLite has one writer."""
        if self._connection.dialect.name != "postgresql":
            return True
        for repository_id in job.repository_ids:
            lock = (repository_id, job.is_exclusive)
            if lock not in self._locked:
                number = int.from_bytes(repository_id.bytes[-8:], signed=True)
                if not await self._connection.scalar(
                    _TRY_LOCK[job.is_exclusive], {"number": number}
                ):
                    return False
                self._locked.add(lock)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One moment at some repositories: every exclusive job on them that is not over."""

    connection: AsyncConnection
    exclusive: Sequence[sa.Row[Any]]
    now: datetime
    silent_since: datetime | None

    async def find(self, job: Waiting) -> Any:
        """Find what a job has to wait for on its repository, or, if exclusive, on its host."""
        others = [row for row in self.exclusive if _concerns(row, job)]
        found = next((row for row in others if _is_at_work(row, self.silent_since)), None)
        if found is None and job.is_exclusive:
            found = await _fetch_at_work(self.connection, job, self.silent_since)
        if found is None and (job.is_exclusive or job.priority is JobPriority.SCHEDULED):
            found = next((row for row in others if _goes_first(row, job, self.now)), None)
        return found

    async def waits_only_for_its_host(self, row: sa.Row[Any]) -> bool:
        """Tell whether a queued exclusive job could begin, were its host not busy elsewhere."""
        if not _is_due(row, self.now):
            return False
        waiting = build_waiting(row._mapping)
        found = None if waiting is None else await self.find(waiting)
        return bool(
            found is not None
            and found.state != JobState.QUEUED
            and found.host_id == row.host_id
            and found.repository_id != row.repository_id
        )


async def has_exclusive(connection: AsyncConnection, repository_id: UUID) -> bool:
    """Tell whether there is any job on a repository that others may have to wait for. A new one
    touches the repository: see `jobs.store`."""
    return bool(await _fetch_exclusive(connection, [repository_id]))


async def find_present(
    connection: AsyncConnection, host_ids: Iterable[UUID], *, now: datetime
) -> set[UUID]:
    """Find those of the hosts that have been heard of lately."""
    query = sa.select(hosts.c.id).where(
        hosts.c.id.in_(list(host_ids)), hosts.c.last_seen_at >= now - PRESENT_WITHIN
    )
    return set(await connection.scalars(query))


async def find_next(connection: AsyncConnection, *ended: Job) -> set[UUID]:
    """Find the hosts for whose jobs the end of these, or that they wait no more, makes way."""
    found = {job.host_id for job in ended}
    # Only exclusive ones waited for another. There may be thousands of the rest.
    for query, are_exclusive in ((_FREED, True), (_FREED_EXCLUSIVE, False)):
        freed = {
            repository_id
            for job in ended
            if (job.kind in EXCLUSIVE_KINDS) is are_exclusive
            for repository_id in filter(None, (job.repository_id, job.destination_id))
        }
        if freed:
            found.update(await connection.scalars(query, {"freed": list(freed)}))
    return found


async def _fetch_exclusive(
    connection: AsyncConnection, repository_ids: Iterable[UUID]
) -> Sequence[sa.Row[Any]]:
    found = await connection.execute(_EXCLUSIVE, {"repository_ids": list(repository_ids)})
    return _in_order(found)


async def _fetch_queued_exclusive(
    connection: AsyncConnection, host_ids: Iterable[UUID]
) -> Sequence[sa.Row[Any]]:
    """Fetch the exclusive jobs that these hosts have yet to begin."""
    if not (wanted := list(host_ids)):
        return []
    found = await connection.execute(_QUEUED_EXCLUSIVE, {"host_ids": wanted})
    return _in_order(found)


def _in_order(found: Iterable[Any]) -> list[sa.Row[Any]]:
    # Sorted only here: see `envelopes._ACTIVE`.
    return sorted(found, key=lambda row: row.id)


async def _fetch_at_work(
    connection: AsyncConnection, job: Waiting, silent_since: datetime | None
) -> Any:
    """Fetch any job that works on the repository, or else on the job's own host."""
    for where in (
        jobs.c.repository_id == job.repository_id,
        jobs.c.destination_id == job.repository_id,
        jobs.c.host_id == job.host_id,
    ):
        query = _SELECT.where(
            where,
            jobs.c.id != job.id,
            IS_ACTIVE,
            jobs.c.state.in_([JobState.ACCEPTED, JobState.RUNNING]),
            _TAKES_TURNS,
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
    return bool(row.repository_id in job.repository_ids and row.id != job.id)


def _is_at_work(row: sa.Row[Any], silent_since: datetime | None) -> bool:
    if row.state == JobState.QUEUED:
        return False
    heard_at = max(filter(None, (row.accepted_at, row.last_seen_at)))
    return bool(silent_since is None or heard_at >= silent_since)


def _goes_first(row: sa.Row[Any], job: Waiting, now: datetime) -> bool:
    """Tell whether an exclusive job that waits itself was there first, and can make use of that."""
    is_present = row.last_seen_at is not None and now - row.last_seen_at <= PRESENT_WITHIN
    is_fresh = now - row.created_at <= LETS_GO_FIRST_FOR
    can_begin = is_present and _is_due(row, now) and not row.is_host_busy_elsewhere
    return bool(row.id < job.id and can_begin and is_fresh)


def _is_due(row: sa.Row[Any], now: datetime) -> bool:
    return bool(row.retry_at is None or row.retry_at <= now)


def _is_before_on_host(row: sa.Row[Any], job: Waiting) -> bool:
    return bool(row.host_id == job.host_id and row.id < job.id)


def _build(row: sa.Row[Any]) -> Obstacle:
    return Obstacle(job_id=row.id, kind=JobKind(row.kind), state=JobState(row.state), host=row.host)


_TAKES_TURNS = sa.or_(
    jobs.c.kind != JobKind.UNLOCK,
    # NULL where the field is left out.
    sa.func.coalesce(jobs.c.arguments["remove_all"].as_boolean(), sa.false()),
)

_TRY_LOCK = {
    is_exclusive: constant(sa.select(try_lock(sa.bindparam("number", type_=sa.BigInteger))))
    for is_exclusive, try_lock in (
        (True, sa.func.pg_try_advisory_xact_lock),
        (False, sa.func.pg_try_advisory_xact_lock_shared),
    )
}

_others = jobs.alias()
_SELECT = sa.select(
    jobs.c.id,
    jobs.c.kind,
    jobs.c.actor_kind,
    jobs.c.arguments,
    jobs.c.host_id,
    jobs.c.state,
    jobs.c.repository_id,
    jobs.c.destination_id,
    jobs.c.created_at,
    jobs.c.accepted_at,
    jobs.c.retry_at,
    hosts.c.name.label("host"),
    hosts.c.last_seen_at,
    sa.exists()
    .where(
        _others.c.host_id == jobs.c.host_id,
        _others.c.repository_id.is_distinct_from(jobs.c.repository_id),
        is_active(_others),
        _others.c.state.in_(
            sa.bindparam(
                "busy_states",
                [JobState.ACCEPTED.value, JobState.RUNNING.value],
                expanding=True,
                literal_execute=True,
            )
        ),
    )
    .label("is_host_busy_elsewhere"),
).select_from(jobs.join(hosts, jobs.c.host_id == hosts.c.id))

# Built once: every poll that finds a job that waits asks them.
_IS_EXCLUSIVE = jobs.c.kind.in_(sorted(EXCLUSIVE_KINDS))
_EXCLUSIVE = constant(
    _SELECT.where(
        jobs.c.repository_id.in_(sa.bindparam("repository_ids", expanding=True)),
        _IS_EXCLUSIVE,
        IS_ACTIVE,
    )
)
_QUEUED_EXCLUSIVE = constant(
    _SELECT.where(
        jobs.c.host_id.in_(sa.bindparam("host_ids", expanding=True)),
        _IS_EXCLUSIVE,
        IS_ACTIVE,
        jobs.c.state == JobState.QUEUED,
    )
)


def _select_freed(*conditions: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    """Select the hosts of jobs that wait on repositories; a copy waits on two."""
    freed: sa.BindParameter[Any] = sa.bindparam("freed", expanding=True)
    # Of each an index is asked; of both in one condition, SQLite would ask none. It would also take
    # it longer than the rest to find out who is there twice.
    return sa.union_all(
        *(
            sa.select(jobs.c.host_id).where(
                column.in_(freed), IS_ACTIVE, jobs.c.state == JobState.QUEUED, *conditions
            )
            for column in (jobs.c.repository_id, jobs.c.destination_id)
        )
    )


_FREED = constant(_select_freed())
_FREED_EXCLUSIVE = constant(_select_freed(_IS_EXCLUSIVE))
