"""`copy`: copy snapshots to a second repository."""

from __future__ import annotations

from uuid import UUID

from backhaul.wire.base import Name, Request, Wire
from backhaul.wire.kinds.base import SnapshotId, Tag


class CopyArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="copy"):
    """Copy snapshots to a second repository, which `command.run` carries the credentials of."""

    destination_id: UUID
    snapshots: tuple[str, ...] = ()
    """Without any: those that the tags and the host leave."""
    tags: tuple[str, ...] = ()
    """Snapshots that have all of these."""
    of_host: str | None = None
    """Snapshots of this host; without it of all."""


class CopyRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="copy"):
    """Copy snapshots to a second repository. What is there already is not copied again."""

    host: str
    repository: str
    """To copy from: name or id."""
    destination: str
    """To copy to: name or id."""
    snapshots: tuple[SnapshotId, ...] = ()
    """Just these. Without any: all that the source, the tags and `of_host` leave."""
    source: str | None = None
    """Only its snapshots: name or id."""
    tags: tuple[Tag, ...] = ()
    """Only snapshots that have all of these."""
    of_host: Name | None = None
    """Only snapshots of this host, whichever host copies them."""


class CopyResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="copy"):
    """How many snapshots were copied, and how many were there already."""

    copied: int
    skipped: int


class CopyOptions(Request, frozen=True, kw_only=True, tag_field="kind", tag="copy"):
    """What a schedule copies, and where to. A source of the schedule leaves only its snapshots."""

    destination: str
    """Name or id of a repository; kept as its id."""
    tags: tuple[Tag, ...] = ()
    of_host: Name | None = None
