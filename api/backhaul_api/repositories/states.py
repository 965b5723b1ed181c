"""How a repository stands, derived from its jobs whenever somebody asks: nothing of it is stored.

Each look is for one row at the end of an index, so that the number of jobs does not matter; and all
looks of a page go in a few statements, so that the number of repositories matters little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import LastCheck, LastJob, Repository, RepositoryLock
from backhaul.wire.jobs import FailureClass, JobState
from backhaul.wire.kinds import JobKind
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.tables import hosts, jobs, repositories
from backhaul_api.db.types import Moment
from backhaul_api.repositories import checks, password_changes, sizes

_NEVER = datetime(1, 1, 2, tzinfo=UTC)

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
    ids = [one.id for one in found]
    measured = await sizes.fetch_newest(connection, ids)
    lasts = await _fetch_lasts(connection, ids)
    locks = await _find_locks(connection, lasts)
    described = []
    for one in await checks.note_coverage(connection, found, now=now):
        size, growth = measured.get(one.id, (None, None))
        last = lasts[one.id]
        described.append(
            msgspec.structs.replace(
                one,
                size=size,
                growth_30d=growth,
                lock=locks.get(one.id),
                last_check=last.check and _build_check(last.check),
                last_prune=last.prune and _build_job(last.prune),
                last_forget=last.forget and _build_job(last.forget),
                password_change=await password_changes.describe(connection, one),
            )
        )
    return described


@dataclass(frozen=True, slots=True, kw_only=True)
class _Last:
    """The last jobs of one repository: of each kind, of those that ended, of those that worked."""

    check: Any
    prune: Any
    forget: Any
    worked_at: Mapping[JobKind, datetime]
    unlocked_at: datetime | None
    """When the newest unlock left no lock; one that left some says that there are some."""
    was_locked: bool
    """Any job has ever failed of a lock."""


async def _fetch_lasts(
    connection: AsyncConnection, repository_ids: Sequence[UUID]
) -> dict[UUID, _Last]:
    rows = (await connection.execute(_LASTS.where(repositories.c.id.in_(repository_ids)))).all()
    job_ids = {
        getattr(row, name)
        for row in rows
        for name in ("check", "prune", "forget", "unlock")
        if getattr(row, name) is not None
    }
    found = {job.id: job for job in await connection.execute(_JOBS.where(jobs.c.id.in_(job_ids)))}
    lasts = {}
    for row in rows:
        unlock: Any = found.get(row.unlock)
        is_unlocked = unlock and (unlock.result or {}).get("locks_left") == 0
        worked_at = {kind: getattr(row, f"worked_{kind.value}") for kind in _TELLING_KINDS}
        lasts[row.id] = _Last(
            check=found.get(row.check),
            prune=found.get(row.prune),
            forget=found.get(row.forget),
            worked_at={kind: at for kind, at in worked_at.items() if at is not None},
            unlocked_at=unlock.finished_at if is_unlocked else None,
            was_locked=row.locked is not None,
        )
    return lasts


async def _find_locks(
    connection: AsyncConnection, lasts: Mapping[UUID, _Last]
) -> dict[UUID, RepositoryLock]:
    """Find since when jobs fail of repositories' locks, where the last that is known says so.

    A job that shares the repository can work beside a lock that keeps a prune out: that it worked
    clears only what kept its like out.
    """
    cleared = []
    for repository_id, last in lasts.items():
        if last.was_locked:
            alone = _find_newest(last, EXCLUSIVE_KINDS, last.unlocked_at or _NEVER)
            cleared.append((repository_id, alone, _find_newest(last, _SHARED_KINDS, alone)))
    if not cleared:
        return {}
    rows = (await connection.execute(_build_failures_query(cleared))).all()
    job_ids = [id_ for row in rows for id_ in row[1:] if id_ is not None]
    query = sa.select(jobs.c.id, jobs.c.finished_at, jobs.c.message).where(jobs.c.id.in_(job_ids))
    found = {job.id: job for job in await connection.execute(query)}
    locks = {}
    for repository_id, *failures in rows:
        known = sorted((found[id_] for id_ in failures if id_), key=lambda job: job.finished_at)
        if known:
            holder = _HOLDER.search(known[-1].message or "")
            locks[repository_id] = RepositoryLock(
                since=known[0].finished_at,
                job_id=known[-1].id,
                holder=holder and holder[1],
                message=known[-1].message,
            )
    return locks


def _find_newest(last: _Last, kinds: frozenset[JobKind], least: datetime) -> datetime:
    """Find when the newest job of these kinds worked; not before `least`."""
    return max([least, *(last.worked_at[kind] for kind in kinds & last.worked_at.keys())])


def _build_failures_query(cleared: list[tuple[UUID, datetime, datetime]]) -> sa.Select[Any]:
    """Build what finds, for each repository, the first and the last job that failed of a lock since
    the last that worked: of those that want it for themselves, and of those that share it."""
    since = (
        sa.values(
            sa.column("repository_id", sa.Uuid()),
            sa.column("alone", Moment()),
            sa.column("shared", Moment()),
            name="since",
        )
        .data(cleared)
        .cte()
    )

    def find(kinds: frozenset[JobKind], after: Any, *, newest: bool) -> Any:
        at = jobs.c.finished_at
        return (
            sa.select(jobs.c.id)
            .where(
                jobs.c.repository_id == since.c.repository_id,
                _IS_LOCKED,
                jobs.c.state == JobState.FAILED,
                jobs.c.kind.in_(sorted(kinds)),
                at > after,
            )
            .order_by(at.desc() if newest else at)
            .limit(1)
            .scalar_subquery()
        )

    return sa.select(
        since.c.repository_id,
        find(EXCLUSIVE_KINDS, since.c.alone, newest=False).label("first_alone"),
        find(EXCLUSIVE_KINDS, since.c.alone, newest=True).label("last_alone"),
        find(_SHARED_KINDS, since.c.shared, newest=False).label("first_shared"),
        find(_SHARED_KINDS, since.c.shared, newest=True).label("last_shared"),
    )


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


def _find_last(
    column: sa.Column[Any], kind: JobKind, states: tuple[JobState, ...]
) -> sa.ScalarSelect[Any]:
    """Build what looks up the repository's last job of a kind, at the end of an index."""
    return (
        sa.select(column)
        .where(
            jobs.c.repository_id == repositories.c.id,
            jobs.c.kind == kind,
            jobs.c.state.in_(states),
            jobs.c.finished_at.is_not(None),
        )
        .order_by(jobs.c.finished_at.desc())
        .limit(1)
        .scalar_subquery()
    )


