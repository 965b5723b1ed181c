"""`init`: create the repository."""

from __future__ import annotations

from backhaul.wire.base import Request, Wire


class InitArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="init"):
    """Create the repository. Takes nothing."""


class InitRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="init"):
    """Create the repository. Refused for a repository that was initialised before."""

    host: str
    repository: str


class InitResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="init"):
    """The repository that was created."""

    repository_id: str
    """restic's own id of the repository: 64 hex digits, or the first 10 with restic 0.14."""
