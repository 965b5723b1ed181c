"""How the API says no, in the words of the domain. `problems` turns these into HTTP.

DomainError
  InvalidError            a field is not acceptable, with its remedy
  NotAuthenticatedError   no token, or not one that is good here
  NotAllowedError         known, but not for this
  NotFoundError
  LogDeletedError         a job's log was there, and is no longer
  ConflictError           what is there stands in the way
    LostRaceError         somebody changed it first
    IllegalJobMoveError   the state machine has no such move
    JobWaitsError         a job's turn on its repository has not come
  PreconditionFailedError what If-Match said is no longer so
  SupersededError         another process has this host's identity
  HostRemovedError        the host was removed; signed
  LogGapError             log lines are missing before these
  TooLargeError           more than one request may carry
  RateLimitedError        too many ask for what is costly; later
  UnknownEnvelopeError    an envelope of a type that is not taken here
  UnsupportedProtocolError
  HostSilentError         a host does not answer
  HostRefusedError        a host's own policy says no
  MissingThereError       a host looked, and it is not there
  HostFailedError         a host could not find the answer
  NotReadyError           this instance should not be sent requests now
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul.wire.jobs import IllegalMoveError
from backhaul.wire.problems import FieldError, Problem, ProblemType
from backhaul.wire.refusals import shorten


class DomainError(Exception):
    """A request, or an envelope, that is refused; changes nothing."""

    type = ProblemType.INTERNAL
    status = 500
    title = "Internal error"
    retry_after_s: int | None = None
    """When another try may go better; None where it would be refused again."""

    def problem(self) -> Problem:
        """Build the problem document."""
        return Problem(type=self.type, title=self.title, status=self.status, detail=str(self))


class InvalidError(DomainError):
    """A field is not acceptable."""

    type = ProblemType.INVALID_REQUEST
    status = 422
    title = "Invalid request"

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(error.describe() for error in errors))
        self.errors = errors

    @classmethod
    def of(cls, field: str, message: str) -> InvalidError:
        return cls(FieldError(field=field, message=message))

    def problem(self) -> Problem:
        return msgspec.structs.replace(super().problem(), errors=self.errors)


class NotAuthenticatedError(DomainError):
    type = ProblemType.NOT_AUTHENTICATED
    status = 401
    title = "Not authenticated"


class NotAllowedError(DomainError):
    type = ProblemType.NOT_ALLOWED
    status = 403
    title = "Not allowed"


class NotFoundError(DomainError):
    type = ProblemType.NOT_FOUND
    status = 404
    title = "Not found"

    def __init__(self, what: str, reference: object) -> None:
        self.what = what
        self.reference = shorten(str(reference))
        super().__init__(f"There is no {what} {self.reference!r}.")


class LogDeletedError(DomainError):
    """The lines of a job's log were deleted, as the settings want it."""

    type = ProblemType.LOG_DELETED
    status = 410
    title = "Log deleted"

    def __init__(self, job_id: UUID) -> None:
        super().__init__(
            f"The log of job {job_id} was deleted: this server keeps logs for a limited time after "
            "the end of their job (job_log_lifetime). What became of the job is still there."
        )


class ConflictError(DomainError):
    type = ProblemType.CONFLICT
    status = 409
    title = "Conflict"


class PreconditionFailedError(DomainError):
    """What If-Match said is no longer so."""

    type = ProblemType.PRECONDITION_FAILED
    status = 412
    title = "Precondition failed"

    def __init__(self, what: str, id_: UUID) -> None:
        super().__init__(
            f"The {what} {id_} was changed by somebody else. Read it again, and repeat the change."
        )


class LostRaceError(ConflictError):
    """Somebody changed the row between our look and our move."""


class IllegalJobMoveError(ConflictError):
    type = ProblemType.ILLEGAL_MOVE
    title = "Illegal move"

    def __init__(self, job_id: UUID, refused: IllegalMoveError) -> None:
        super().__init__(f"Job {job_id}: {refused}.")


class JobWaitsError(ConflictError):
    type = ProblemType.JOB_WAITS
    title = "Job waits"


class SupersededError(DomainError):
    type = ProblemType.SUPERSEDED
    status = 409
    title = "Superseded"


class HostRemovedError(DomainError):
    type = ProblemType.HOST_REMOVED
    status = 410
    title = "Host removed"

    def __init__(self, host_id: UUID, signature: bytes) -> None:
        super().__init__(f"Host {host_id} was removed from this server. Enrol it again to use it.")
        self.signature = signature

    def problem(self) -> Problem:
        return msgspec.structs.replace(super().problem(), signature=self.signature)


class LogGapError(DomainError):
    type = ProblemType.LOG_GAP
    status = 409
    title = "Log gap"

    def __init__(self, job_id: UUID, *, expected_seq: int, got: int) -> None:
        super().__init__(f"Job {job_id}: log line {expected_seq} comes next, not {got}.")
        self.expected_seq = expected_seq

    def problem(self) -> Problem:
        return msgspec.structs.replace(super().problem(), expected_seq=self.expected_seq)


class TooLargeError(DomainError):
    type = ProblemType.TOO_LARGE
    status = 413
    title = "Too large"


class UnknownEnvelopeError(DomainError):
    type = ProblemType.UNKNOWN_ENVELOPE
    status = 422
    title = "Unknown envelope"


class UnsupportedProtocolError(DomainError):
    type = ProblemType.UNSUPPORTED_PROTOCOL
    status = 426
    title = "Unsupported protocol"

    def __init__(self, got: str) -> None:
        spoken = SPOKEN_PROTOCOLS
        super().__init__(
            f"The agent speaks protocol {got!r}; this server speaks {spoken.minimum} to "
            f"{spoken.maximum}. Install a matching version of backhaul on the host."
        )

    def problem(self) -> Problem:
        return msgspec.structs.replace(super().problem(), protocol=SPOKEN_PROTOCOLS)


class RateLimitedError(DomainError):
    type = ProblemType.RATE_LIMITED
    status = 429
    title = "Rate limited"
    retry_after_s = 5


class HostSilentError(DomainError):
    type = ProblemType.HOST_SILENT
    status = 504
    title = "Host silent"
    # An agent that is away comes back by itself, and not within the seconds in which programs
    # repeat a request.
    retry_after_s = 60


class HostRefusedError(DomainError):
    type = ProblemType.HOST_REFUSED
    status = 409
    title = "Host refused"


class MissingThereError(DomainError):
    type = ProblemType.NOT_FOUND
    status = 404
    title = "Not found"


class HostFailedError(DomainError):
    type = ProblemType.HOST_FAILED
    status = 409
    title = "Host failed"


class NotReadyError(DomainError):
    type = ProblemType.NOT_READY
    status = 503
    title = "Not ready"
    retry_after_s = 5
