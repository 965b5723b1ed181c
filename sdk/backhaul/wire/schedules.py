"""Schedules: what the server tells an agent to fire, and what the agent says of it.

`schedule.set` carries the whole set of a host, never a difference. Durations are seconds.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from backhaul.wire.base import Instant, Name, Request, Seconds, Wire
from backhaul.wire.kinds import Arguments, ScheduleOptions


class RunTemplate(Wire, frozen=True, kw_only=True):
    """The run that the server built for a schedule, for when the server cannot be asked."""

    arguments: Arguments
    repository_id: UUID | None = None
    credentials: bytes | None = None
    """Sealed to the host's key, like those of `command.run`."""


class ScheduleEntry(Wire, frozen=True, kw_only=True):
    """One schedule of a host."""

    schedule_id: UUID
    kind: str
    cron: str
    timezone: str
    """An IANA name; the cron expression is evaluated in it."""
    enabled: bool = True
    catch_up: Literal["once", "skip"] = "once"
    catch_up_window: Seconds | None = None
    """A missed slot older than this is not caught up."""
    jitter: Seconds = 0.0
    start_deadline: Seconds | None = None
    max_duration: Seconds | None = None
    when_unreachable: Literal["wait", "run"] = "wait"
    template: RunTemplate | None = None


class ScheduleSet(Wire, frozen=True, kw_only=True, tag_field="type", tag="schedule.set"):
    """Due when the host's schedule version differs from the one that the poll names."""

    schedule_version: int
    schedules: tuple[ScheduleEntry, ...]


class EntryError(Wire, frozen=True, kw_only=True):
    """Why the agent skipped one entry of a set."""

    schedule_id: UUID
    message: str


class ScheduleAck(Wire, frozen=True, kw_only=True, tag_field="type", tag="schedule.ack"):
    """The agent applied a set. Natural key: (host, schedule_version); only moves forward."""

    schedule_version: int
    errors: tuple[EntryError, ...] = ()


class ScheduleFire(Wire, frozen=True, kw_only=True, tag_field="type", tag="schedule.fire"):
    """A schedule fired. Natural key: (schedule, scheduled_at); creates its job once."""

    schedule_id: UUID
    scheduled_at: Instant
    """The slot, not the moment of firing."""
    fired_at: Instant
    missed: int = 0
    """How many earlier slots this fire stands for, besides its own."""
    missed_since: Instant | None = None
    """The slot of the earliest fire that waited for the server and was replaced by this one."""
    ran_offline: bool = False
    """The agent has begun under the run template, without the server."""
    arguments: Arguments | None = None
    """With `ran_offline`: what it runs, which the server may have changed meanwhile."""
    repository_id: UUID | None = None
    """With `ran_offline`: the repository it uses, for the same reason."""


def build_scheduled_job_id(schedule_id: UUID, scheduled_at: datetime) -> UUID:
    """Build the id of the job of a fire: both sides know it before they have spoken.

    A UUIDv7 whose time is the slot's and whose other bits are a hash of the natural key.
    """
    milliseconds = int(scheduled_at.timestamp() * 1000)
    key = f"{schedule_id}/{milliseconds}".encode()
    drawn = int.from_bytes(hashlib.blake2b(key, digest_size=10, person=b"bh-fire").digest())
    bits = (milliseconds & (2**48 - 1)) << 80 | drawn
    bits = bits & ~(0xF << 76) | 0x7 << 76  # version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant
    return UUID(int=bits)


# The operator's view -----------------------------------------------------------------------------


class ScheduleKind(StrEnum):
    """What a schedule can fire."""

    BACKUP = "backup"
    FORGET = "forget"
    PRUNE = "prune"
    CHECK = "check"
    COPY = "copy"
    STATS = "stats"
    DRILL = "drill"


CatchUp = Literal["once", "skip"]
WhenUnreachable = Literal["wait", "run"]
CronExpression = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        examples=["0 2 * * *"],
        description="Five fields, an alias like @daily, or H for a number spread over the fleet.",
    ),
]
Timezone = Annotated[str, msgspec.Meta(min_length=1, max_length=255, examples=["Europe/London"])]
# Not of `Seconds`: msgspec takes one lower bound. A year is more than any of them can mean.
Window = Annotated[float, msgspec.Meta(ge=0, le=366 * 86_400)]
Jitter = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
TimeLimit = Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)]
DEFAULT_ATTEMPTS = 3
DEFAULT_RETRY_DELAY_S = 60.0
Attempts = Annotated[int, msgspec.Meta(ge=1, le=20)]
RetryDelay = Annotated[float, msgspec.Meta(ge=1, le=86_400)]


