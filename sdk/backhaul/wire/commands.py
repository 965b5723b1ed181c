"""Commands: what the server asks of an agent, and the agent's word that it takes them up.

{"type": "command.run", "job_id": "0193…", "attempt": 1, "kind": "backup",
 "arguments": {"kind": "backup", "paths": ["/etc"]}, "repository_id": "0193…",
 "credentials": "<sealed box, base64>"}
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from uuid import UUID

import msgspec

from backhaul.wire.base import Instant, Seconds, Wire


class Credentials(Wire, frozen=True, kw_only=True):
    """What opens a repository. Only ever on the way as a sealed box, only ever in memory open.

    Sealed form: libsodium's anonymous sealed box (X25519, XSalsa20-Poly1305) over this struct's
    JSON, to the key that the host made at enrolment.
    """

    repository_id: UUID
    """Must equal the command's: a box moved to another command does not serve there."""
    location: str
    """Where the repository is, as restic's RESTIC_REPOSITORY has it."""
    password: str
    environment: dict[str, str] = {}
    new_password: str | None = None
    """Only with a `passwd`: what opens the repository in the end."""
    old_password: str | None = None
    """Only with the `passwd` that removes it."""

    def __repr__(self) -> str:
        return f"Credentials(repository_id={self.repository_id}, …)"


class CommandRun(Wire, frozen=True, kw_only=True, tag_field="type", tag="command.run"):
    """Run a job. Due while the job is queued and not among those that the agent says it holds."""

    job_id: UUID
    attempt: int
    kind: str
    arguments: msgspec.Raw
    """One of `backhaul.wire.kinds.Arguments`; raw, so that an agent can refuse a kind that it does
    not know instead of failing to read the command."""
    repository_id: UUID | None = None
    credentials: bytes | None = None
    second_repository_id: UUID | None = None
    """Of a copy, its destination; of an init, whose chunker parameters the new one takes: jobs that
    need two repositories."""
    second_credentials: bytes | None = None
    """Sealed like the others, and bound to the second repository as they are to the first."""
    start_deadline_at: Instant | None = None
    max_duration: Seconds | None = None
    priority: int = 0
    """Of the jobs that wait on the host, those with the highest go first: see `JobPriority`."""


class JobPriority(IntEnum):
    """Who goes first; within one, the order in which the jobs came."""

    SCHEDULED = 0
    OPERATOR = 1
    """Somebody waits for it."""
    RESTORE = 2
    """Somebody waits for the data."""


class CommandAck(Wire, frozen=True, kw_only=True, tag_field="type", tag="command.ack"):
    """The agent takes a job up, or its policy refuses it. Natural key: the job.

    An acceptance is a claim: the agent starts only after the receipt, so that a job which was
    cancelled or has expired meanwhile never starts. A claim that is refused with the problem
    `job-waits` is given back: the agent forgets the job, and is sent it again when its turn comes.
    """

    job_id: UUID
    attempt: int = 1
    is_accepted: bool
    reason: str | None = None
    """Why not."""


class CommandCancel(Wire, frozen=True, kw_only=True, tag_field="type", tag="command.cancel"):
    """End a job that the agent holds. Due until the agent reports the job's end."""

    job_id: UUID


class QueryFailure(StrEnum):
    """Why a query has no answer."""

    REFUSED = "refused"
    """The host's own policy does not allow it, or the agent does not know the kind."""
    MISSING = "missing"
    """There is no such snapshot, or no such path in it."""
    FAILED = "failed"
    """restic, or the agent, failed at it."""


class QueryRun(Wire, frozen=True, kw_only=True, tag_field="type", tag="query.run"):
    """An operator waits for a quick answer; not a job, kept only as long as somebody waits."""

    query_id: UUID
    kind: str
    arguments: msgspec.Raw
    """One of `backhaul.wire.snapshots.QueryArguments`; raw, so that an agent can refuse a kind that
    it does not know."""
    ttl: Seconds
    """After this nobody waits any more."""
    repository_id: UUID | None = None
    credentials: bytes | None = None


class QueryAnswer(Wire, frozen=True, kw_only=True, tag_field="type", tag="query.answer"):
    """The answer to a query; handed to whoever waits."""

    query_id: UUID
    # A factory, because msgspec cannot show a raw default in a JSON schema.
    answer: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    """Whatever the kind of query says; `null` when there is only an error. Not `Raw | None`:
    msgspec reads that as null alone."""
    error: str | None = None
    is_cut: bool = False
    """There was more than fits."""
    failure: str | None = None
    """With an error: a `QueryFailure`, or one that is newer than the reader."""


class AgentSettings(Wire, frozen=True, kw_only=True):
    """What the server may set on an agent. Durations are seconds."""

    progress_interval: Seconds = 1.0
    """At most one `job.progress` in this time."""
    agent_token: bytes | None = None
    """A new token, sealed to the host. The old one is valid until the new one was used once."""


class SettingsSet(Wire, frozen=True, kw_only=True, tag_field="type", tag="settings.set"):
    """Due when the host's settings version differs from the one that the poll names."""

    settings_version: int
    settings: AgentSettings
