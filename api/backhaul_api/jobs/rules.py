"""What a job may be asked to do, and when it is too late. Touches neither HTTP nor SQL."""

from __future__ import annotations

import posixpath
import random
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import assert_never

import msgspec

from backhaul.wire.fleet import Source
from backhaul.wire.jobs import (
    ACTIVE_STATES,
    RETRYABLE,
    TERMINAL_STATES,
    Arguments,
    BackupArguments,
    BackupRequest,
    CheckArguments,
    CheckRequest,
    FailureClass,
    ForgetArguments,
    ForgetRequest,
    InitArguments,
    InitRequest,
    Job,
    JobRequest,
    JobState,
    Progress,
    PruneArguments,
    PruneRequest,
    RestoreArguments,
    RestoreRequest,
    SnapshotsArguments,
    SnapshotsRequest,
    UnlockArguments,
    UnlockRequest,
)
from backhaul.wire.schedules import ScheduleKind
from backhaul_api.errors import ConflictError, InvalidError
from backhaul_api.sources.rules import check_paths, require_keep_rule

MAX_PATHS = 1000
"""As many as a source may have."""


def build_arguments(request: JobRequest, source: Source | None) -> Arguments:
    """Build what the agent is told to do. `source` is the one that the request names.

    Raises:
        InvalidError: a field is not acceptable, alone or beside another.
    """
    match request:
        case InitRequest():
            return InitArguments()
        case SnapshotsRequest():
            return SnapshotsArguments()
        case BackupRequest():
            return _build_backup(request, source)
        case RestoreRequest():
            return _build_restore(request)
        case ForgetRequest():
            return build_forget(source)
        case PruneRequest():
            return PruneArguments()
        case CheckRequest():
            check_read_data_subset(request.read_data_subset)
            return CheckArguments(read_data_subset=request.read_data_subset)
        case UnlockRequest():
            return UnlockArguments(remove_all=request.remove_all)
        case _:
            assert_never(request)


def build_scheduled(kind: ScheduleKind, source: Source | None) -> Arguments:
    """Build what a fire of a schedule runs.

    Raises:
        InvalidError: the source is missing, or has no keep rule for a forget.
    """
    match kind:
        case ScheduleKind.BACKUP:
            return build_source_backup(_require(source, kind))
        case ScheduleKind.FORGET:
            return build_forget(source)
        case ScheduleKind.PRUNE:
            return PruneArguments()
        case ScheduleKind.CHECK:
            return CheckArguments()
        case _:
            assert_never(kind)


def build_forget(source: Source | None) -> ForgetArguments:
    """Build the forget of a source: of the snapshots with its name as a tag, by its keep rules.

    Raises:
        InvalidError: there is no source, or it has no keep rule.
    """
    source = _require(source, ScheduleKind.FORGET)
    return ForgetArguments(tag=source.name, keep=require_keep_rule(source))


def build_source_backup(source: Source) -> BackupArguments:
    """Build the backup of a source. Its name is the first tag: by it the snapshots are found."""
    return BackupArguments(
        paths=source.paths,
        excludes=source.excludes,
        tags=_unique([source.name, *source.tags]),
        one_file_system=source.one_file_system,
    )


def check_read_data_subset(part: str | None) -> None:
    """Refuse a part of the data that does not exist, like `8/7` or `120%`.

    Raises:
        InvalidError: see there.
    """
    if part is None:
        return
    if part.endswith("%"):
        if not 0 < float(part[:-1]) <= 100:
            raise InvalidError.of("read_data_subset", "must be more than 0% and at most 100%")
        return
    which, _, parts = part.partition("/")
    if not 1 <= int(which) <= int(parts):
        raise InvalidError.of("read_data_subset", f"of {parts} parts there is no part {which}")


def build_deadline(created_at: datetime, start_deadline_s: float | None) -> datetime | None:
    """Build the moment after which a job that was not accepted expires."""
    return None if start_deadline_s is None else created_at + timedelta(seconds=start_deadline_s)


def is_overdue(job: Job, now: datetime) -> bool:
    """Tell whether a job has to expire: nobody took it up in time."""
    deadline = job.start_deadline_at
    return job.state is JobState.QUEUED and deadline is not None and deadline < now


