"""Who acts: an operator, a host's agent, or the system itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from backhaul.wire.jobs import ActorKind


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever makes a change: an operator who is signed in, or another cause."""

    kind: ActorKind
    id: UUID | None
    name: str
    authenticated_by: Literal["session", "api_token"] | None = None
    token_id: UUID | None = None
    """The session's or the API token's row."""
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    """Of an API token, as far as it was written down."""


SYSTEM = Actor(kind=ActorKind.SYSTEM, id=None, name="system")


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The host whose agent is asking."""

    host_id: UUID
    name: str
    is_removed: bool
    token_hash: bytes
    """Of the token that it came with."""
