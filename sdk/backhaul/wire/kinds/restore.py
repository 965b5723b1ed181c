"""`restore`: bring files of a snapshot back."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire
from backhaul.wire.kinds.base import AbsolutePath, Pattern, SnapshotId


class RestoreArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="restore"):
    """Restore a snapshot into a folder that is empty or does not exist yet."""

    snapshot: str
    target: str
    include: tuple[str, ...] = ()
    verify: bool = False


class RestoreRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="restore"):
    """Restore a snapshot into a new folder of the host."""

    host: str
    repository: str
    snapshot: SnapshotId
    target: AbsolutePath
    include: tuple[Pattern, ...] = ()
    verify: bool = False


class RestoreResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="restore"):
    """What lies in the target after a restore, counted there by the agent."""

    snapshot_id: str
    target: str
    files_restored: int = 0
    bytes_restored: int = 0
