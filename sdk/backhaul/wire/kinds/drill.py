"""`drill`: restore a random sample of a snapshot, read it a second time, and compare."""

from __future__ import annotations

from typing import Annotated

import msgspec

from backhaul.wire.base import Instant, Request, Seconds, Wire
from backhaul.wire.kinds.base import SnapshotId

DEFAULT_FILES = 20
DEFAULT_MAX_BYTES = 2**30

DrillFiles = Annotated[int, msgspec.Meta(ge=1, le=1000)]
"""Each is read by a restic of its own."""

DrillBytes = Annotated[int, msgspec.Meta(ge=1, le=2**50)]


class DrillArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="drill"):
    """Restore a random sample of a snapshot's files to a scratch folder, and compare."""

    snapshot: str = "latest"
    of_host: str | None = None
    """With `latest`: whose snapshot is meant, by the name under which restic files it. None for
    the host that drills, or for any when it has none."""
    files: int = DEFAULT_FILES
    max_bytes: int = DEFAULT_MAX_BYTES


class DrillRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="drill"):
    """Prove that files of a snapshot can be restored, by a random sample of them."""

    host: str
    repository: str
    snapshot: SnapshotId = "latest"
    of_host: str | None = None
    """With `latest`: the name or id of the host whose newest snapshot is meant; without it the
    host that drills, or any when it has none."""
    files: DrillFiles = DEFAULT_FILES
    """How many are drawn, each as likely as any other."""
    max_bytes: DrillBytes = DEFAULT_MAX_BYTES
    """Of all files together. One that is larger than what is left of it is skipped."""


class DrillResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="drill"):
    """The evidence of a drill. With files that differ or are unreadable the job has failed, class
    `damaged`."""

    snapshot_id: str
    snapshot_time: Instant
    hostname: str
    """Of the host that made the snapshot."""
    files_total: int
    """Regular files in the snapshot: what the sample was drawn from."""
    files_compared: int = 0
    """Read twice, to the end."""
    bytes_compared: int = 0
    files_differing: int = 0
    files_unreadable: int = 0
    differing: tuple[str, ...] = ()
    """The first 100 paths."""
    unreadable: tuple[str, ...] = ()
    """The first 100 paths."""
    skipped_too_large: int = 0
    """Drawn, but larger than what was left of `max_bytes`."""
    skipped_unnameable: int = 0
    """Never drawn: restic does not tell their names in full, which are not UTF-8."""
    duration: Seconds = 0.0


class DrillOptions(Request, frozen=True, kw_only=True, tag_field="kind", tag="drill"):
    """How a schedule drills."""

    of_host: str | None = None
    """Name or id of the host whose newest snapshot is sampled, kept as its id; without it the host
    that drills, or any when it has none."""
    files: DrillFiles = DEFAULT_FILES
    max_bytes: DrillBytes = DEFAULT_MAX_BYTES
