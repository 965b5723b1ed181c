"""What time alone does to jobs: done by whoever looks at them, so it needs no timer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.jobs import Job, JobEvent, JobState, Obstacle
from backhaul_api.db.changes import touch
from backhaul_api.jobs import rules, store, turns
from backhaul_api.services import Services


@dataclass(frozen=True, slots=True)
class Closed:
    """What was done to jobs that were overdue, and whether there may be more of them."""

    expired: int = 0
    lost: int = 0
    has_more: bool = False


async def close_overdue(services: Services) -> Closed:
    """Expire what no agent took up in time, and lose what is with a host that fell silent; of each
    at most `MAX_CLOSED_AT_ONCE`."""
    now = services.clock.now()
    since = services.silence.find_since(now)
    async with services.database.reading() as connection:
        overdue = await store.find_overdue(connection, now=now)
        silent = [] if since is None else await store.find_silent(connection, since=since)
    if not overdue and not silent:
        return Closed()
    return await _close(services, overdue, silent, now=now)


async def close_if_overdue(services: Services, job: Job) -> bool:
    """Do the same for one job; False when there was nothing to do."""
    now = services.clock.now()
    if rules.is_overdue(job, now):
        await _close(services, [job.id], [], now=now)
        return True
    since = services.silence.find_since(now)
    is_with_host = job.state in {JobState.ACCEPTED, JobState.RUNNING}
    if since is None or not is_with_host or job.accepted_at is None or job.accepted_at >= since:
        return False
    async with services.database.reading() as connection:
        silent = await store.find_silent(connection, since=since, job_id=job.id)
    if silent:
        await _close(services, [], silent, now=now)
    return bool(silent)


async def _close(
    services: Services, overdue: list[UUID], silent: list[UUID], *, now: datetime
) -> Closed:
    since = services.silence.find_since(now)
    async with services.database.writing() as connection:
        await store.lock_hosts(connection, [*overdue, *silent])
        expired = await expire(connection, overdue, now=now, silent_since=since)
        lost = []
        if since is not None:
            lost = await store.lose_silent(connection, now=now, since=since, job_ids=silent)
        for job in (*expired, *lost):
            touch(connection, job.id, *await turns.find_next(connection, job))
    return Closed(
        expired=len(expired),
        lost=len(lost),
        has_more=max(len(overdue), len(silent)) >= store.MAX_CLOSED_AT_ONCE,
    )


async def expire(
    connection: AsyncConnection,
    job_ids: list[UUID],
    *,
    now: datetime,
    silent_since: datetime | None,
) -> list[Job]:
    """Move those of the jobs that are still queued past their deadline to `expired`, and say why:
    no agent was there, or the turn of the job did not come. Their hosts are locked.

    `silent_since` is that of `turns.find_obstacles`.
    """
    overdue = await store.fetch_overdue(connection, now=now, job_ids=job_ids)
    present = await turns.find_present(connection, {job.host_id for job in overdue}, now=now)
    waiting = [
        built
        for job in overdue
        if job.host_id in present and (built := turns.build_waiting(job)) is not None
    ]
    obstacles = await turns.find_obstacles(connection, waiting, now=now, silent_since=silent_since)
    return [
        await store.move(
            connection, job, JobEvent.EXPIRE, at=now, message=_explain(obstacles.get(job.id))
        )
        for job in overdue
    ]


def _explain(obstacle: Obstacle | None) -> str:
    if obstacle is None:
        return "No agent took the job up before its start deadline."
    return (
        "Its turn did not come before its start deadline: it waited for "
        f"{obstacle.kind} on {obstacle.host} (job {obstacle.job_id})."
    )
