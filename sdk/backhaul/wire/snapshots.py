"""Snapshots, as restic lists them."""

from __future__ import annotations

from uuid import UUID

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
    """The id that the snapshot had before `restic tag` or `restic rewrite` changed it."""
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


class SnapshotsReport(Wire, frozen=True, kw_only=True, tag_field="type", tag="snapshots.report"):
    """What restic says is in a repository. Natural key: (repository, snapshot)."""

    repository_id: UUID
    job_id: UUID
    """The job that looked. The report is refused unless that job is this host's."""
    snapshots: tuple[ReportedSnapshot, ...]
    is_complete: bool = False
    """The reports of this job up to this one name every snapshot of the repository: what was last
    reported before the job was accepted, and is not among them, is gone."""


class RepositoryStats(Wire, frozen=True, kw_only=True, tag_field="type", tag="repo.stats"):
    """How large a repository is, by `restic stats`. Sizes in bytes."""

    repository_id: UUID
    job_id: UUID
    measured_at: Instant
    total_size: int
    total_file_count: int = 0
    snapshots_count: int | None = None
