"""How a repository stands, derived from its jobs whenever somebody asks: nothing of it is stored.

Each look is for one row at the end of an index, so that the number of jobs does not matter.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import LastCheck, LastJob, Repository, RepositoryLock
from backhaul.wire.jobs import FailureClass, JobState
from backhaul.wire.kinds import JobKind
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.tables import hosts, jobs
from backhaul_api.repositories import checks, password_changes, sizes

_L = TypeVar("_L", bound=LastJob)

_WORKED = (JobState.SUCCEEDED, JobState.INCOMPLETE)
_ENDED = (*_WORKED, JobState.FAILED, JobState.CANCELLED)

# An init and an unlock take no lock: one makes the repository, the other tells how many are left. A
# copy takes one in each of two, and restic does not say which kept it out.
_SHARED_KINDS = frozenset(JobKind) - EXCLUSIVE_KINDS - {JobKind.INIT, JobKind.UNLOCK, JobKind.COPY}
_TELLING_KINDS = EXCLUSIVE_KINDS | _SHARED_KINDS

# restic 0.14 and later (tests/data/restic/locked-*).
_HOLDER = re.compile(r"already locked (?:exclusively )?by (PID \d+ on \S+ by \S+)")


async def describe(
    connection: AsyncConnection, found: list[Repository], *, now: datetime
) -> list[Repository]:
    """Add what only the jobs say of repositories, and the measurements."""
    measured = await sizes.fetch_newest(connection, [one.id for one in found])
    described = []
    for one in await checks.note_coverage(connection, found, now=now):
        size, growth = measured.get(one.id, (None, None))
        described.append(
            msgspec.structs.replace(
                one,
                size=size,
                growth_30d=growth,
                lock=await find_lock(connection, one.id),
                last_check=await _fetch_last(connection, one.id, JobKind.CHECK, _build_check),
                last_prune=await _fetch_last(connection, one.id, JobKind.PRUNE, _build_job),
                last_forget=await _fetch_last(connection, one.id, JobKind.FORGET, _build_job),
                password_change=await password_changes.describe(connection, one),
            )
        )
    return described


async def find_lock(connection: AsyncConnection, repository_id: UUID) -> RepositoryLock | None:
    """Find since when jobs fail of the repository's lock, if the last that is known says so.

    A job that shares the repository can work beside a lock that keeps a prune out: that it worked
    clears only what kept its like out.
    """
    newest = await _fetch_failure(connection, repository_id, _TELLING_KINDS, None, newest=True)
    if newest is None:
        return None
    unlocked = await _find_unlock(connection, repository_id)
    alone = await _find_work(connection, repository_id, EXCLUSIVE_KINDS, unlocked)
    shared = await _find_work(connection, repository_id, _SHARED_KINDS, alone)
    firsts = [
        await _fetch_failure(connection, repository_id, kinds, after)
        for kinds, after in ((EXCLUSIVE_KINDS, alone), (_SHARED_KINDS, shared))
    ]
    lasts = [
        await _fetch_failure(connection, repository_id, kinds, after, newest=True)
        for kinds, after in ((EXCLUSIVE_KINDS, alone), (_SHARED_KINDS, shared))
    ]
    if not any(lasts):
        return None
    last = max(filter(None, lasts), key=lambda row: row.finished_at)
    holder = _HOLDER.search(last.message or "")
    return RepositoryLock(
        since=min(row.finished_at for row in firsts if row is not None),
        job_id=last.id,
        holder=holder and holder[1],
        message=last.message,
    )


async def _fetch_failure(
    connection: AsyncConnection,
    repository_id: UUID,
    kinds: frozenset[JobKind],
    after: datetime | None,
    *,
    newest: bool = False,
) -> Any:
    query = sa.select(jobs.c.id, jobs.c.finished_at, jobs.c.message).where(
        jobs.c.repository_id == repository_id,
        _IS_LOCKED,
        jobs.c.state == JobState.FAILED,
        jobs.c.kind.in_(sorted(kinds)),
    )
    if after is not None:
        query = query.where(jobs.c.finished_at > after)
    order = jobs.c.finished_at.desc() if newest else jobs.c.finished_at
    return (await connection.execute(query.order_by(order).limit(1))).one_or_none()


async def _find_unlock(connection: AsyncConnection, repository_id: UUID) -> datetime | None:
    """Find when the newest unlock left no lock; one that left some says that there are some."""
    query = _ends_of(repository_id, JobKind.UNLOCK, _WORKED)
    row = (await connection.execute(query)).one_or_none()
    if row is None or (row.result or {}).get("locks_left") != 0:
        return None
    found: datetime = row.finished_at
    return found


async def _find_work(
    connection: AsyncConnection,
    repository_id: UUID,
    kinds: frozenset[JobKind],
    least: datetime | None,
) -> datetime | None:
    """Find when the newest job of these kinds worked; not before `least`."""
    times = [least]
    for kind in sorted(kinds):
        row = (await connection.execute(_ends_of(repository_id, kind, _WORKED))).one_or_none()
        times.append(None if row is None else row.finished_at)
    return max(filter(None, times), default=None)


async def _fetch_last(
    connection: AsyncConnection, repository_id: UUID, kind: JobKind, build: Any
) -> Any:
    row = (await connection.execute(_ends_of(repository_id, kind, _ENDED))).one_or_none()
    return None if row is None else build(row)


def _build_job(row: Any) -> LastJob:
    return LastJob(
        job_id=row.id,
        host=row.host,
        state=JobState(row.state),
        finished_at=row.finished_at,
        message=row.message,
    )


def _build_check(row: Any) -> LastCheck:
    return LastCheck(
        **msgspec.structs.asdict(_build_job(row)),
        read_data_subset=(row.result or row.arguments).get("read_data_subset"),
        failure_class=row.failure_class and FailureClass(row.failure_class),
    )


def _ends_of(repository_id: UUID, kind: JobKind, states: tuple[JobState, ...]) -> sa.Select[Any]:
    return (
        sa.select(jobs, hosts.c.name.label("host"))
        .select_from(jobs.join(hosts, jobs.c.host_id == hosts.c.id))
        .where(
            jobs.c.repository_id == repository_id,
            jobs.c.kind == kind,
            jobs.c.state.in_(states),
            jobs.c.finished_at.is_not(None),
        )
        .order_by(jobs.c.finished_at.desc())
        .limit(1)
    )


# Written out, else no database can see that the partial index fits.
_IS_LOCKED = jobs.c.failure_class == sa.literal_column(f"'{FailureClass.LOCKED}'")
