"""Operators: signing in, and the tokens that they make."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from backhaul.wire.base import Instant, Labels, Name, Request, Wire

Username = Annotated[
    str, msgspec.Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$(?!\n)")
]
NewPassword = Annotated[str, msgspec.Meta(min_length=12, max_length=1024)]


class BootstrapRequest(Request, frozen=True, kw_only=True):
    """Create the first operator, with the setup token that `backhaul serve` printed."""

    setup_token: str
    username: Username
    password: NewPassword

    def __repr__(self) -> str:
        return f"BootstrapRequest(username={self.username!r}, …)"


class LoginRequest(Request, frozen=True, kw_only=True):
    """Sign in."""

    username: str
    password: Annotated[str, msgspec.Meta(max_length=1024)]

    def __repr__(self) -> str:
        return f"LoginRequest(username={self.username!r}, …)"


class User(Wire, frozen=True, kw_only=True):
    """An operator."""

    id: UUID
    username: str
    created_at: Instant
    last_login_at: Instant | None = None
    disabled_at: Instant | None = None
    """Since when the operator is shut out."""


class CreateUser(Request, frozen=True, kw_only=True):
    """Create an operator."""

    username: Username
    password: NewPassword

    def __repr__(self) -> str:
        return f"CreateUser(username={self.username!r}, …)"


class UpdateUser(Request, frozen=True, kw_only=True):
    """Give an operator a new password, or shut one out. What is left out stays."""

    password: NewPassword | UnsetType = UNSET
    keep_tokens: bool = False
    """With a new password: the operator's API tokens go on to serve."""
    disabled: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"UpdateUser(disabled={self.disabled}, …)"


class NewSession(Wire, frozen=True, kw_only=True):
    """A session and its token, shown this once."""

    token: str
    expires_at: Instant
    user: User

    def __repr__(self) -> str:
        return f"NewSession(user={self.user.username!r}, expires_at={self.expires_at}, …)"


class Me(Wire, frozen=True, kw_only=True):
    """Who is asking."""

    user: User
    authenticated_by: Literal["session", "api_token"]
    expires_at: Instant | None
    """When the session or token ends; None for an API token without an end."""


class CreateApiToken(Request, frozen=True, kw_only=True):
    """Make a token for scripts."""

    name: Name
    expires_in: Annotated[float, msgspec.Meta(ge=1, le=3660 * 86400)] | None = None
    """Seconds. Without it the token lasts until it is revoked."""


class ApiToken(Wire, frozen=True, kw_only=True):
    """A token for scripts, without its secret."""

    id: UUID
    name: Name
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None


class NewApiToken(Wire, frozen=True, kw_only=True):
    """A new token for scripts, with its secret, shown this once."""

    token: str
    api_token: ApiToken

    def __repr__(self) -> str:
        return f"NewApiToken(name={self.api_token.name!r}, …)"


class CreateEnrollmentToken(Request, frozen=True, kw_only=True):
    """Make a token with which hosts can join."""

    expires_in: Annotated[float, msgspec.Meta(ge=1, le=30 * 86400)] = 3600.0
    """Seconds."""
    uses: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    host_name: Name | None = None
    """The name that the host will have; only with a single use."""
    labels: Labels = {}
    """Given to each host that joins with it."""


class EnrollmentToken(Wire, frozen=True, kw_only=True):
    """A token with which hosts can join, without its secret."""

    id: UUID
    created_at: Instant
    expires_at: Instant
    uses_left: int
    host_name: Name | None
    labels: Labels


class NewEnrollmentToken(Wire, frozen=True, kw_only=True):
    """A new enrollment token, with its secret, shown this once."""

    token: str
    enrollment_token: EnrollmentToken

    def __repr__(self) -> str:
        return f"NewEnrollmentToken(id={self.enrollment_token.id}, …)"


class AuditEntry(Wire, frozen=True, kw_only=True):
    """Something that somebody changed."""

    id: UUID
    at: Instant
    actor_kind: str
    actor_id: UUID | None
    actor: str | None
    """The actor's name at the time."""
    action: str
    """Like `repository.create`."""
    target_kind: str | None
    target_id: UUID | None
    target: str | None
    """The target's name at the time."""
