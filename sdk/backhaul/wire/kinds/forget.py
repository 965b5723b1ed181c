"""`forget`: remove the snapshots that no keep rule keeps. Their data stays until a `prune`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from backhaul.wire.base import Request, Wire

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


class ForgetArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="forget"):
    """Remove the snapshots of one tag that no keep rule keeps. Their data stays until a prune.

    Snapshots are grouped by host, so that each host of the repository keeps its own.
    """

    tag: str
    """The name of the source; snapshots without it are never touched."""
    keep: Retention
    """At least one rule; an agent refuses an empty set, for restic would remove everything."""


class ForgetRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="forget"):
    """Remove the snapshots of a source that its retention does not keep."""

    host: str
    repository: str
    source: str
    """Name or id; it must have a retention with at least one keep rule."""


class ForgetResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="forget"):
    """What a forget left and what it removed."""

    kept: int
    removed: int
    removed_snapshots: tuple[str, ...] = ()
    """The ids, 8 digits each; the first 1000."""
