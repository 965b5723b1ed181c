"""From the options of `backhaul jobs run` to the request of one kind of job."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from backhaul.cli.failures import BadInputError
from backhaul.wire.jobs import (
    BackupRequest,
    CheckRequest,
    ForgetRequest,
    InitRequest,
    JobKind,
    JobRequest,
    PruneRequest,
    RestoreRequest,
    SnapshotsRequest,
    UnlockRequest,
)

if TYPE_CHECKING:
    from backhaul.client import Client


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What was given, whatever the kind; the names are those of the options."""

    source: str | None = None
    path: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    one_file_system: bool = False
    snapshot: str | None = None
    target: str | None = None
    include: tuple[str, ...] = ()
    verify: bool = False
    read_data: str | None = None
    remove_all: bool = False


_OPTIONS_OF = {
    JobKind.INIT: frozenset[str](),
    JobKind.SNAPSHOTS: frozenset[str](),
    JobKind.BACKUP: frozenset({"source", "path", "exclude", "tag", "one_file_system"}),
    JobKind.RESTORE: frozenset({"snapshot", "target", "include", "verify"}),
    JobKind.FORGET: frozenset({"source"}),
    JobKind.PRUNE: frozenset[str](),
    JobKind.CHECK: frozenset({"read_data"}),
    JobKind.UNLOCK: frozenset({"remove_all"}),
}


def build_request(host: str, kind: JobKind, repository: str, options: JobOptions) -> JobRequest:
    """Build the request.

    Raises:
        BadInputError: an option does not go with the kind, or one is missing.
    """
    _refuse_others(kind, options)
    match kind:
        case JobKind.INIT:
            return InitRequest(host=host, repository=repository)
        case JobKind.SNAPSHOTS:
            return SnapshotsRequest(host=host, repository=repository)
        case JobKind.BACKUP:
            return _build_backup(host, repository, options)
        case JobKind.RESTORE:
            return _build_restore(host, repository, options)
        case JobKind.FORGET:
            return _build_forget(host, repository, options)
        case JobKind.PRUNE:
            return PruneRequest(host=host, repository=repository)
        case JobKind.CHECK:
            return CheckRequest(
                host=host, repository=repository, read_data_subset=options.read_data
            )
        case JobKind.UNLOCK:
            return UnlockRequest(host=host, repository=repository, remove_all=options.remove_all)


def choose_repository(client: Client, name: str | None) -> str:
    """Give the repository that is named, or the only one that there is.

    Raises:
        BadInputError: none is named, and there is none or more than one.
    """
    if name is not None:
        return name
    names = [repository.name for repository in client.list_repositories(limit=10)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise BadInputError("There is no repository yet: `backhaul repositories create` first.")
    raise BadInputError(f"Which repository? Give --repository, like {', '.join(names)}.")


def _refuse_others(kind: JobKind, options: JobOptions) -> None:
    given = {name for name, value in dataclasses.asdict(options).items() if value}
    others = sorted(given - _OPTIONS_OF[kind])
    if others:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise BadInputError(f"{flags} does not go with a job of the kind {kind}.")


def _build_backup(host: str, repository: str, options: JobOptions) -> BackupRequest:
    if not options.source and not options.path:
        raise BadInputError("What is to be backed up? Give --source, or --path once or more.")
    return BackupRequest(
        host=host,
        repository=repository,
        source=options.source,
        paths=options.path,
        excludes=options.exclude,
        tags=options.tag,
        one_file_system=options.one_file_system,
    )


def _build_forget(host: str, repository: str, options: JobOptions) -> ForgetRequest:
    if not options.source:
        raise BadInputError("What is to be forgotten? Give --source: its retention decides.")
    return ForgetRequest(host=host, repository=repository, source=options.source)


def _build_restore(host: str, repository: str, options: JobOptions) -> RestoreRequest:
    if not options.snapshot or not options.target:
        raise BadInputError(
            "A restore needs --snapshot (an id, or latest) and --target (a new or empty folder)."
        )
    return RestoreRequest(
        host=host,
        repository=repository,
        snapshot=options.snapshot,
        target=options.target,
        include=options.include,
        verify=options.verify,
    )
