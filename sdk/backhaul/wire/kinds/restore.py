"""`restore`: bring files of a snapshot back, into a new folder or to where they were."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire
from backhaul.wire.kinds.base import AbsolutePath, Pattern, SnapshotId


class RestoreArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="restore"):
    """Restore a snapshot into a folder that is empty or does not exist yet, or in place."""

    snapshot: str
    """An id; or `latest`, when the server knows of no snapshot that a job of the host made."""
    target: str
    """`/` in place."""
    include: tuple[str, ...] = ()
    """Patterns of restic; in place absolute paths, each with all that is below."""
    exclude: tuple[str, ...] = ()
    """Never beside `include`: restic takes one of them."""
    verify: bool = False
    in_place: bool = False
    of_host: str | None = None
    """With `latest`: whose snapshot is meant, by the name under which restic files it; None for
    the host that restores."""
    tag: str | None = None
    """With `latest`: only among the snapshots with this tag, which is a source's name."""


class RestoreRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="restore"):
    """Restore a snapshot into a new folder of the host, or in place."""

    host: str
    repository: str
    snapshot: SnapshotId
    target: AbsolutePath | None = None
    """A new or empty folder; left out in place."""
    include: tuple[Pattern, ...] = ()
    """Only what matches. In place each is an absolute path, and there is at least one."""
    exclude: tuple[Pattern, ...] = ()
    """All but what matches; not beside `include`, of which restic takes one."""
    verify: bool = False
    """Read everything again afterwards, and compare."""
    of_host: str | None = None
    """With `latest`: the name or id of the host whose newest snapshot is meant, which may have
    been removed; without it the host that restores."""
    source: str | None = None
    """With `latest`: the name or id of the source whose newest snapshot is meant."""
    in_place: bool = False
    """Put the files back to where they were, over what is there. The host's policy must allow it.
    """
    confirm_host: str | None = None
    """With `in_place`: the name of the host, once more."""


class RestoreResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="restore"):
    """What lies in the target after a restore, counted there by the agent; in place, what the
    snapshot holds of the included paths."""

    snapshot_id: str
    target: str
    files_restored: int = 0
    bytes_restored: int = 0
