"""`schedule.ack` and `schedule.fire`: what a host says about its schedules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from backhaul.wire.agents import Receipt, ReceiptStatus
from backhaul.wire.jobs import ActorKind, Job, JobEvent, JobState
from backhaul.wire.kinds import Arguments, JobKind, ScheduleOptions, kind_of
from backhaul.wire.schedules import (
    EntryError,
    ScheduleAck,
    ScheduleFire,
    ScheduleKind,
    build_scheduled_job_id,
)
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, schedules
from backhaul_api.errors import ConflictError, InvalidError, NotFoundError
from backhaul_api.identity import Actor
from backhaul_api.jobs import rules, store
from backhaul_api.kinds import plan_fired
from backhaul_api.kinds.order import Fired
from backhaul_api.polling.arrival import DUPLICATE, OK, Arrival
from backhaul_api.repositories import password_changes

MAX_MISSED = 2**31 - 1
"""The column's; nobody counts further."""

MAX_AHEAD = timedelta(days=1)
"""A slot that is further ahead comes from a wrong clock. Its job would stand where the job of the
real slot belongs, once that has come, and no backup would be made then."""

MAX_ERROR_LENGTH = 1000
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


async def apply_ack(arrival: Arrival, ack: ScheduleAck) -> Receipt:
    """Note which schedules the host has applied, and which of them it skips.

    An older version changes nothing. The same version again replaces the errors: an agent that was
    upgraded, or has new time zones, may apply more or less of the same set than before.

    Raises:
        InvalidError: the server never had that version.
    """
    row = (await arrival.connection.execute(_APPLIED, {"host_id": arrival.host_id})).one()
    if not 0 <= ack.schedule_version <= row.schedule_version:
        raise InvalidError.of(
            "schedule_version", f"this host's schedules are at version {row.schedule_version}"
        )
    errors = [_build_error(error) for error in ack.errors] or None
    is_known = ack.schedule_version == row.applied_schedule_version and errors == (
        row.schedule_errors or None
    )
    if is_known or ack.schedule_version < row.applied_schedule_version:
        return DUPLICATE
    await arrival.connection.execute(
        _APPLY,
        {"host_id": arrival.host_id, "version": ack.schedule_version, "errors": errors},
    )
    arrival.topics.update(
        await password_changes.note_applied(arrival.connection, arrival.host_id, now=arrival.now)
    )
    return OK


async def apply_fire(arrival: Arrival, fire: ScheduleFire) -> Receipt:
    """Create the job of a fire, once; a repeat is told which job that is.

    What a host ran offline is recorded, for it did run: also for a schedule that was disabled or
    deleted meanwhile, and with the arguments that the host says it used. A job that somebody has
    cancelled meanwhile is one that the host is asked to end, if it is not too late for that.

    Raises:
        NotFoundError: this host has no such schedule.
        ConflictError: the schedule was deleted or disabled, or the job is over without a run.
        InvalidError: no job can be built from it.
    """
    schedule = await _fetch_schedule(arrival, fire)
    known = await store.find_of_fire(arrival.connection, fire.schedule_id, fire.scheduled_at)
    if known is None and not fire.ran_offline:
        later = await _find_later(arrival, fire)
        if later is not None:
            return Receipt(status=ReceiptStatus.DUPLICATE, job_id=later)
    if known is None:
        job = await _create_job(arrival, fire, schedule)
    else:
        job = await store.fetch_of_host(arrival.connection, known, arrival.host_id)
    # A further attempt that waits says that the host has reported the first one.
    is_new_offline = fire.ran_offline and job.accepted_at is None and job.attempt == 1
    if is_new_offline:
        await _note_offline_run(arrival, fire, job, schedule)
    is_news = known is None or is_new_offline
    status = ReceiptStatus.OK if is_news else ReceiptStatus.DUPLICATE
    return Receipt(status=status, job_id=job.id)


