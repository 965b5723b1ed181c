"""/v1/jobs."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Router, get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.job_batches import CreatedJobs, CreateJobs
from backhaul.wire.jobs import TERMINAL_STATES, Job, JobEvent, JobLogPage, JobState
from backhaul.wire.kinds import JobKind, JobRequest
from backhaul.wire.pages import Page
from backhaul_api.audit.store import record
from backhaul_api.auth import OperatorRequest
from backhaul_api.db.changes import touch
from backhaul_api.idempotency import IdempotencyKey, Once
from backhaul_api.jobs import creation, log, rules, store, targets, turns
from backhaul_api.jobs.overdue import close_if_overdue, close_overdue
from backhaul_api.moments import parse_moment
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.polling.parking import Wait, look_until
from backhaul_api.services import Needs, Services

MAX_WAIT_S = 25.0
"""Under the 30 s at which the more impatient proxies cut."""

MAX_TAIL = 100_000

_HostFilter = Annotated[
    str | None, QueryParameter(description="Only jobs of this host, by name or id.")
]
_RepositoryFilter = Annotated[
    str | None,
    QueryParameter(description="Only jobs on this repository, and copies to it, by name or id."),
]
_ScheduleFilter = Annotated[
    UUID | None,
    QueryParameter(description="Only jobs that this schedule fired; it may have been deleted."),
]
_Kinds = Annotated[
    list[JobKind] | None, QueryParameter(name="kind", description="May be repeated.")
]
_States = Annotated[
    list[JobState] | None,
    QueryParameter(name="state", description="May be repeated."),
]
_Since = Annotated[
    str | None,
    QueryParameter(
        format="date-time", description="Only jobs made at this moment or after; RFC 3339."
    ),
]
_Until = Annotated[
    str | None,
    QueryParameter(format="date-time", description="Only jobs made before this moment; RFC 3339."),
]
_Revision = Annotated[
    int | None,
    QueryParameter(ge=-1, description="Answer once the job's revision is greater."),
]


@get("/", operation_id="list_jobs", summary="List jobs, newest first")
async def list_jobs(  # noqa: PLR0913 (each is a parameter of the query)
    services: Needs,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    *,
    host: _HostFilter = None,
    repository: _RepositoryFilter = None,
    schedule: _ScheduleFilter = None,
    kinds: _Kinds = None,
    states: _States = None,
    since: _Since = None,
    until: _Until = None,
) -> Page[Job]:
    before = decode_cursor(cursor, tuple[UUID])[0] if cursor else None
    await close_overdue(services)
    async with services.database.reading() as connection:
        filters = store.Filters(
            host_id=await targets.find_host(connection, host) if host else None,
            repository_id=(
                await targets.find_repository(connection, repository) if repository else None
            ),
            schedule_id=await targets.find_schedule(connection, schedule) if schedule else None,
            kinds=tuple(kinds or ()),
            states=tuple(states or ()),
            since=parse_moment("since", since),
            until=parse_moment("until", until),
        )
        found = await store.fetch_page(connection, filters, limit=limit + 1, before=before)
        page, has_more = split_page(found, limit)
        items = await _tell(services, connection, list(page))
    return Page(items=tuple(items), next_cursor=encode_cursor(items[-1].id) if has_more else None)


@post("/", operation_id="create_job", summary="Run a job")
async def create_job(
    request: OperatorRequest,
    services: Needs,
    data: JSONBody[JobRequest],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    once = Once.of(request, services, idempotency_key, data)
    return await creation.create(services, request.user, data, once)


@post(
    "/batch",
    operation_id="create_jobs",
    summary="Run jobs on many hosts",
    description=(
        "All of them are made, or none: what is refused says which of the requests it is about, "
        "like `jobs[17].host`. The answer has the ids, in the order of the requests."
    ),
)
async def create_jobs(
    request: OperatorRequest,
    services: Needs,
    data: JSONBody[CreateJobs],
    idempotency_key: IdempotencyKey = None,
) -> CreatedJobs:
    once = Once.of(request, services, idempotency_key, data)
    return await creation.create_many(services, request.user, data, once)


@get("/{job_id:uuid}", operation_id="get_job", summary="Get a job, or wait for its next change")
async def get_job(
    request: OperatorRequest,
    services: Needs,
    job_id: FromPath[UUID],
    after_revision: _Revision = None,
    wait: Annotated[
        float,
        QueryParameter(
            ge=0,
            le=MAX_WAIT_S,
            description="With `after_revision`: answer after so many seconds in any case.",
        ),
    ] = MAX_WAIT_S,
) -> Job:
    async def look() -> Job:
        job = await _fetch_told(services, job_id)
        if await close_if_overdue(services, job):
            job = await _fetch_told(services, job_id)
        return job

    def is_enough(job: Job) -> bool:
        return (
            after_revision is None or job.revision > after_revision or job.state in TERMINAL_STATES
        )

    return await look_until(look, is_enough, _wait_for(request, services, job_id, wait))


@post(
    "/{job_id:uuid}/cancel",
    status_code=200,
    operation_id="cancel_job",
    summary="Cancel a job",
    description=(
        "A job that waits is cancelled at once. One that the host has taken up is asked to end, "
        "which `cancel_requested_at` shows, until the host confirms it: restic gets SIGINT first, "
        "so that it removes its lock. So is one that is lost, when its host comes back with it. "
        "Asking again changes nothing. A job that is over is 409."
    ),
)
async def cancel_job(request: OperatorRequest, services: Needs, job_id: FromPath[UUID]) -> Job:
    now = services.clock.now()
    async with services.database.writing() as connection:
        found = await store.fetch(connection, job_id, for_update=True)
        rules.refuse_over(found)
        if found.state is JobState.QUEUED:
            job = await store.move(
                connection,
                found,
                JobEvent.CANCEL,
                at=now,
                cancel_requested_at=now,
                message=f"Cancelled by {request.user.name} before the host took it up.",
            )
            touch(connection, *await turns.find_next(connection, job))
        elif found.cancel_requested_at is None:
            job = await store.request_cancel(connection, found, at=now)
        else:
            return found
        await record(
            connection,
            request.user,
            "job.cancel",
            at=now,
            target_kind="job",
            target_id=job.id,
            target=f"{job.kind} on {job.host}",
        )
        touch(connection, job.host_id, job.id)
    return job


@get(
    "/{job_id:uuid}/log",
    operation_id="get_job_log",
    summary="Read a job's log, or follow it",
    description="A server may delete the log of a job some time after its end: see the setting "
    "`job_log_lifetime`.",
    opt={"can_be_deleted": True},
)
async def get_job_log(
    request: OperatorRequest,
    services: Needs,
    job_id: FromPath[UUID],
    *,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    tail: Annotated[
        int | None,
        QueryParameter(
            ge=0,
            le=MAX_TAIL,
            description="Without a cursor: begin so many lines before the end of the newest "
            "attempt.",
        ),
    ] = None,
    wait: Annotated[
        float,
        QueryParameter(
            ge=0,
            le=MAX_WAIT_S,
            description="Wait so many seconds for more lines when there are none from the cursor "
            "on and the job is not over.",
        ),
    ] = 0.0,
) -> JobLogPage:
    async def look() -> JobLogPage:
        async with services.database.reading() as connection:
            return await log.fetch_page(
                connection,
                job_id,
                cursor=cursor,
                limit=limit,
                tail=tail,
                deleted_before=services.find_log_limit(),
            )

    def is_enough(page: JobLogPage) -> bool:
        return bool(page.lines) or page.is_complete

    return await look_until(look, is_enough, _wait_for(request, services, job_id, wait))


async def _fetch_told(services: Services, job_id: UUID) -> Job:
    async with services.database.reading() as connection:
        (job,) = await _tell(services, connection, [await store.fetch(connection, job_id)])
    return job


async def _tell(services: Services, connection: AsyncConnection, found: list[Job]) -> list[Job]:
    """Add what only the present moment says of jobs: what they wait for, and which have stalled."""
    now, stall_after_s = services.clock.now(), services.settings.stall_after
    waiting = [
        built
        for job in found
        if job.state is JobState.QUEUED and (built := turns.build_waiting(job)) is not None
    ]
    silent_since = services.silence.find_since(now)
    obstacles = await turns.find_obstacles(connection, waiting, now=now, silent_since=silent_since)
    return [
        msgspec.structs.replace(
            job,
            waits_for=obstacles.get(job.id),
            stalled_since=rules.find_stall(job, now, after_s=stall_after_s),
        )
        for job in found
    ]


def _wait_for(request: OperatorRequest, services: Services, job_id: UUID, seconds: float) -> Wait:
    return Wait(
        wakeups=services.wakeups,
        topic=job_id,
        seconds=services.settings.cap_wait(seconds),
        client=request.receive,
        recheck_s=services.recheck_s,
    )


router = Router(
    "/v1/jobs",
    route_handlers=[list_jobs, create_job, create_jobs, get_job, cancel_job, get_job_log],
    tags=["jobs"],
)
