"""What came of a job, in a few words: the same on the command line and in notebooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backhaul.display import render_bytes
from backhaul.wire.jobs import Job
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
    RestoreResult,
    SnapshotsResult,
    StatsResult,
    UnlockResult,
)
from backhaul.wire.wording import render_count

SHORT_ID_LENGTH = 8


def render_result(job: Job) -> str:
    """Write the figures of a job's result; empty when it has none."""
    render = _RENDER.get(type(job.result))
    return "" if render is None else render(job.result)


def _render_backup(result: BackupResult) -> str:
    text = (
        f"{render_count(result.total_files_processed, 'file')}, "
        f"{render_bytes(result.total_bytes_processed)}, "
        f"{render_bytes(result.data_added)} {'would be added' if result.dry_run else 'added'}"
    )
    text += f", {result.unreadable:,} unreadable" if result.unreadable else ""
    if result.snapshot_id is None:
        return text
    return f"{text}, snapshot {result.snapshot_id[:SHORT_ID_LENGTH]}"


def _render_restore(result: RestoreResult) -> str:
    # Nothing else is restored to the root: a restore takes a new folder.
    where = "put back in place" if result.target == "/" else f"to {result.target}"
    return (
        f"{render_count(result.files_restored, 'file')}, "
        f"{render_bytes(result.bytes_restored)} from "
        f"{result.snapshot_id[:SHORT_ID_LENGTH]} {where}"
    )


def _render_forget(result: ForgetResult) -> str:
    if result.dry_run:
        return f"{render_count(result.kept, 'snapshot')} would be kept, {result.to_go:,} removed"
    return f"{render_count(result.kept, 'snapshot')} kept, {result.removed:,} removed"


def _render_check(result: CheckResult) -> str:
    part = result.read_data_subset
    return f"no errors; read {part} of the data" if part else "no errors"


def _render_drill(result: DrillResult) -> str:
    text = (
        f"{result.files_compared:,} of {render_count(result.files_total, 'file')}, "
        f"{render_bytes(result.bytes_compared)} of snapshot "
        f"{result.snapshot_id[:SHORT_ID_LENGTH]} compared"
    )
    bad = result.files_differing + result.files_unreadable
    return f"{text}, {bad:,} differ or are unreadable" if bad else text


def _render_diff(result: DiffResult) -> str:
    return (
        f"{render_count(result.added.files, 'file')} added, {result.removed.files:,} removed, "
        f"{result.changed_files:,} changed"
    )


def _render_unlock(result: UnlockResult) -> str:
    left = result.locks_left
    return f"{render_count(left, 'lock')} left" if left else "no locks left"


def _render_passwd(result: PasswdResult) -> str:
    if result.step is PasswdStep.ADD:
        return "the new password opens the repository"
    return "the old password does not open the repository any more"


_RENDER: Mapping[type, Callable[[Any], str]] = {
    InitResult: lambda result: f"repository {result.repository_id[:10]}",
    BackupResult: _render_backup,
    SnapshotsResult: lambda result: render_count(result.snapshots_count, "snapshot"),
    RestoreResult: _render_restore,
    ForgetResult: _render_forget,
    CheckResult: _render_check,
    UnlockResult: _render_unlock,
    StatsResult: lambda result: (
        f"{render_bytes(result.total_size)} in {render_count(result.snapshots_count, 'snapshot')}"
    ),
    DiffResult: _render_diff,
    CopyResult: lambda result: (
        f"{render_count(result.copied, 'snapshot')} copied, {result.skipped:,} there already"
    ),
    DrillResult: _render_drill,
    PasswdResult: _render_passwd,
}
