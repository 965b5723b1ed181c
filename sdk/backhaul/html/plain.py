"""The displays in one line of text: for terminals, logs and `repr`."""

from __future__ import annotations

from typing import Any

from backhaul._moments import find_now
from backhaul.display import render_age, render_bytes, render_duration
from backhaul.wire.accounts import ApiToken, AuditEntry, EnrollmentToken, User
from backhaul.wire.events import Event
from backhaul.wire.fleet import Host, Repository, RepositorySize, Source
from backhaul.wire.jobs import Job, JobState
from backhaul.wire.kinds import (
    BackupResult,
    CheckResult,
    CopyResult,
    DiffResult,
    DrillResult,
    ForgetResult,
    InitResult,
    PasswdResult,
    PasswdStep,
    PruneResult,
    RestoreResult,
    SnapshotsResult,
    StatsResult,
    UnlockResult,
)
from backhaul.wire.schedules import Schedule
from backhaul.wire.snapshots import FileEntry, Snapshot


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


def render_result(job: Job) -> str:  # noqa: C901 (a case for each kind of job)
    """Write the figures of a job's result; empty when it has none."""
    match job.result:
        case BackupResult() as r:
            text = (
                f"{r.total_files_processed:,} files, {render_bytes(r.total_bytes_processed)}, "
                f"{render_bytes(r.data_added)} {'would be added' if r.dry_run else 'added'}"
            )
            text += f", {r.unreadable:,} unreadable" if r.unreadable else ""
            return f"{text}, snapshot {r.snapshot_id[:8]}" if r.snapshot_id else text
        case RestoreResult() as r:
            return (
                f"{r.files_restored:,} files, {render_bytes(r.bytes_restored)} from "
                f"{r.snapshot_id[:8]} to {r.target}"
            )
        case SnapshotsResult() as r:
            return f"{r.snapshots_count:,} snapshots"
        case ForgetResult() as r:
            if r.dry_run:
                return f"{r.kept:,} snapshots would be kept, {r.to_go:,} removed"
            return f"{r.kept:,} snapshots kept, {r.removed:,} removed"
        case CheckResult() as r:
            return f"no errors; read {r.read_data_subset}" if r.read_data_subset else "no errors"
        case InitResult() as r:
            return f"repository {r.repository_id[:10]}"
        case UnlockResult() as r:
            return f"{r.locks_left} locks left" if r.locks_left else "no locks left"
        case CopyResult() as r:
            return f"{r.copied:,} snapshots copied, {r.skipped:,} there already"
        case StatsResult() as r:
            return f"{render_bytes(r.total_size)} in {r.snapshots_count:,} snapshots"
        case PasswdResult() as r:
            return _describe_passwd(r)
        case DrillResult() as r:
            bad = r.files_differing + r.files_unreadable
            text = (
                f"{r.files_compared:,} of {r.files_total:,} files, "
                f"{render_bytes(r.bytes_compared)} of {r.snapshot_id[:8]} compared"
            )
            return f"{text}, {bad:,} differ or are unreadable" if bad else text
        case DiffResult() as r:
            return (
                f"{r.added.files:,} files added, {r.removed.files:,} removed, "
                f"{r.changed_files:,} changed"
            )
        case PruneResult() | None:
            return ""


def _describe_passwd(result: PasswdResult) -> str:
    if result.step is PasswdStep.ADD:
        return "the new password opens the repository"
    return "the old password does not open the repository any more"


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
            return f"{size} in {data.snapshots_count:,} snapshots, measured {age}"
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
            return (
                f"{data.id}, {data.uses_left} use(s) left, ends {render_age(data.expires_at, now)}"
            )
        case Event():
            where = data.target or " on ".join(filter(None, (data.job_kind, data.host)))
            return f"{data.kind} {where}, {render_age(data.at, now)}"
        case AuditEntry():
            age = render_age(data.at, now)
            return f"{data.action} {data.target or ''} by {data.actor or data.actor_kind}, {age}"
        case _:
            return str(getattr(data, "id", ""))