class CreateSchedule(Request, frozen=True, kw_only=True):
    """Fire a kind of job on a host, whenever a cron expression says. Durations are seconds."""

    kind: ScheduleKind
    cron: CronExpression
    repository: str
    """Name or id."""
    source: str | None = None
    """Name or id; needed for backup and forget, possible for copy, refused for the rest."""
    timezone: Timezone = "UTC"
    """The IANA time zone in which the expression is read."""
    enabled: bool = True
    catch_up: CatchUp = "once"
    """What a window that was missed makes: one fire, as soon as the agent can, or none."""
    catch_up_window: Window | None = None
    """A slot that is older than this is not caught up."""
    jitter: Jitter = 0.0
    """Fires are moved by up to this, each schedule by an amount of its own that never changes."""
    start_deadline: TimeLimit | None = None
    """A job that was not accepted this long after its fire expires."""
    max_duration: TimeLimit | None = None
    """A job that runs longer than this is cancelled, and says why."""
    attempts: Attempts = DEFAULT_ATTEMPTS
    """How often a job is run in all, when it fails in a way that may pass: see
    `backhaul.wire.jobs.RETRYABLE`."""
    retry_delay: RetryDelay = DEFAULT_RETRY_DELAY_S
    """Before the second attempt; doubled before each further one, up to an hour."""
    when_unreachable: WhenUnreachable | None = None
    """`run`: back up without the server when it cannot be reached; the default for backup.
    `wait`: the default, and all there is, for the rest."""
    options: ScheduleOptions | None = None
    """How the job is done. Its `kind`, which must be the schedule's, may be left out in JSON."""


class UpdateSchedule(Request, frozen=True, kw_only=True):
    """Change a schedule. What is left out stays. Its kind and its host cannot change."""

    cron: CronExpression | UnsetType = UNSET
    repository: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    timezone: Timezone | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    catch_up: CatchUp | UnsetType = UNSET
    catch_up_window: Window | UnsetType | None = UNSET
    jitter: Jitter | UnsetType = UNSET
    start_deadline: TimeLimit | UnsetType | None = UNSET
    max_duration: TimeLimit | UnsetType | None = UNSET
    attempts: Attempts | UnsetType = UNSET
    retry_delay: RetryDelay | UnsetType = UNSET
    when_unreachable: WhenUnreachable | UnsetType = UNSET
    options: ScheduleOptions | UnsetType | None = UNSET
    """All of them: what is not named has its default again."""


class Schedule(Wire, frozen=True, kw_only=True):
    """When one kind of job fires on one host."""

    id: UUID
    host_id: UUID
    host: Name
    kind: ScheduleKind
    cron: str
    timezone: str
    enabled: bool
    repository_id: UUID
    repository: Name
    source_id: UUID | None
    source: Name | None
    catch_up: CatchUp
    catch_up_window: Seconds | None
    jitter: Seconds
    start_deadline: Seconds | None
    max_duration: Seconds | None
    attempts: int = 1
    retry_delay: Seconds = DEFAULT_RETRY_DELAY_S
    when_unreachable: WhenUnreachable
    options: ScheduleOptions | None = None
    """None when none were chosen."""
    destination: Name | None = None
    """Of a copy: the name of the repository that the options name by its id."""
    of_host: Name | None = None
    """Of a drill: the name of the host that the options name by its id."""
    next_fire_at: Instant | None
    """The next slot, with this schedule's jitter; None while it is disabled."""
    created_at: Instant
    updated_at: Instant
    revision: int
    """Grows with every change; the ETag is made of it."""
    error: str | None
    """Why the host's agent skips this schedule, when it does."""


class UpcomingFire(Wire, frozen=True, kw_only=True):
    """One slot of a schedule."""

    at: Annotated[str, msgspec.Meta(examples=["2026-10-25T01:30:00+01:00"])]
    """RFC 3339 with the offset that the time zone has then."""


class SchedulePreview(Wire, frozen=True, kw_only=True):
    """The next slots, exact across changes of the clock. Jitter is not in them."""

    cron: str
    timezone: str
    fires: tuple[UpcomingFire, ...]
