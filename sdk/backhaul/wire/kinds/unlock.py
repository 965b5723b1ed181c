"""`unlock`: remove locks that dead processes have left in the repository."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire


class UnlockArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="unlock"):
    """Remove locks that dead processes have left in the repository."""

    remove_all: bool = False
    """Also those that may be of living ones: only when nothing else uses the repository."""


class UnlockRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="unlock"):
    """Remove locks that dead processes have left in the repository."""

    host: str
    repository: str
    remove_all: bool = False
    """Also those that may be of living ones: only when nothing else uses the repository."""


class UnlockResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="unlock"):
    """How many locks are left. restic removes those that are older than 30 minutes, and those of
    this host whose process is gone."""

    locks_left: int
