"""Jobs that operators ask for, whichever way the request came: by the route, or past it (see
`front`)."""

from __future__ import annotations

from backhaul.wire.job_batches import CreatedJobs, CreateJobs
from backhaul.wire.jobs import Job
from backhaul.wire.kinds import JobKind, JobRequest, kind_of
from backhaul_api.audit.store import record
from backhaul_api.idempotency import Once
from backhaul_api.identity import Actor
from backhaul_api.jobs import batch, store, targets
from backhaul_api.kinds.order import Order, Sources
from backhaul_api.polling.handover import offer
from backhaul_api.services import Services

_ONE_AT_A_TIME = {JobKind.INIT, JobKind.CHECK, JobKind.COPY}
"""Kinds whose plans look at other jobs of the repository, or lock a second one."""


async def create(services: Services, actor: Actor, data: JobRequest, once: Once) -> Job:
    """Create a job.

    Raises:
        InvalidError: a field is not acceptable, alone or beside another.
        ConflictError: it cannot be done now.
    """
    now = services.clock.now()
    async with services.database.writing() as connection:
        if (made := await once.recall(connection, Job)) is not None:
            return made
        host, repository = await targets.fetch_targets(
            connection,
            host=data.host,
            repository=data.repository,
            is_one_at_a_time=kind_of(data) in _ONE_AT_A_TIME,
        )
        order = Order(
            connection=connection,
            now=now,
            keys=services.keys,
            host=host,
            repository=repository,
            sources=Sources(connection),
        )
        new = await batch.plan_job(order, data, actor=actor)
        job = await store.insert_for(
            connection, new, host=host.name, repository=repository.name, now=now
        )
        await record(
            connection,
            actor,
            "job.create",
            at=now,
            target_kind="job",
            target_id=job.id,
            target=f"{job.kind} on {job.host}",
        )
        await once.keep(connection, job)
        offer(
            connection,
            [new],
            public_keys={host.id: host.public_key},
            updates={repository.id: repository.updated_at},
        )
    return job


async def create_many(
    services: Services, actor: Actor, data: CreateJobs, once: Once
) -> CreatedJobs:
    """Create all of the jobs, or none. Raises as `batch.plan_many` does."""
    now = services.clock.now()
    async with services.database.writing() as connection:
        if (made := await once.recall(connection, CreatedJobs)) is not None:
            return made
        planned = await batch.plan_many(
            connection, data.jobs, actor=actor, keys=services.keys, now=now
        )
        await store.insert_many(connection, planned.new, host_names=planned.host_names, now=now)
        await record(
            connection,
            actor,
            "job.create",
            at=now,
            target_kind="job",
            target=batch.describe(data.jobs),
        )
        created = CreatedJobs(ids=tuple(job.id for job in planned.new))
        await once.keep(connection, created)
        offer(
            connection,
            planned.new,
            public_keys=planned.public_keys,
            updates=planned.updates,
        )
    return created
