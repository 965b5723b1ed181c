"""`prune`: delete the data that no snapshot refers to."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire


class PruneArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="prune"):
    """Delete the data that no snapshot refers to. Takes nothing."""


class PruneRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="prune"):
    """Delete the data that no snapshot refers to."""

    host: str
    repository: str


class PruneResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="prune"):
    """A prune that went through. restic 0.14 tells its figures in text, which is in the log."""
