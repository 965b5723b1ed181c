"""The rows of jobs and of what happened to them.

A job changes only through `move`, along the table of moves, or by gaining progress and log lines.
Every change raises its revision, which is what readers wait for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.jobs import (
    ACTIVE_STATES,
    TERMINAL_STATES,
    ActorKind,
    IllegalMoveError,
    Job,
    JobEvent,
    JobState,
    Progress,
    is_real_backup,
)
from backhaul.wire.jobs import move as find_move
from backhaul.wire.kinds import Arguments, JobKind, kind_of
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.block import Change, change, postpone
from backhaul_api.db.changes import touch
from backhaul_api.db.rows import build_struct
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, job_events, jobs, repositories, schedules
from backhaul_api.errors import IllegalJobMoveError, LostRaceError, NotFoundError
from backhaul_api.events import store as events
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id
from backhaul_api.jobs.active import IS_ACTIVE

MAX_CLOSED_AT_ONCE = 500
DEFAULT_RETRY_DELAY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What a job is made of. It is to be queued, for its first attempt."""

    host_id: UUID
    repository_id: UUID | None
    arguments: Arguments
    actor: Actor
    id: UUID = field(default_factory=new_id)
    schedule_id: UUID | None = None
    scheduled_at: datetime | None = None
    missed: int = 0
    missed_since: datetime | None = None
    start_deadline_at: datetime | None = None
    max_duration: float | None = None
    attempts: int = 1
    retry_delay: float | None = None

    @property
    def kind(self) -> JobKind:
        return kind_of(self.arguments)

    @property
    def actor_kind(self) -> ActorKind:
        return self.actor.kind

    @property
    def destination_id(self) -> UUID | None:
        """The second repository of a copy."""
        return getattr(self.arguments, "destination_id", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which jobs a list shows. Empty means all."""

    host_id: UUID | None = None
    repository_id: UUID | None = None
    """Copies to it, too."""
    schedule_id: UUID | None = None
    kinds: tuple[JobKind, ...] = ()
    states: tuple[JobState, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


async def insert(connection: AsyncConnection, new: NewJob, *, now: datetime) -> Job:
    """Insert a queued job."""
    await connection.execute(_INSERT, _build_row(new, now=now))
    _touch_repositories(connection, new)
    job = await fetch(connection, new.id)
    await events.append_job(connection, job, job.state, at=now, message=None)
    return job


async def insert_for(
    connection: AsyncConnection, new: NewJob, *, host: str, repository: str, now: datetime
) -> Job:
    """Insert a queued job, as `insert_many` does, for a host and a repository whose names are
    known."""
    await insert_many(connection, [new], host_names={new.host_id: host}, now=now)
    destination = None
    if new.destination_id is not None:
        destination = await connection.scalar(_NAME_OF_REPOSITORY, {"which": new.destination_id})
    return Job(
        id=new.id,
        kind=new.kind,
        state=JobState.QUEUED,
        host_id=new.host_id,
        host=host,
        repository_id=new.repository_id,
        repository=repository,
        destination_id=new.destination_id,
        destination=destination,
        arguments=new.arguments,
        actor_kind=new.actor_kind,
        actor_id=new.actor.id,
        schedule_id=new.schedule_id,
        scheduled_at=new.scheduled_at,
        missed=new.missed,
        attempts=new.attempts,
        created_at=now,
        start_deadline_at=new.start_deadline_at,
    )


async def insert_many(
    connection: AsyncConnection,
    new: Sequence[NewJob],
    *,
    host_names: Mapping[UUID, str],
    now: datetime,
) -> None:
    """Insert queued jobs, as `insert` does each, but only at the end of the block: nobody in it
    finds them."""
    rows = [_build_row(one, now=now) for one in new]
    await postpone(connection, _INSERT, rows, outlasts_block=False)
    _touch_repositories(connection, *new)
    operators = {one.actor.id: one.actor.name for one in new if one.actor_kind is ActorKind.USER}
    await events.append_queued(connection, rows, host_names=host_names, operators=operators, at=now)


def _touch_repositories(connection: AsyncConnection, *changed: NewJob | Job) -> None:
    """Touch the repositories on which others may have to wait for a job."""
    for job in changed:
        if job.kind in EXCLUSIVE_KINDS and job.repository_id is not None:
            touch(connection, job.repository_id)


def _build_row(new: NewJob, *, now: datetime) -> dict[str, Any]:
    return {
        "id": new.id,
        "host_id": new.host_id,
        "repository_id": new.repository_id,
        "destination_id": new.destination_id,
        "kind": new.kind,
        "state": JobState.QUEUED,
        "arguments": new.arguments,
        "actor_kind": new.actor_kind,
        "actor_id": new.actor.id,
        "schedule_id": new.schedule_id,
        "scheduled_at": new.scheduled_at,
        "missed": new.missed,
        "missed_since": new.missed_since,
        "created_at": now,
        "start_deadline_at": new.start_deadline_at,
        "max_duration": new.max_duration,
        "attempts": new.attempts,
        "retry_delay": new.retry_delay,
    }


async def fetch(connection: AsyncConnection, job_id: UUID, *, for_update: bool = False) -> Job:
    """Fetch a job; `for_update` keeps others from changing it until the transaction ends.

    Raises:
        NotFoundError: there is none.
    """
    query = _LOCKED if for_update else _ONE
    return await _fetch_one(connection, query, {"job_id": job_id})


async def fetch_of_host(connection: AsyncConnection, job_id: UUID, host_id: UUID) -> Job:
    """Fetch a job of this host and keep others from changing it until the transaction ends.

    Raises:
        NotFoundError: there is none, or it is another host's, which the asker need not know.
    """
    return await _fetch_one(connection, _LOCKED_OF_HOST, {"job_id": job_id, "host_id": host_id})


async def fetch_of_hosts(
    connection: AsyncConnection, job_ids: Iterable[UUID], host_ids: Iterable[UUID]
) -> list[Job]:
    """Fetch those of the jobs that there are and that are these hosts', as `fetch_of_host` does."""
    which = {"job_ids": list(job_ids), "host_ids": list(host_ids)}
    return [_build(row) for row in await connection.execute(_LOCKED_OF_HOSTS, which)]


async def fetch_page(
    connection: AsyncConnection, filters: Filters, *, limit: int, before: UUID | None
) -> list[Job]:
    """Fetch jobs, newest first."""
    conditions = _build_conditions(filters)
    if before is not None:
        conditions.append(jobs.c.id < before)
    query = _SELECT.order_by(jobs.c.id.desc()).limit(limit)
    parts = _divide(filters)
    if not parts:
        query = query.where(*conditions)
        if filters.schedule_id is not None:
            # The same order, for the id of a fire's job begins with its slot; but one that the
            # index of the schedule's jobs has.
            query = query.order_by(None).order_by(jobs.c.scheduled_at.desc(), jobs.c.id.desc())
    else:
        # The newest of each part are at the end of an index; of all parts together, at none.
        ends = [
            sa.select(jobs.c.id)
            .where(*conditions, part)
            .order_by(jobs.c.id.desc())
            .limit(limit)
            .subquery()
            for part in parts
        ]
        found = sa.union_all(*(sa.select(end.c.id) for end in ends)).subquery()
        newest = sa.select(found.c.id).order_by(found.c.id.desc()).limit(limit)
        query = query.where(jobs.c.id.in_(newest))
    return [_build(row) for row in await connection.execute(query)]


def _build_conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    conditions = []
    if filters.host_id is not None:
        conditions.append(jobs.c.host_id == filters.host_id)
    if filters.schedule_id is not None:
        conditions.append(jobs.c.schedule_id == filters.schedule_id)
    if filters.repository_id is not None and _is_narrow(filters):
        conditions.append(_is_on(filters.repository_id))
    if filters.kinds:
        conditions.append(jobs.c.kind.in_(filters.kinds))
    if filters.states and not _has_all_states(filters):
        conditions.append(jobs.c.state.in_(filters.states))
    if filters.since is not None:
        conditions.append(jobs.c.created_at >= filters.since)
    if filters.until is not None:
        conditions.append(jobs.c.created_at < filters.until)
    return conditions


def _is_narrow(filters: Filters) -> bool:
    """Tell whether the filters leave what one host or one schedule has, which is never much."""
    return filters.host_id is not None or filters.schedule_id is not None


def _has_all_states(filters: Filters) -> bool:
    return set(filters.states) == set(JobState)


def _is_on(repository_id: UUID) -> sa.ColumnElement[bool]:
    return sa.or_(jobs.c.repository_id == repository_id, jobs.c.destination_id == repository_id)


def _divide(filters: Filters) -> list[sa.ColumnElement[bool]]:
    """Divide what the filters leave into parts, each of which an index has in the order of ids."""
    # Each once, else a job would be there twice.
    kinds, states = sorted(set(filters.kinds)), sorted(set(filters.states))
    if _is_narrow(filters):
        return []
    if filters.repository_id is not None:
        columns = (jobs.c.repository_id, jobs.c.destination_id)
        return [column == filters.repository_id for column in columns]
    if not kinds and (not states or _has_all_states(filters)):
        return []
    if not kinds and set(states) <= ACTIVE_STATES:
        return [sa.and_(IS_ACTIVE, jobs.c.state.in_(states))]
    pairs = itertools.product(kinds or list(JobKind), states or list(JobState))
    return [sa.and_(jobs.c.kind == kind, jobs.c.state == state) for kind, state in pairs]


async def fetch_running_elsewhere(
    connection: AsyncConnection, host_id: UUID, *, held: set[UUID]
) -> list[Job]:
    """Fetch the jobs that this host was running, or about to, and that it does not hold."""
    rows = await connection.execute(_RUNNING_OF_HOST, {"host_id": host_id})
    return [_build(row) for row in rows if row.id not in held]


async def fetch_active_of_host(connection: AsyncConnection, host_id: UUID) -> list[Job]:
    """Fetch the jobs of a host that are not over, and keep others from changing them."""
    query = _SELECT.where(jobs.c.host_id == host_id, IS_ACTIVE)
    rows = await connection.execute(query.order_by(jobs.c.id).with_for_update(of=jobs))
    return [_build(row) for row in rows]


async def fetch_hosts_at(connection: AsyncConnection, repository_id: UUID) -> list[UUID]:
    """Fetch the hosts of the jobs on a repository that are not over."""
    query = sa.select(jobs.c.host_id).distinct().where(_is_on(repository_id), IS_ACTIVE)
    return list(await connection.scalars(query))


async def find_active(
    connection: AsyncConnection, repository_id: UUID, kind: JobKind
) -> UUID | None:
    """Find a job of this kind on the repository that is not over."""
    found: UUID | None = await connection.scalar(
        sa.select(jobs.c.id)
        .where(
            jobs.c.repository_id == repository_id,
            jobs.c.kind == kind,
            IS_ACTIVE,
        )
        .limit(1)
    )
    return found


async def find_of_fire(
    connection: AsyncConnection, schedule_id: UUID, scheduled_at: datetime
) -> UUID | None:
    """Find the job that a fire has made."""
    found: UUID | None = await connection.scalar(
        _OF_FIRE, {"schedule_id": schedule_id, "scheduled_at": scheduled_at}
    )
    return found


async def find_next_of_schedule(
    connection: AsyncConnection, schedule_id: UUID, *, after: datetime
) -> Any:
    """Find the job of a schedule's next slot: its id, and since when it stands for others."""
    found = await connection.execute(_NEXT, {"schedule_id": schedule_id, "after": after})
    return found.one_or_none()


async def count_covered(
    connection: AsyncConnection, schedule_id: UUID, *, since: datetime, before: datetime
) -> int:
    """Count the slots that the jobs of a schedule stand for, their own included."""
    found = await connection.scalar(
        # As a large number: an agent may say of each that it stands for as many as a column holds.
        sa.select(sa.func.sum(sa.cast(jobs.c.missed, sa.BigInteger) + 1)).where(
            jobs.c.schedule_id == schedule_id,
            jobs.c.scheduled_at >= since,
            jobs.c.scheduled_at < before,
        )
    )
    return int(found or 0)


async def move(
    connection: AsyncConnection, job: Job, event: JobEvent, *, at: datetime, **changes: Any
) -> Job:
    """Move a job along the table, with the changes of other fields that belong to it.

    `at` is the server's time; an end gets it as `finished_at` unless the changes say otherwise.

    Raises:
        IllegalJobMoveError: the table has no such move.
        LostRaceError: the job was changed since it was read. So may the next statement, or the end
            of the block.
    """
    try:
        state = find_move(job.state, event)
    except IllegalMoveError as refused:
        raise IllegalJobMoveError(job.id, refused) from refused
    if state in TERMINAL_STATES:
        changes.setdefault("finished_at", at)
    changes.setdefault("retry_at", None)
    if job.state is JobState.QUEUED:
        # How the attempt before has failed says nothing about what comes now.
        changes = {"exit_code": None, "failure_class": None, "message": None, **changes}
    await _update(connection, job, {**changes, "state": state})
    after = msgspec.structs.replace(job, **changes, state=state, revision=job.revision + 1)
    _touch_repositories(connection, job, after)
    if state is JobState.SUCCEEDED and is_real_backup(job):
        await _note_backup(connection, job.host_id, at=changes["finished_at"])
    moved = {
        "id": new_id(),
        "job_id": job.id,
        "attempt": job.attempt,
        "at": at,
        "event": event,
        "from_state": job.state,
        "to_state": state,
    }
    await postpone(connection, _INSERT_EVENT, [moved])
    # That it is queued again says less than why.
    what = event if event is JobEvent.RETRY else state
    await events.append_job(connection, job, what, at=at, message=changes.get("message"))
    return after


async def _note_backup(connection: AsyncConnection, host_id: UUID, *, at: datetime) -> None:
    """Move the time of the host's last good backup; reports can come late and out of order."""
    await postpone(connection, _NOTE_BACKUP, [{"host": host_id, "at": at}])


async def request_cancel(connection: AsyncConnection, job: Job, *, at: datetime) -> Job:
    """Note that the host is to end a job. It is no move: the host has yet to confirm."""
    await _update(connection, job, {"cancel_requested_at": at})
    await events.append_job(connection, job, "cancel_requested", at=at, message=None)
    return msgspec.structs.replace(job, cancel_requested_at=at, revision=job.revision + 1)


async def save_progress(
    connection: AsyncConnection, job: Job, progress: Progress, *, progressed_at: datetime | None
) -> None:
    """Replace the progress. It is no event: only the newest is of use."""
    changes = {"progress": progress, "progressed_at": progressed_at}
    await _update(connection, job, changes)


async def count_lines(connection: AsyncConnection, job: Job, *, by: int, now: datetime) -> None:
    """Count lines of a job's log that are new. restic says something, so it works."""
    changes = {"log_lines": job.log_lines + by, "progressed_at": now}
    await _update(connection, job, changes)


async def fetch_retry_delay(connection: AsyncConnection, job_id: UUID) -> float:
    """Fetch how many seconds lie before a job's second attempt."""
    query = sa.select(jobs.c.retry_delay).where(jobs.c.id == job_id)
    return await connection.scalar(query) or DEFAULT_RETRY_DELAY_S


async def retry(
    connection: AsyncConnection, job: Job, *, at: datetime, retry_at: datetime, **failure: Any
) -> Job:
    """Queue a further attempt of a job; `failure` says how the last one ended."""
    window_s = await _fetch_start_window(connection, job)
    return await move(
        connection,
        job,
        JobEvent.RETRY,
        at=at,
        attempt=job.attempt + 1,
        retry_at=retry_at,
        # As long as after its fire, from when it may begin.
        start_deadline_at=None if window_s is None else retry_at + timedelta(seconds=window_s),
        accepted_at=None,
        started_at=None,
        progress=None,
        progressed_at=None,
        log_lines=0,
        **failure,
    )


async def _fetch_start_window(connection: AsyncConnection, job: Job) -> float | None:
    """Fetch for how many seconds each attempt may wait for its start: as the schedule says now."""
    if job.start_deadline_at is None or job.schedule_id is None:
        return None
    query = sa.select(schedules.c.start_deadline).where(schedules.c.id == job.schedule_id)
    window_s: float | None = await connection.scalar(query)
    return window_s


async def lock_hosts(connection: AsyncConnection, job_ids: list[UUID]) -> None:
    """Wait until the batches of these jobs' hosts are applied, and keep further ones waiting.

    A batch locks its host first, and then jobs in its own order. Whoever locks several jobs does
    the same, or the two could wait for each other for ever.
    """
    of_jobs = sa.select(jobs.c.host_id).where(jobs.c.id.in_(job_ids))
    await connection.execute(
        sa.select(hosts.c.id)
        .where(hosts.c.id.in_(of_jobs))
        .order_by(hosts.c.id)
        .with_for_update(key_share=True)
    )


async def fetch_overdue(
    connection: AsyncConnection, *, now: datetime, job_ids: list[UUID]
) -> list[Job]:
    """Fetch those of the jobs that are still queued past their deadline, to move them."""
    query = (
        _SELECT.where(jobs.c.id.in_(job_ids), _overdue(now))
        .order_by(jobs.c.id)
        .with_for_update(of=jobs)
    )
    return [_build(row) for row in await connection.execute(query)]


async def find_overdue(connection: AsyncConnection, *, now: datetime) -> list[UUID]:
    """Find the jobs that have to expire, whichever host they are for."""
    query = sa.select(jobs.c.id).where(_overdue(now)).limit(MAX_CLOSED_AT_ONCE)
    return list((await connection.scalars(query)).all())


async def find_silent(
    connection: AsyncConnection, *, since: datetime, job_id: UUID | None = None
) -> list[UUID]:
    """Find the jobs, or whether this is one, that are with a host nobody has heard of since."""
    query = (
        sa.select(jobs.c.id)
        .select_from(jobs.join(hosts, jobs.c.host_id == hosts.c.id))
        .where(_is_silent(since))
        .limit(MAX_CLOSED_AT_ONCE)
    )
    query = query if job_id is None else query.where(jobs.c.id == job_id)
    return list((await connection.scalars(query)).all())


async def lose_silent(
    connection: AsyncConnection, *, now: datetime, since: datetime, job_ids: list[UUID]
) -> list[Job]:
    """Move those of the jobs whose host is still silent to `lost`; its late report is taken."""
    query = (
        _SELECT.where(jobs.c.id.in_(job_ids), _is_silent(since))
        .order_by(jobs.c.id)
        .with_for_update(of=jobs)
    )
    silent = [_build(row) for row in await connection.execute(query)]
    return [
        await move(
            connection,
            job,
            JobEvent.VANISH,
            at=now,
            message="The host has not been heard of for too long. If it comes back with this job, "
            "its report counts.",
        )
        for job in silent
    ]


def _is_silent(since: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(
        IS_ACTIVE,
        jobs.c.state.in_([JobState.ACCEPTED, JobState.RUNNING]),
        jobs.c.accepted_at < since,
        sa.or_(hosts.c.last_seen_at.is_(None), hosts.c.last_seen_at < since),
    )


def _overdue(now: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_IS_QUEUED, jobs.c.start_deadline_at < now)


async def _update(connection: AsyncConnection, job: Job, changes: dict[str, Any]) -> None:
    how = Change(_build_update, job.id, job.revision, changes, _build_lost)
    await change(connection, how)


def _build_lost(job_ids: Sequence[UUID]) -> LostRaceError:
    those = ", ".join(map(str, job_ids))
    which = f"Job {those}" if len(job_ids) == 1 else f"One of the jobs {those}"
    return LostRaceError(f"{which} changed meanwhile: look at it again.")


@cache
def _build_update(dialect: str, names: tuple[str, ...]) -> sa.Update:
    """Build the statement that changes these fields of a job. There are few of them."""
    values: dict[str, Any] = {name: sa.bindparam(name, type_=jobs.c[name].type) for name in names}
    times = sa.bindparam("times", type_=sa.Integer)
    statement = (
        sa.update(jobs)
        .where(jobs.c.id == sa.bindparam("which"), jobs.c.revision == sa.bindparam("was_revision"))
        .values({**values, "revision": jobs.c.revision + times})
    )
    return constant(statement.returning(jobs.c.id) if dialect == "postgresql" else statement)


async def _fetch_one(
    connection: AsyncConnection, query: sa.Select[Any], which: dict[str, UUID]
) -> Job:
    row = (await connection.execute(query, which)).one_or_none()
    if row is None:
        raise NotFoundError("job", which["job_id"])
    return _build(row)


# Written out, else no database can see that the partial index fits.
_IS_QUEUED = jobs.c.state == sa.literal_column(f"'{JobState.QUEUED}'")

_destinations = repositories.alias("destinations")

_SELECT = sa.select(
    jobs,
    hosts.c.name.label("host"),
    repositories.c.name.label("repository"),
    _destinations.c.name.label("destination"),
).select_from(
    jobs.join(hosts, jobs.c.host_id == hosts.c.id)
    .outerjoin(repositories, jobs.c.repository_id == repositories.c.id)
    .outerjoin(_destinations, jobs.c.destination_id == _destinations.c.id)
)

# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it. SQLite has one
# writer and ignores the locks.
_INSERT = constant(sa.insert(jobs))
_NAME_OF_REPOSITORY = constant(
    sa.select(repositories.c.name).where(repositories.c.id == sa.bindparam("which"))
)
_INSERT_EVENT = constant(sa.insert(job_events))
_NOTE_BACKUP = constant(
    sa.update(hosts)
    .where(
        hosts.c.id == sa.bindparam("host"),
        sa.or_(hosts.c.last_backup_at.is_(None), hosts.c.last_backup_at < sa.bindparam("at")),
    )
    .values(last_backup_at=sa.bindparam("at"))
)
_ONE = constant(_SELECT.where(jobs.c.id == sa.bindparam("job_id")))
_LOCKED = constant(_ONE.with_for_update(of=jobs))
_LOCKED_OF_HOST = constant(_LOCKED.where(jobs.c.host_id == sa.bindparam("host_id")))
_LOCKED_OF_HOSTS = constant(
    _SELECT.where(
        jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)),
        jobs.c.host_id.in_(sa.bindparam("host_ids", expanding=True)),
    )
    # In one order, so that two who want several cannot wait for each other.
    .order_by(jobs.c.id)
    .with_for_update(of=jobs)
)
_RUNNING_OF_HOST = constant(
    _SELECT.where(
        jobs.c.host_id == sa.bindparam("host_id"),
        IS_ACTIVE,
        jobs.c.state.in_([JobState.ACCEPTED, JobState.RUNNING]),
    ).with_for_update(of=jobs)
)
_OF_FIRE = constant(
    sa.select(jobs.c.id).where(
        jobs.c.schedule_id == sa.bindparam("schedule_id"),
        jobs.c.scheduled_at == sa.bindparam("scheduled_at"),
    )
)
_NEXT = constant(
    sa.select(jobs.c.id, jobs.c.missed_since)
    .where(
        jobs.c.schedule_id == sa.bindparam("schedule_id"),
        jobs.c.scheduled_at > sa.bindparam("after"),
    )
    .order_by(jobs.c.scheduled_at)
    .limit(1)
)


def _build(row: Any) -> Job:
    return build_struct(row, Job)
