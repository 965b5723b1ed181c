"""The displays in one line of text: for terminals, logs and `repr`."""

from __future__ import annotations

from typing import Any

from backhaul._moments import find_now
from backhaul._result_texts import render_result
from backhaul.display import render_age, render_bytes, render_duration
from backhaul.wire.accounts import ApiToken, AuditEntry, EnrollmentToken, User
from backhaul.wire.events import Event
from backhaul.wire.fleet import Host, Repository, RepositorySize, Source
from backhaul.wire.jobs import Job, JobState
from backhaul.wire.schedules import Schedule
from backhaul.wire.snapshots import FileEntry, Snapshot
from backhaul.wire.wording import render_count


def render_line(data: Any) -> str:
    """Write what the object is, how it stands, and how old it is."""
    return f"<{type(data).__name__} {_describe(data)}>"


def render_job_summary(job: Job) -> str:
    """Write what a job did and what came of it."""
    what = f"{job.kind} of {job.host}" if job.kind == "backup" else f"{job.kind} on {job.host}"
    parts = [f"{what}: {job.state}"]
    if job.started_at is not None and job.finished_at is not None:
        parts.append(f"in {render_duration((job.finished_at - job.started_at).total_seconds())}")
    elif job.state is JobState.RUNNING and job.progress is not None:
        parts.append(f"{job.progress.percent_done:.0%}")
    figures = render_result(job)
    if figures:
        parts.append(f"({figures})")
    text = " ".join(parts)
    return f"{text}: {job.message}" if job.message else text


def _describe(data: Any) -> str:  # noqa: C901, PLR0912 (a line for each kind of thing)
    now = find_now()
    match data:
        case Host():
            backup = render_age(data.last_backup_at, now)
            return f"{data.name}: {data.state.replace('_', ' ')}, last good backup {backup}"
        case Job():
            return f"{data.id}: {render_job_summary(data)}, {render_age(data.created_at, now)}"
        case Schedule():
            state = "enabled" if data.enabled else "disabled"
            return f"{data.kind} on {data.host} at {data.cron!r} {data.timezone}, {state}"
        case Source():
            return f"{data.name}: {f'dump {data.dump}' if data.dump else ', '.join(data.paths)}"
        case Repository():
            return f"{data.name}: {data.location}"
        case RepositorySize():
            size, age = render_bytes(data.total_size), render_age(data.measured_at, now)
            return f"{size} in {render_count(data.snapshots_count, 'snapshot')}, measured {age}"
        case Snapshot():
            return f"{data.short_id} of {data.hostname}, {render_age(data.time, now)}"
        case FileEntry():
            size = "" if data.size is None else f", {render_bytes(data.size)}"
            return f"{data.path}: {data.type}{size}, changed {render_age(data.mtime, now)}"
        case ApiToken():
            return f"{data.name}, used {render_age(data.last_used_at, now)}"
        case User():
            state = "" if data.disabled_at is None else "disabled, "
            return f"{data.username}: {state}signed in {render_age(data.last_login_at, now)}"
        case EnrollmentToken():
            left = render_count(data.uses_left, "use")
            return f"{data.id}, {left} left, ends {render_age(data.expires_at, now)}"
        case Event():
            where = data.target or " on ".join(filter(None, (data.job_kind, data.host)))
            return f"{data.kind} {where}, {render_age(data.at, now)}"
        case AuditEntry():
            age = render_age(data.at, now)
            return f"{data.action} {data.target or ''} by {data.actor or data.actor_kind}, {age}"
        case _:
            return str(getattr(data, "id", ""))
