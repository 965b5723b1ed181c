"""`backup`: back paths up into one snapshot, or what a dump command of the host prints."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from backhaul.wire.base import Name, Request, Wire
from backhaul.wire.kinds.base import AbsolutePath, Pattern, Tag

KibPerSecond = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
"""restic's unit: 1024 bytes a second."""

FileSize = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[1-9]\d{0,11}[kKmMgGtT]?$(?!\n)",
        examples=["100M"],
        description="Bytes, or with k, M, G or T.",
    ),
]

Compression = Literal["auto", "off", "max"]

Niceness = Annotated[int, msgspec.Meta(ge=0, le=19)]
"""0 is as important as everything else on the host, 19 the least."""

IoClass = Literal["best-effort", "idle"]
"""`idle`: only while nobody else uses the disk. `best-effort`: in the usual class, behind all."""


class BackupArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="backup"):
    """Back paths up into one snapshot, or a dump."""

    paths: tuple[str, ...]
    """Empty where `dump` is set."""
    excludes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    one_file_system: bool = False
    exclude_files: tuple[str, ...] = ()
    """Files of the host with a pattern in each line."""
    exclude_caches: bool = False
    """Leave out folders that hold a CACHEDIR.TAG."""
    exclude_larger_than: str | None = None
    limit_upload: int | None = None
    """In KiB a second, like `limit_download`."""
    limit_download: int | None = None
    compression: Compression | None = None
    nice: int | None = None
    ionice: IoClass | None = None
    dump: str | None = None
    """The name of a command in the settings file of the agent; what it prints is the backup. No
    command line is ever sent."""
    dry_run: bool = False
    """Tell what a backup would do, and make no snapshot."""


class BackupRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="backup"):
    """Back up a source, a list of paths, or a dump.

    What is named besides a source is added to its lists, and stands in the place of its figures.
    """

    host: str
    repository: str
    source: str | None = None
    """The name or id of a source; its name becomes a tag."""
    paths: tuple[AbsolutePath, ...] = ()
    excludes: tuple[Pattern, ...] = ()
    tags: tuple[Tag, ...] = ()
    one_file_system: bool = False
    exclude_files: tuple[AbsolutePath, ...] = ()
    """Files of the host with a pattern in each line."""
    exclude_caches: bool = False
    """Leave out folders that hold a CACHEDIR.TAG."""
    exclude_larger_than: FileSize | None = None
    limit_upload: KibPerSecond | None = None
    """In KiB a second, like `limit_download`."""
    limit_download: KibPerSecond | None = None
    compression: Compression | None = None
    """Only in a repository of format 2; without it restic decides (`auto`)."""
    nice: Niceness | None = None
    ionice: IoClass | None = None
    dump: Name | None = None
    """The name of a dump command that the host's agent has in its settings file."""
    dry_run: bool = False
    """Tell what a backup would do, and make no snapshot."""


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
    dry_run: bool = False
    """What a backup would have done; there is no snapshot."""
