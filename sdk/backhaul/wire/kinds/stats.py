"""`stats`: measure the repository."""

from __future__ import annotations

from typing import Annotated

import msgspec

from backhaul.wire.base import Request, Wire

Amount = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Of bytes or things; as many as a database can store and add up."""


class StatsArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="stats"):
    """Measure the repository. Takes nothing."""


class StatsRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="stats"):
    """Measure the repository."""

    host: str
    repository: str


class StatsResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="stats"):
    """How large a repository is. Sizes in bytes."""

    total_size: Amount
    """What all its snapshots take in the storage, by `restic stats --mode raw-data`: data that only
    a `prune` would delete is not in it."""
    snapshots_count: Amount
    blobs_count: Amount = 0
    uncompressed_size: Amount | None = None
    """Of the same data; restic tells it since 0.15."""
    restore_size: Amount | None = None
    """What a restore of the newest snapshot of the host that measured would write; None when it has
    none there."""
    restore_files: Amount | None = None
    """How many files that are."""
