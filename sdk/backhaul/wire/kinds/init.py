"""`init`: create the repository."""

from __future__ import annotations

from uuid import UUID

from backhaul.wire.base import Name, Request, Wire


class InitArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="init"):
    """Create the repository."""

    chunker_of_id: UUID | None = None
    """The repository whose chunker parameters it takes; `command.run` carries its credentials."""
    chunker_of: Name | None = None
    """The name that this one had when the job was made."""


class InitRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="init"):
    """Create the repository. Refused for a repository that was initialised before."""

    host: str
    repository: str
    chunker_of: str | None = None
    """Name or id of a repository whose snapshots are to be copied here, or whose files are backed
    up here too: both cut files at the same places then, and what they share is stored once."""


class InitResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="init"):
    """The repository that was created."""

    repository_id: str
    """restic's own id of the repository: 64 hex digits, or the first 10 with restic 0.14."""