async def _fetch_schedule(arrival: Arrival, fire: ScheduleFire) -> sa.RowMapping:
    which = {"schedule_id": fire.schedule_id, "host_id": arrival.host_id}
    schedule = (await arrival.connection.execute(_SCHEDULE, which)).mappings().one_or_none()
    if schedule is None:
        raise NotFoundError("schedule", fire.schedule_id)
    return schedule


async def _create_job(arrival: Arrival, fire: ScheduleFire, schedule: sa.RowMapping) -> Job:
    if not fire.ran_offline:
        check_active(schedule)
    check_fire(fire, arrival.now)
    new = build_job(
        fire,
        schedule,
        repository_id=_choose_repository(fire, schedule),
        arguments=await _choose_arguments(arrival, fire, schedule),
        missed=await _count_missed(arrival, fire),
        now=arrival.now,
    )
    job = await store.insert(arrival.connection, new, now=arrival.now)
    arrival.topics.add(arrival.host_id)
    return job


def build_job(
    fire: ScheduleFire,
    schedule: Mapping[Any, Any],
    *,
    repository_id: UUID | None,
    arguments: Arguments,
    missed: int,
    now: datetime,
) -> store.NewJob:
    """Build the job of a fire, with what its schedule says of every job."""
    return store.NewJob(
        id=build_scheduled_job_id(fire.schedule_id, fire.scheduled_at),
        host_id=schedule["host_id"],
        repository_id=repository_id,
        arguments=arguments,
        actor=Actor(kind=ActorKind.SCHEDULE, id=fire.schedule_id, name="schedule"),
        schedule_id=fire.schedule_id,
        scheduled_at=fire.scheduled_at,
        missed=missed,
        missed_since=fire.missed_since,
        # From the receipt on: a fire that was late for want of a server is not late for its job.
        start_deadline_at=rules.build_deadline(now, schedule["start_deadline"]),
        max_duration=schedule["max_duration"],
        attempts=schedule["attempts"],
        retry_delay=schedule["retry_delay"],
    )


async def _find_later(arrival: Arrival, fire: ScheduleFire) -> UUID | None:
    """Find the job that stands for the slot of a fire. A later fire has replaced it on the host
    while it was on its way: with a job of its own, the slot would be run twice."""
    later = await store.find_next_of_schedule(
        arrival.connection, fire.schedule_id, after=fire.scheduled_at
    )
    stands_for_it = (
        later is not None
        and later.missed_since is not None
        and later.missed_since <= fire.scheduled_at
    )
    return later.id if stands_for_it else None


async def _count_missed(arrival: Arrival, fire: ScheduleFire) -> int:
    """Count the slots that have no job but this one.

    The host counts those whose fires it has replaced. One of them may have got here, and only its
    receipt got lost.
    """
    if fire.missed_since is None:
        return min(fire.missed, MAX_MISSED)
    covered = await store.count_covered(
        arrival.connection,
        fire.schedule_id,
        since=fire.missed_since,
        before=fire.scheduled_at,
    )
    return max(min(fire.missed, MAX_MISSED) - covered, 0)


async def _note_offline_run(
    arrival: Arrival, fire: ScheduleFire, job: Job, schedule: sa.RowMapping
) -> None:
    """Accept the job of a fire that the host took up under its template.

    The server may have heard of the fire before, and have seen its job expire since then, or be
    cancelled as one that nobody had begun: that was its guess, and this is what happened.
    """
    if job.state not in {JobState.QUEUED, JobState.EXPIRED, JobState.CANCELLED}:
        raise ConflictError(
            f"Job {job.id} of this fire is {job.state}: that the host ran it offline cannot be "
            "recorded any more."
        )
    changes: dict[str, Any] = {
        "ran_offline": True,
        "accepted_at": _choose_begin(fire, arrival.now),
        "finished_at": None,
        "message": None,
    }
    if fire.repository_id is not None:  # an older agent does not say
        changes["repository_id"] = _choose_repository(fire, schedule)
    if fire.arguments is not None:
        changes["arguments"] = _check_arguments(fire.arguments, ScheduleKind(schedule["kind"]))
    await store.move(arrival.connection, job, JobEvent.ACCEPT, at=arrival.now, **changes)
    arrival.topics.update({job.id, arrival.host_id})