def find_stall(job: Job, now: datetime, *, after_s: float) -> datetime | None:
    """Tell since when a job has not got on, if that is too long."""
    if job.state is not JobState.RUNNING or job.progressed_at is None:
        return None
    return job.progressed_at if now - job.progressed_at > timedelta(seconds=after_s) else None


def has_advanced(last: Progress | None, new: Progress) -> bool:
    """Tell whether restic got on between two status lines: that time passed is no progress."""
    if last is None:
        return True
    passing = {"seconds_elapsed": 0, "seconds_remaining": None}
    return msgspec.structs.replace(last, **passing) != msgspec.structs.replace(new, **passing)


RETRY_FACTORS: Mapping[FailureClass, float] = MappingProxyType(
    {
        # Whoever holds the lock needs a while; a prune may need hours.
        FailureClass.LOCKED: 5.0,
    }
)
"""Of the retry delay, by what went wrong; 1 for the rest."""

LONGEST_RETRY_DELAY_S = 3600.0
RETRY_SPREAD = 0.2
"""A storage that was away meets its fleet again; not all at once."""
_random = random.SystemRandom()


def choose_retry(job: Job, failure_class: FailureClass | None, *, delay_s: float) -> float | None:
    """Choose in how many seconds a failed job is tried again; None when it is not."""
    if job.state not in ACTIVE_STATES or job.cancel_requested_at is not None:
        return None
    if failure_class not in RETRYABLE or job.attempt >= job.attempts:
        return None
    pause_s = delay_s * RETRY_FACTORS.get(failure_class, 1.0) * 2.0 ** (job.attempt - 1)
    longest_s = max(LONGEST_RETRY_DELAY_S, delay_s)
    return min(pause_s, longest_s) * _random.uniform(1 - RETRY_SPREAD, 1 + RETRY_SPREAD)


def refuse_over(job: Job) -> None:
    """Refuse to cancel what is over.

    Raises:
        ConflictError: it has ended, also if that is only a guess: nobody could be asked to end it.
    """
    if job.state in TERMINAL_STATES:
        raise ConflictError(f"Job {job.id} is over: it is {job.state}. There is nothing to cancel.")


def _require(source: Source | None, kind: ScheduleKind) -> Source:
    if source is None:
        raise InvalidError.of("source", f"name the source to {kind}")
    return source


def _build_backup(request: BackupRequest, source: Source | None) -> BackupArguments:
    if source is None:
        _check_backup_paths(request)
        return BackupArguments(
            paths=_unique(request.paths),
            excludes=_unique(request.excludes),
            tags=_unique(request.tags),
            one_file_system=request.one_file_system,
        )
    if request.paths:
        raise InvalidError.of("paths", "leave out the paths, or the source: a backup takes one")
    base = build_source_backup(source)
    return BackupArguments(
        paths=base.paths,
        excludes=_unique([*base.excludes, *request.excludes]),
        tags=_unique([*base.tags, *request.tags]),
        one_file_system=base.one_file_system or request.one_file_system,
    )


def _check_backup_paths(request: BackupRequest) -> None:
    if not request.paths:
        raise InvalidError.of("paths", "name the paths to back up, or a source")
    if len(request.paths) > MAX_PATHS:
        raise InvalidError.of("paths", f"name at most {MAX_PATHS} paths")
    check_paths(request.paths)


def _build_restore(request: RestoreRequest) -> RestoreArguments:
    check_restore_target(request.target)
    return RestoreArguments(
        snapshot=request.snapshot,
        target=request.target,
        include=_unique(request.include),
        verify=request.verify,
    )


def check_restore_target(target: str) -> None:
    """Refuse a target that is not a folder of its own.

    Raises:
        InvalidError: the path is not normal, or is the root of the file system.
    """
    normal = posixpath.normpath(target)
    if normal in {"/", "//"}:
        raise InvalidError.of(
            "target", "must be a new or empty folder, not /; restore there and move the files"
        )
    if normal != target:
        raise InvalidError.of("target", f"write {normal} instead")


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
