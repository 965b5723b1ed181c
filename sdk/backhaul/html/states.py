"""How states look: a mark, a colour, a word, the same in every display."""

from __future__ import annotations

from datetime import datetime

from backhaul.display import render_condition
from backhaul.html.markup import Markup, join, mark
from backhaul.wire.events import Event
from backhaul.wire.fleet import Host, HostState
from backhaul.wire.jobs import Job, JobState
from backhaul.wire.wording import render_count

_JOBS = {
    JobState.QUEUED: ("mute", "○"),
    JobState.ACCEPTED: ("busy", "◔"),
    JobState.RUNNING: ("busy", "▶"),
    JobState.SUCCEEDED: ("good", "✔"),
    JobState.INCOMPLETE: ("warn", "◐"),
    JobState.FAILED: ("bad", "✖"),
    JobState.CANCELLED: ("mute", "⊘"),
    JobState.REJECTED: ("bad", "⊗"),
    JobState.EXPIRED: ("warn", "◌"),
    JobState.LOST: ("bad", "?"),
}
_HOSTS = {
    HostState.ONLINE: ("good", "●", "online"),
    HostState.OFFLINE: ("bad", "○", "offline"),
    HostState.NEVER_SEEN: ("warn", "◌", "never seen"),
}


def show_job_state(job: Job, now: datetime) -> Markup:
    kind, glyph = _JOBS[job.state]
    shown = mark(kind, glyph, job.state.value)
    condition = render_condition(job, now)
    return join(shown, ", ", mark("warn", "!", condition)) if condition else shown


def show_event(event: Event) -> Markup:
    """The kind of an event; a job's with the mark of its state."""
    what, _, state = event.kind.partition(".")
    if what == "job" and state in set(JobState):
        kind, glyph = _JOBS[JobState(state)]
        return mark(kind, glyph, event.kind)
    return mark("mute", "•", event.kind)


def show_host_state(host: Host) -> Markup:
    return mark(*_HOSTS[host.state])


def show_enabled(*, is_enabled: bool, error: str | None) -> Markup:
    if error is not None:
        return mark("bad", "✖", "skipped by the host")
    return mark("good", "✔", "enabled") if is_enabled else mark("mute", "○", "disabled")


def show_drift(host: Host) -> Markup:
    drift = host.drift
    if drift is None:
        return mark("good", "✔", "none")
    if drift.desired != drift.applied:
        return mark("warn", "◐", f"follows version {drift.applied} of {drift.desired}")
    return mark("bad", "✖", f"skips {render_count(len(drift.errors), 'schedule')}")
