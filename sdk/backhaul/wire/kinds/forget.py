"""`forget`: remove the snapshots that no keep rule keeps. Their data stays until a `prune`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from backhaul.wire.base import Instant, Request, Wire
from backhaul.wire.honesty import Origin

KeepCount = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
"""More is a slip of the finger: an hour each, it is more than a year."""


KeepWithin = Annotated[
    str, msgspec.Meta(pattern=r"^(\d{1,6}[ymdh])+$(?!\n)", examples=["7d", "1y5m"])
]


class Retention(Request, frozen=True, kw_only=True, omit_defaults=True):
    """restic's keep rules: how many, and within a duration like `7d`, `1y5m`."""

    keep_last: KeepCount | None = None
    keep_hourly: KeepCount | None = None
    keep_daily: KeepCount | None = None
    keep_weekly: KeepCount | None = None
    keep_monthly: KeepCount | None = None
    keep_yearly: KeepCount | None = None
    keep_within: KeepWithin | None = None


class ForgetGuard(Wire, frozen=True, kw_only=True):
    """What keeps a forget from those who write snapshots that no job made.

    The server adds it when it hands the command out, and puts the rules in here: an agent that does
    not know it finds no rules, and refuses the job instead of doing it unguarded.
    """

    keep: Retention
    at: Instant
    """The server's time: what is later by more than the tolerance is in the future."""
    origins: tuple[Origin, ...]
    """Of the snapshots with the tag. What is not among them is set aside."""


class ForgetArguments(
    Wire, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="forget"
):
    """Remove the snapshots of one tag that no keep rule keeps. Their data stays until a prune.

    Snapshots are grouped by host, so that each host of the repository keeps its own.
    """

    tag: str
    """The name of the source; snapshots without it are never touched."""
    keep: Retention = Retention()
    """At least one rule, here or in the guard; an agent refuses an empty set, for restic would
    remove everything."""
    dry_run: bool = False
    """Only tell what would go."""
    guard: ForgetGuard | None = None

    @property
    def rules(self) -> Retention:
        """The keep rules, wherever they are."""
        return self.keep if self.guard is None else self.guard.keep


class ForgetRequest(
    Request, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="forget"
):
    """Remove the snapshots of a source that its retention does not keep."""

    host: str
    repository: str
    source: str
    """Name or id; it must have a retention with at least one keep rule."""
    dry_run: bool = False
    """Only tell what would go."""


class SnapshotToGo(Wire, frozen=True, kw_only=True):
    """A snapshot that a forget would remove."""

    id: str
    """The first 8 digits."""
    time: Instant | None
    hostname: str


class SnapshotSetAside(Wire, frozen=True, kw_only=True):
    """A snapshot that is neither counted nor removed."""

    id: str
    """The first 8 digits."""
    time: Instant | None
    """As the snapshot says; None when it cannot be read."""
    hostname: str
    reason: str
    """A `backhaul.wire.honesty.Doubt`, or one that is newer than the reader."""


class ForgetResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="forget"):
    """What a forget left and what it removed, or would remove."""

    kept: int
    """Without those that were set aside."""
    removed: int
    """0 in a dry run."""
    removed_snapshots: tuple[str, ...] = ()
    """The ids, 8 digits each; the first 1000."""
    dry_run: bool = False
    to_go: int = 0
    """How many would be removed, in a dry run."""
    snapshots_to_go: tuple[SnapshotToGo, ...] = ()
    """The first 1000."""
    set_aside: int = 0
    snapshots_set_aside: tuple[SnapshotSetAside, ...] = ()
    """The first 100."""
