"""Problem documents (RFC 9457): the one form in which the API says no.

Media type `application/problem+json`. `type` is stable and names the kind of problem; texts are for
people and may change.

    {"type": "urn:backhaul:problem:invalid-request", "title": "Invalid request", "status": 422,
     "detail": "1 field is not acceptable.",
     "errors": [{"field": "paths[0]", "message": "must be an absolute path, like /etc"}]}
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from backhaul.wire.base import ProtocolRange, Wire

PROBLEM_MEDIA_TYPE = "application/problem+json"


class ProblemType(StrEnum):
    """Every kind of problem, with its stable name."""

    INVALID_REQUEST = "urn:backhaul:problem:invalid-request"
    NOT_AUTHENTICATED = "urn:backhaul:problem:not-authenticated"
    NOT_ALLOWED = "urn:backhaul:problem:not-allowed"
    NOT_FOUND = "urn:backhaul:problem:not-found"
    METHOD_NOT_ALLOWED = "urn:backhaul:problem:method-not-allowed"
    CONFLICT = "urn:backhaul:problem:conflict"
    PRECONDITION_FAILED = "urn:backhaul:problem:precondition-failed"
    SUPERSEDED = "urn:backhaul:problem:superseded"
    HOST_REMOVED = "urn:backhaul:problem:host-removed"
    TOO_LARGE = "urn:backhaul:problem:too-large"
    UNSUPPORTED_PROTOCOL = "urn:backhaul:problem:unsupported-protocol"
    RATE_LIMITED = "urn:backhaul:problem:rate-limited"
    LOG_DELETED = "urn:backhaul:problem:log-deleted"
    LOG_GAP = "urn:backhaul:problem:log-gap"
    ILLEGAL_MOVE = "urn:backhaul:problem:illegal-move"
    JOB_WAITS = "urn:backhaul:problem:job-waits"
    UNKNOWN_ENVELOPE = "urn:backhaul:problem:unknown-envelope"
    HOST_SILENT = "urn:backhaul:problem:host-silent"
    HOST_REFUSED = "urn:backhaul:problem:host-refused"
    HOST_FAILED = "urn:backhaul:problem:host-failed"
    NOT_READY = "urn:backhaul:problem:not-ready"
    INTERNAL = "urn:backhaul:problem:internal"


class FieldError(Wire, frozen=True, kw_only=True):
    """One field that was refused, and what would be accepted."""

    field: str
    """Where it stands in the body or the query, like `paths[0]`; empty for the body itself."""
    message: str

    def describe(self) -> str:
        """Say both in one line."""
        return f"{self.field}: {self.message}" if self.field else self.message


class Problem(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request, or one envelope of a batch, was refused, and what to do about it."""

    type: str
    """A `ProblemType`, or one that is newer than the reader."""
    title: str
    status: int
    detail: str
    instance: str | None = None
    """The request id, to be found in the server's log."""
    errors: tuple[FieldError, ...] = ()
    expected_seq: int | None = None
    """With `log-gap`: the sequence number that the server wants next."""
    protocol: ProtocolRange | None = None
    """With `unsupported-protocol`: what the server speaks."""
    signature: bytes | None = None
    """With `host-removed`: Ed25519 over `removal_message(host_id)`, by the server's signing key,
    so that nothing on the way can retire an agent."""


def removal_message(host_id: object) -> bytes:
    """Build the bytes that the server signs when it tells an agent that its host was removed."""
    return f"backhaul host-removed {host_id}".encode()


_decoder = msgspec.json.Decoder(Problem)


def decode_problem(body: bytes) -> Problem | None:
    """Read a problem document, or give None when the body is something else."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
