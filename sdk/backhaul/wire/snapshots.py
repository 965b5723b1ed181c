"""Snapshots, as restic lists them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec

from backhaul.wire.base import Instant, Wire


class ReportedSnapshot(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot as `restic snapshots --json` shows it (restic 0.14 and later)."""

    id: str
    """64 hex digits."""
    time: Instant
    """When the backup began, by the clock of the host that made it; in UTC."""
    hostname: str
    paths: tuple[str, ...]
    username: str = ""
    tags: tuple[str, ...] = ()
    tree: str = ""
    parent: str | None = None
    original: str | None = None
    """The id that the snapshot had before `restic tag` or `restic rewrite` changed it, or has where
    `restic copy` copied it from."""
    program_version: str | None = None
    """restic >= 0.16 names itself here."""


class Snapshot(Wire, frozen=True, kw_only=True):
    """A snapshot that a repository was last seen to hold."""

    id: str
    short_id: str
    repository_id: UUID
    repository: str
    time: Instant
    hostname: str
    paths: tuple[str, ...]
    username: str
    tags: tuple[str, ...]
    tree: str
    parent: str | None
    original: str | None
    program_version: str | None
    host_id: UUID | None
    """The host whose job made it; None for a snapshot that Backhaul did not make."""
    job_id: UUID | None
    reported_at: Instant
    doubt: str | None = None
    """Why a forget would set it aside (a `backhaul.wire.honesty.Doubt`); None when it is honest."""


class FileEntry(Wire, frozen=True, kw_only=True):
    """A file, a folder or something else in a snapshot, as it was when the snapshot was made."""

    path: str
    """Absolute. What is not UTF-8 in it comes as U+FFFD, and names nothing then."""
    name: str
    type: str
    """`file`, `dir`, `symlink`, or what else restic calls it (`fifo`, `socket`, `dev`, …)."""
    size: int | None = None
    """In bytes; only files have one."""
    mode: int | None = None
    """Permission bits with setuid, setgid and sticky, as chmod takes them: 0o755 is 493."""
    mtime: Instant | None = None
    uid: int | None = None
    gid: int | None = None
    user: str = ""
    """As the host called the owner; restic tells it when searching, not when listing."""
    group: str = ""
    link_target: str | None = None
    """Where a symbolic link leads; told as `user` is."""


class FileList(Wire, frozen=True, kw_only=True):
    """What a snapshot holds, as far as it fits into one answer, in restic's own order."""

    snapshot_id: str
    host: str
    """The name of the host that looked."""
    entries: tuple[FileEntry, ...]
    next_cursor: str | None = None
    """Ask for what follows with this; None at the end."""

    @property
    def is_cut(self) -> bool:
        """Whether there is more than these entries."""
        return self.next_cursor is not None


Skip = Annotated[int, msgspec.Meta(ge=0)]
EntryLimit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class ListFiles(Wire, frozen=True, kw_only=True, tag_field="kind", tag="snapshot.ls"):
    """List a folder of a snapshot. Answered with `FoundFiles`."""

    snapshot: str
    """A whole id."""
    path: str
    """Absolute. What is no folder is listed itself."""
    is_recursive: bool = False
    skip: Skip = 0
    """So many entries were given before: a snapshot never changes, nor restic's order."""
    limit: EntryLimit = 1000


class FindFiles(Wire, frozen=True, kw_only=True, tag_field="kind", tag="snapshot.find"):
    """Search a snapshot. Answered with `FoundFiles`."""

    snapshot: str
    pattern: str
    """As `restic find` takes it: for names, or with a `/` in it, for paths."""
    skip: Skip = 0
    limit: EntryLimit = 1000


QueryArguments = ListFiles | FindFiles


class FoundFiles(Wire, frozen=True, kw_only=True):
    """The answer of an agent that looked into a snapshot. Whether there is more stands beside."""

    entries: tuple[FileEntry, ...]


class SnapshotsReport(Wire, frozen=True, kw_only=True, tag_field="type", tag="snapshots.report"):
    """What restic says is in a repository. Natural key: (repository, snapshot)."""

    repository_id: UUID
    job_id: UUID
    """The job that looked, on this repository or as a copy to it. The report is refused unless that
    job is this host's."""
    snapshots: tuple[ReportedSnapshot, ...]
    is_complete: bool = False
    """The reports of this job up to this one name every snapshot of the repository: what was last
    reported before the job was accepted, and is not among them, is gone."""
