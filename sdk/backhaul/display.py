"""How things are written for people: ages, durations, sizes, and text of unknown origin."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from backhaul.wire.jobs import Job, JobState
from backhaul.wire.schedules import Schedule

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

JUST_NOW_S = 10
"""Below this, and for the small skew between two clocks, an age is no number."""


def render_age(at: datetime | None, now: datetime, *, absent: str = "never") -> str:
    """Render how long ago something was, or how far ahead it is: `3 min ago`, `in 2 h`."""
    if at is None:
        return absent
    seconds = (now - at).total_seconds()
    if abs(seconds) < JUST_NOW_S:
        return "just now"
    amount = _render_coarse(abs(seconds))
    return f"{amount} ago" if seconds > 0 else f"in {amount}"


def _render_coarse(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR:.0f} h"
    return f"{seconds // _DAY:.0f} d"


def render_duration(seconds: float | None) -> str:
    """Render a duration: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for size, unit, below, below_unit in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {below_unit}" if rest else "")
    return f"{whole} s"


def render_options(schedule: Schedule) -> str:
    """Render the options of a schedule's kind: `read data parts 7`. Empty when there are none."""
    options = schedule.options
    if options is None:
        return ""
    named = {name: getattr(options, name) for name in options.__struct_fields__}
    if schedule.destination is not None:
        named["destination"] = schedule.destination
    if schedule.of_host is not None:
        named["of_host"] = schedule.of_host
    return ", ".join(
        f"{name.replace('_', ' ')} {_render_option(name, value)}"
        for name, value in named.items()
        if value not in (None, (), False)
    )


def _render_option(name: str, value: Any) -> str:
    plain = " ".join(value) if isinstance(value, tuple) else str(value)
    return render_quantity(name, value) or plain


def render_quantity(name: str, value: Any) -> str | None:
    """Render with its unit what is asked of a job; None for what the field's name gives none."""
    match name:
        case "limit_upload" | "limit_download":
            return f"{value} KiB/s"
        case "max_bytes":
            return render_bytes(value)
    return None


def render_bytes(size: int | None) -> str:
    """Render a size in powers of 1024: `512 B`, `1.5 KiB`, `20.0 GiB`."""
    if size is None:
        return "-"
    if abs(size) < 1024:
        return f"{size} B"
    amount = float(size)
    for unit in _UNITS:
        amount /= 1024
        # 1023.95 would be rendered as 1024.0 of this unit.
        if abs(amount) < 1023.95 or unit == _UNITS[-1]:
            return f"{amount:.1f} {unit}"
    raise AssertionError("the last unit takes every size")


def render_condition(job: Job, now: datetime) -> str:
    """Render what keeps a job in its state, or is strange about it; empty when nothing is."""
    if job.cancel_requested_at is not None and job.finished_at is None:
        return "cancel requested"
    if job.stalled_since is not None:
        return f"no progress for {render_duration((now - job.stalled_since).total_seconds())}"
    if job.waits_for is not None:
        return f"waits for {job.waits_for.kind} on {job.waits_for.host}"
    if job.retry_at is not None and job.state is JobState.QUEUED:
        begin = render_age(job.retry_at, now) if job.retry_at > now else "next"
        return f"attempt {job.attempt} of {job.attempts} {begin}"
    return ""


def render_moment(at: datetime | None) -> str:
    """Render a moment in the local time zone, to the second; in its own where there is none in
    that, as in the first and the last hours of all years."""
    if at is None:
        return "-"
    try:
        local, zone = at.astimezone(), ""
    except OverflowError:
        local, zone = at, f" {at.tzname()}"
    return local.replace(tzinfo=None).isoformat(" ", "seconds") + zone
