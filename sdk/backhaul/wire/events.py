"""Events: what happened in the fleet, in the order in which it was committed."""

from __future__ import annotations

from uuid import UUID

from backhaul.wire.base import Instant, Wire
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import JobKind

KINDS = frozenset(
    {
        *(f"job.{state}" for state in JobState),
        "job.retry",
        "job.cancel_requested",
        "account.login_failed",
        "api_token.create",
        "api_token.delete",
        "enrollment_token.create",
        "enrollment_token.delete",
        "host.delete",
        "host.enroll",
        "host.update",
        "repository.adopt",
        "repository.change_password",
        "repository.continue_password_change",
        "repository.create",
        "repository.delete",
        "repository.give_up_password_change",
        "repository.update",
        "schedule.create",
        "schedule.delete",
        "schedule.update",
        "session.create",
        "session.delete",
        "source.create",
        "source.delete",
        "source.update",
        "user.bootstrap",
        "user.create",
        "user.delete",
        "user.disable",
        "user.enable",
        "user.reset_password",
    }
)
"""Every kind of event that there is."""


class Event(Wire, frozen=True, kw_only=True):
    """Something that happened: a job changed its state, or somebody changed something."""

    id: int
    """Tells events apart, and nothing more: the order is that of the list."""
    at: Instant
    kind: str
    """What it happened to and what it was: `job.` and the state that the job came to, like
    `job.succeeded`, or `job.retry`, or `job.cancel_requested`; or an action of the audit log, like
    `schedule.update`."""
    actor: str | None = None
    """Who did it, by the name at the time; None for what jobs do by themselves."""
    host_id: UUID | None = None
    host: str | None = None
    """Where, by the name at the time."""
    job_id: UUID | None = None
    job_kind: JobKind | None = None
    target_id: UUID | None = None
    target: str | None = None
    """What was changed, by the name at the time; None for jobs."""
    message: str | None = None
    """Why a job ended as it did."""


class EventPage(Wire, frozen=True, kw_only=True):
    """Events, oldest first, and where to go on."""

    items: tuple[Event, ...]
    next_cursor: str
    """Always there: ask with it for what comes after these, now or later."""
    has_more: bool = False
    """Whether more is there now."""
