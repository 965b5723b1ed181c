"""`diff`: tell what differs between two snapshots of a repository."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire
from backhaul.wire.kinds.base import ExactSnapshotId


class DiffArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="diff"):
    """Compare two snapshots."""

    snapshot: str
    other: str


class DiffRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="diff"):
    """Tell what has changed from one snapshot to another."""

    host: str
    repository: str
    snapshot: ExactSnapshotId
    """The first."""
    other: ExactSnapshotId
    """The second: what is only in this one was added."""


class DiffChange(Wire, frozen=True, kw_only=True):
    """One path that differs."""

    path: str
    """A folder ends in a slash."""
    modifier: str
    """restic's: `+` added, `-` removed, `M` content, `T` type, `?` content with the same hash."""


class DiffCounts(Wire, frozen=True, kw_only=True):
    """restic's statistics of what was added, or removed."""

    files: int = 0
    dirs: int = 0
    others: int = 0
    data_blobs: int = 0
    tree_blobs: int = 0
    bytes: int = 0


class DiffResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="diff"):
    """What differs, in restic's own words."""

    source_snapshot: str
    target_snapshot: str
    changed_files: int = 0
    added: DiffCounts = DiffCounts()
    removed: DiffCounts = DiffCounts()
    changes: tuple[DiffChange, ...] = ()
    """The first 1000, and fewer when their paths are long."""
    is_cut: bool = False
    """There are more changes than these."""
