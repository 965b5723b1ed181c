"""Enrolment, the poll, and the batch: the three requests that an agent makes.

POST /v1/agents/enroll     EnrollRequest -> EnrollReply
POST /v1/agent/poll        PollRequest   -> PollReply      (held open)
POST /v1/agent/envelopes   Batch         -> BatchReply
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from backhaul.wire.base import Instant, Labels, Name, ProtocolRange, Seconds, Wire
from backhaul.wire.commands import (
    CommandAck,
    CommandCancel,
    CommandRun,
    QueryAnswer,
    QueryRun,
    SettingsSet,
)
from backhaul.wire.problems import Problem
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul.wire.schedules import ScheduleAck, ScheduleFire, ScheduleSet
from backhaul.wire.snapshots import SnapshotsReport

MAX_BATCH_ENVELOPES = 500
MAX_BATCH_BYTES = 1024 * 1024

DEFAULT_HOLD_S = 25.0
"""How long a poll is held: under the 30 s at which the more impatient proxies cut."""

PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class HostFacts(Wire, frozen=True, kw_only=True):
    """What a host says about itself."""

    hostname: str
    os: str
    """Like `Debian GNU/Linux 12 (bookworm)`."""
    architecture: str
    agent_version: str
    protocol: ProtocolRange
    restic_version: str | None = None
    """None when the agent found no restic."""
    capabilities: tuple[str, ...] = ()
    """The kinds of jobs that the agent knows and its policy allows."""


class EnrollRequest(Wire, frozen=True, kw_only=True):
    """A host asks to join, with a one-time enrollment token."""

    enrollment_token: str
    public_key: PublicKey
    """X25519; what only this host may read is sealed to it."""
    facts: HostFacts
    name: Name | None = None
    """What the host would like to be called; a name that the token carries wins."""
    labels: Labels = {}

    def __repr__(self) -> str:
        return f"EnrollRequest(name={self.name!r}, …)"


class EnrollReply(Wire, frozen=True, kw_only=True):
    """The host joined. The token is shown this once."""

    host_id: UUID
    name: Name
    agent_token: str
    server_time: Instant
    protocol: ProtocolRange
    signing_key: PublicKey
    """Ed25519; checks what the server signs."""

    def __repr__(self) -> str:
        return f"EnrollReply(host_id={self.host_id}, name={self.name!r}, …)"


class HeldJob(Wire, frozen=True, kw_only=True):
    """A job that the agent has in its journal."""

    job_id: UUID
    attempt: int = 1
    state: Literal["accepted", "running", "finished"]
    """`finished` until the server's receipt for the end has come."""


class PollRequest(Wire, frozen=True, kw_only=True):
    """What the agent has. The answer is what differs."""

    boot_id: UUID
    """Random per process start: tells a restart from a blip, and two processes from one."""
    schedule_version: int
    """That the agent applied; 0 before the first set."""
    settings_version: int
    jobs: tuple[HeldJob, ...]
    clock: Instant
    hold: Seconds
    """How long the agent can stand to wait; the server may cut it shorter."""


class HoldRequest(Wire, frozen=True, kw_only=True):
    """Hold this request, to learn what the path can stand."""

    hold: Annotated[float, msgspec.Meta(ge=0, le=600)]
    """Seconds; the server holds no longer than it holds polls."""


class HoldReply(Wire, frozen=True, kw_only=True):
    """The answer to a request that was held on purpose, to learn what the path can stand."""

    held: Seconds
    """By the server."""
    allowed: Seconds
    """The longest that this server holds."""
    server_time: Instant


class PollReply(Wire, frozen=True, kw_only=True):
    """What differs; empty when nothing did until the hold was over."""

    envelopes: tuple[msgspec.Raw, ...]
    """Each a `DownEnvelope`; raw, so that one which the agent cannot read spoils no other."""
    server_time: Instant
    hold: Seconds
    """What the server will allow next time."""
    pause: Seconds = 0.0
    """Stay away for this long before the next poll."""


DownEnvelope = ScheduleSet | CommandRun | CommandCancel | QueryRun | SettingsSet


class Hello(Wire, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """The first envelope of every process. Natural key: (host, boot_id).

    Jobs that the server thinks are running here and that are not among `jobs` become `lost`.
    """

    boot_id: UUID
    facts: HostFacts
    jobs: tuple[HeldJob, ...] = ()


UpEnvelope = (
    Hello
    | ScheduleAck
    | ScheduleFire
    | CommandAck
    | JobStarted
    | JobProgress
    | JobLog
    | JobFinished
    | SnapshotsReport
    | QueryAnswer
)


class Batch(Wire, frozen=True, kw_only=True):
    """What happened on a host, in order."""

    envelopes: tuple[msgspec.Raw, ...]
    """Each an `UpEnvelope`; raw, so that a bad one is refused alone."""


class ReceiptStatus(StrEnum):
    """What became of an envelope."""

    OK = "ok"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class Receipt(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """The server's word on one envelope. `ok` and `duplicate` mean that it is on disk."""

    status: ReceiptStatus
    problem: Problem | None = None
    """With `rejected`: why. The agent drops the envelope and says so in its log."""
    job_id: UUID | None = None
    """With `schedule.fire`: the job that the fire has."""


class BatchReply(Wire, frozen=True, kw_only=True):
    """One receipt for each envelope, in the same order."""

    receipts: tuple[Receipt, ...]
