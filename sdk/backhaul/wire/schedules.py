"""Schedules: what the server tells an agent to fire, and what the agent says of it.

`schedule.set` carries the whole set of a host, never a difference. Durations are seconds.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from backhaul.wire.base import Instant, Seconds, Wire
from backhaul.wire.jobs import Arguments


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
    ran_offline: bool = False
    """The agent has begun under the run template, without the server."""
