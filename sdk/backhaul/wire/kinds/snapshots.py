"""`snapshots`: read the list of snapshots from the repository."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire


class SnapshotsArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="snapshots"):
    """List every snapshot of the repository and report the list. Takes nothing."""


class SnapshotsRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="snapshots"):
    """Read the list of snapshots from the repository."""

    host: str
    repository: str


class SnapshotsResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="snapshots"):
    """How many snapshots the repository holds; the list itself is in the snapshots collection."""

    snapshots_count: int
