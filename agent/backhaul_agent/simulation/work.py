"""How restic would have gone: sizes, durations, log and end of a job, drawn from dice.

The shapes are those of a fleet of servers that back up every day: most runs take a minute or two,
a few take hours; one in fifty fails, one in fifty leaves files out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime

from backhaul.wire.jobs import FailureClass, Outcome, Progress
from backhaul.wire.kinds import (
    Arguments,
    BackupArguments,
    BackupResult,
    CheckArguments,
    CheckResult,
    ForgetArguments,
    ForgetResult,
    Result,
)
from backhaul.wire.snapshots import ReportedSnapshot

MEDIAN_S = 90.0
SPREAD = 1.0
"""Of the logarithm: the 99th percentile of a backup is ten times its median."""
LONGEST_S = 4 * 3600.0
CHECK_MEDIAN_S = 300.0
FORGET_MEDIAN_S = 20.0
FAIL_SHARE = 0.02
INCOMPLETE_SHARE = 0.02
_MEDIAN_FILES = 80_000
_MEDIAN_FILE_BYTES = 250_000
_CHANGED_SHARE = 0.006


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run of restic will have been."""

    duration_s: float
    lines: tuple[str, ...]
    outcome: Outcome
    exit_code: int
    failure_class: FailureClass | None = None
    message: str | None = None
    result: Result | None = None
    total_files: int = 0
    total_bytes: int = 0

    def progress_at(self, share: float, *, passed_s: float) -> Progress:
        """Build restic's status line after a share of the run."""
        done = int(self.total_files * share)
        left_s = int(passed_s / share - passed_s) if share else None
        return Progress(
            percent_done=round(share, 4),
            total_files=self.total_files,
            files_done=done,
            total_bytes=self.total_bytes,
            bytes_done=int(self.total_bytes * share),
            seconds_elapsed=int(passed_s),
            seconds_remaining=left_s,
            current_files=(f"/var/lib/data/{done // 1000:04}/{done % 1000:03}.db",),
        )


def draw_run(dice: random.Random, arguments: Arguments) -> Run:
    """Draw how a job goes."""
    match arguments:
        case BackupArguments():
            return _draw_backup(dice)
        case ForgetArguments():
            kept = dice.randint(60, 140)
            forgotten = ForgetResult(kept=kept, removed=dice.randint(0, 4))
            return _draw_quiet(dice, FORGET_MEDIAN_S, forgotten)
        case CheckArguments():
            return _draw_quiet(dice, CHECK_MEDIAN_S, CheckResult())
        case _:
            return Run(
                duration_s=1.0,
                lines=("this host is simulated",),
                outcome=Outcome.FAILED,
                exit_code=1,
                failure_class=FailureClass.NOT_SUPPORTED,
                message="this host is simulated, and has no such job",
            )


def draw_snapshot(
    dice: random.Random, run: Run, *, hostname: str, at: datetime
) -> ReportedSnapshot:
    """Draw what restic lists of the snapshot that a backup made."""
    assert isinstance(run.result, BackupResult)  # noqa: S101
    return ReportedSnapshot(
        id=run.result.snapshot_id or "",
        time=at,
        hostname=hostname,
        paths=("/srv", "/var/lib"),
        username="root",
        tags=("data",),
        tree=_draw_hex(dice),
        parent=_draw_hex(dice),
        program_version="restic 0.18.0",
    )


def _draw_duration(dice: random.Random, median_s: float) -> float:
    return min(median_s * dice.lognormvariate(0.0, SPREAD), LONGEST_S)


def _draw_quiet(dice: random.Random, median_s: float, result: Result) -> Run:
    return Run(
        duration_s=_draw_duration(dice, median_s),
        lines=tuple(f"{number} of 12 done" for number in range(1, 13)),
        outcome=Outcome.SUCCEEDED,
        exit_code=0,
        result=result,
    )


def _draw_backup(dice: random.Random) -> Run:
    luck = dice.random()
    duration_s = _draw_duration(dice, MEDIAN_S)
    files = int(_MEDIAN_FILES * dice.lognormvariate(0.0, SPREAD)) + 1
    size = files * int(_MEDIAN_FILE_BYTES * dice.lognormvariate(0.0, 0.5))
    opened = "repository 1a2b3c4d opened (version 2, compression level auto)"
    if luck < FAIL_SHARE:
        reason = "Fatal: unable to open repository: dial tcp: i/o timeout"
        return Run(
            duration_s=min(duration_s, 60.0),
            lines=(opened, "Load(<lock>) returned error, retrying after 2.5 s", reason),
            outcome=Outcome.FAILED,
            exit_code=1,
            failure_class=FailureClass.NETWORK,
            message=reason,
        )
    unreadable = dice.randint(1, 40) if luck < FAIL_SHARE + INCOMPLETE_SHARE else 0
    changed = int(files * _CHANGED_SHARE * dice.lognormvariate(0.0, 0.7))
    added = int(size * _CHANGED_SHARE * dice.lognormvariate(0.0, 0.7))
    return Run(
        duration_s=duration_s,
        lines=(
            opened,
            "using parent snapshot 5e6f7a8b",
            *(f"error: open /srv/private/{n}: permission denied" for n in range(unreadable)),
            f"Files:       {changed // 4:5} new, {changed:5} changed, {files:5} unmodified",
            f"Added to the repository: {added / 2**20:.3f} MiB",
            f"processed {files} files, {size / 2**30:.3f} GiB in {int(duration_s)} s",
            "snapshot saved",
        ),
        outcome=Outcome.INCOMPLETE if unreadable else Outcome.SUCCEEDED,
        exit_code=3 if unreadable else 0,
        message=f"{unreadable} files could not be read" if unreadable else None,
        result=BackupResult(
            snapshot_id=_draw_hex(dice),
            files_new=changed // 4,
            files_changed=changed,
            files_unmodified=files,
            data_added=added,
            total_files_processed=files + changed,
            total_bytes_processed=size,
            total_duration=round(duration_s, 3),
            unreadable=unreadable,
        ),
        total_files=files,
        total_bytes=size,
    )


def _draw_hex(dice: random.Random) -> str:
    return f"{dice.getrandbits(256):064x}"
