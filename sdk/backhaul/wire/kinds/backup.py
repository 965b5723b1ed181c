"""`backup`: back paths up into one snapshot."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire
from backhaul.wire.kinds.base import AbsolutePath, Pattern, Tag


class BackupArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="backup"):
    """Back paths up into one snapshot."""

    paths: tuple[str, ...]
    excludes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    one_file_system: bool = False


class BackupRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="backup"):
    """Back up either a source or a list of paths."""

    host: str
    repository: str
    source: str | None = None
    """The name or id of a source; its name becomes a tag."""
    paths: tuple[AbsolutePath, ...] = ()
    excludes: tuple[Pattern, ...] = ()
    tags: tuple[Tag, ...] = ()
    one_file_system: bool = False


class BackupResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="backup"):
    """restic's summary of a backup, in restic's own words. Sizes in bytes, times in seconds."""

    snapshot_id: str | None = None
    """8 hex digits with restic 0.14, 64 since 0.15."""
    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    data_blobs: int = 0
    tree_blobs: int = 0
    data_added: int = 0
    total_files_processed: int = 0
    total_bytes_processed: int = 0
    total_duration: float = 0.0
    unreadable: int = 0
    """How many items restic could not read; more than zero makes the job incomplete."""