def _choose_repository(fire: ScheduleFire, schedule: sa.RowMapping) -> UUID | None:
    """Choose where the job is booked: a host that was cut off may have used an older repository.

    Only one that this schedule once had is believed, for by a job on it a host can report what is
    in it. None for any other: a server that was restored from a backup may not know it.
    """
    used = fire.repository_id if fire.ran_offline else None
    current: UUID = schedule["repository_id"]
    if used is None or used == current:
        return current
    return used if str(used) in (schedule["past_repository_ids"] or []) else None


def check_active(schedule: Mapping[Any, Any]) -> None:
    """Refuse a fire of a schedule that is gone.

    Raises:
        ConflictError: the schedule was deleted or disabled.
    """
    if schedule["deleted_at"] is not None:
        raise ConflictError(f"Schedule {schedule['id']} was deleted: nothing is run for it.")
    if not schedule["enabled"]:
        raise ConflictError(f"Schedule {schedule['id']} is disabled: nothing is run for it.")


def check_fire(fire: ScheduleFire, now: datetime) -> None:
    """Refuse what no schedule can have fired. That it is a slot of the schedule as it is now is not
    asked: the host may have fired by an older version of it.

    Raises:
        InvalidError: it is none.
    """
    if fire.missed < 0:
        raise InvalidError.of("missed", "counts from 0")
    if fire.scheduled_at.microsecond:
        raise InvalidError.of("scheduled_at", "must be a slot, which is a whole second")
    if not _BEGINNING <= fire.scheduled_at <= now + MAX_AHEAD:
        raise InvalidError.of(
            "scheduled_at",
            f"{fire.scheduled_at:%Y-%m-%d %H:%M} is too far from the server's time, "
            f"{now:%Y-%m-%d %H:%M} UTC: set the host's clock",
        )


async def _choose_arguments(
    arrival: Arrival, fire: ScheduleFire, schedule: sa.RowMapping
) -> Arguments:
    kind = ScheduleKind(schedule["kind"])
    if fire.ran_offline and fire.arguments is not None:
        return _check_arguments(fire.arguments, kind)
    fired = Fired(
        connection=arrival.connection,
        now=arrival.now,
        host_id=arrival.host_id,
        repository_id=schedule["repository_id"],
        source_id=schedule["source_id"],
        options=msgspec.convert(schedule["options"], ScheduleOptions | None),
    )
    return await plan_fired(fired, kind)


def _check_arguments(arguments: Arguments, kind: ScheduleKind) -> Arguments:
    if kind_of(arguments) != JobKind(kind):
        raise InvalidError.of("arguments", f"are not those of a {kind}, which the schedule fires")
    return arguments


def _choose_begin(fire: ScheduleFire, now: datetime) -> datetime:
    """Believe the host about when it began, unless that cannot be: its times of start and end are
    believed from then on."""
    return fire.fired_at if fire.scheduled_at <= fire.fired_at <= now else now


def _build_error(error: EntryError) -> dict[str, str]:
    message = error.message
    if len(message) > MAX_ERROR_LENGTH:
        message = f"{message[:MAX_ERROR_LENGTH]} …"
    return {"schedule_id": str(error.schedule_id), "message": message}


_SCHEDULE = constant(
    sa.select(schedules).where(
        schedules.c.id == sa.bindparam("schedule_id"),
        schedules.c.host_id == sa.bindparam("host_id"),
    )
)
_APPLIED = constant(
    sa.select(
        hosts.c.schedule_version, hosts.c.applied_schedule_version, hosts.c.schedule_errors
    ).where(hosts.c.id == sa.bindparam("host_id"))
)
_APPLY = constant(
    sa.update(hosts)
    .where(hosts.c.id == sa.bindparam("host_id"))
    .values(
        applied_schedule_version=sa.bindparam("version"), schedule_errors=sa.bindparam("errors")
    )
)