# Written out, else no database can see that the partial index fits.
_IS_LOCKED = jobs.c.failure_class == sa.literal_column(f"'{FailureClass.LOCKED}'")

_JOBS = sa.select(jobs, hosts.c.name.label("host")).select_from(
    jobs.join(hosts, jobs.c.host_id == hosts.c.id)
)

_LASTS = sa.select(
    repositories.c.id,
    _find_last(jobs.c.id, JobKind.CHECK, _ENDED).label("check"),
    _find_last(jobs.c.id, JobKind.PRUNE, _ENDED).label("prune"),
    _find_last(jobs.c.id, JobKind.FORGET, _ENDED).label("forget"),
    _find_last(jobs.c.id, JobKind.UNLOCK, _WORKED).label("unlock"),
    *(
        _find_last(jobs.c.finished_at, kind, _WORKED).label(f"worked_{kind.value}")
        for kind in sorted(_TELLING_KINDS)
    ),
    sa.select(jobs.c.id)
    .where(
        jobs.c.repository_id == repositories.c.id,
        _IS_LOCKED,
        jobs.c.state == JobState.FAILED,
        jobs.c.kind.in_(sorted(_TELLING_KINDS)),
    )
    .order_by(jobs.c.finished_at.desc())
    .limit(1)
    .scalar_subquery()
    .label("locked"),
)
