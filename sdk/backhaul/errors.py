"""What the SDK raises.

BackhaulError
  ConfigurationError         what is needed to ask is missing or makes no sense
  MissingPackageError        an optional package is not installed
  NoAnswerError              nothing usable came back; may_retry
    ConnectionFailedError
    TimedOutError
    UndecodableReplyError    something answered, but not a Backhaul API
  ApiError                   the server answered "no"
    InvalidRequestError      with one error for each field that was refused
    NotAuthenticatedError
    NotAllowedError
    NotFoundError
    ConflictError
    PreconditionFailedError  it was changed since the revision that was named
    RateLimitedError         not now; may_retry
    ServerFailedError        not now; may_retry, unless it was a fault of the server's (500)
  JobFailedError             a job ended otherwise than succeeded
  JobNotFinishedError        a job was still active when the wait for it was over
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backhaul.wire.problems import FieldError, Problem, ProblemType

if TYPE_CHECKING:
    from backhaul.wire.jobs import Job


class BackhaulError(Exception):
    """Everything that the SDK raises on purpose."""

    may_retry: bool = False
    """Whether the same request can do better in a moment."""

    _was_shown = False

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of a traceback: where the SDK's own lines stood is of no use.

        In a notebook a panel comes before it; once, though IPython asks more often.
        """
        from backhaul._live import show_error

        if not self._was_shown:
            self._was_shown = True
            show_error(self)
        return [f"{type(self).__name__}: {self}"]


class ConfigurationError(BackhaulError):
    """The URL, the token, the CA file or the configuration file is missing or wrong."""


class MissingPackageError(BackhaulError):
    """An optional package is not installed; the message is the command that installs it."""


class NoAnswerError(BackhaulError):
    """Nothing usable came back: whether the server acted on the request is not known."""

    may_retry = True


class ConnectionFailedError(NoAnswerError):
    """The connection could not be made, or broke."""


class TimedOutError(NoAnswerError):
    """No answer within the timeout."""


class UndecodableReplyError(NoAnswerError):
    """Something answered, but not a Backhaul API: a proxy, a captive portal, another server."""


class ApiError(BackhaulError):
    """The server refused the request. `problem` says why, in the server's words."""

    def __init__(self, problem: Problem, *, retry_after_s: float | None = None) -> None:
        super().__init__(problem.detail or problem.title)
        self.problem = problem
        self.retry_after_s = retry_after_s
        """How long the server asked to stay away; None when it did not say."""

    @property
    def status(self) -> int:
        return self.problem.status


class InvalidRequestError(ApiError):
    """Something in the request is not acceptable; `errors` names each field and its remedy."""

    @property
    def errors(self) -> tuple[FieldError, ...]:
        return self.problem.errors or (FieldError(field="", message=self.problem.detail),)

    def __str__(self) -> str:
        return "; ".join(error.describe() for error in self.errors)


class NotAuthenticatedError(ApiError):
    """No token, one that is not good here, or a wrong password."""


class NotAllowedError(ApiError):
    """Known, but not for this."""


class NotFoundError(ApiError):
    """There is no such thing, or no longer."""


class ConflictError(ApiError):
    """What is there stands in the way."""


class PreconditionFailedError(ApiError):
    """Somebody else changed it since the revision that was named: get it again, then decide."""


class RateLimitedError(ApiError):
    """Too much was asked; ask again after `retry_after_s`."""

    may_retry = True


class ServerFailedError(ApiError):
    """The server, or a proxy before it, could not answer."""

    def __init__(self, problem: Problem, *, retry_after_s: float | None = None) -> None:
        super().__init__(problem, retry_after_s=retry_after_s)
        # Other 5xx answers are faults that the same request would meet again.
        self.may_retry = problem.status in {502, 503, 504}


class JobFailedError(BackhaulError):
    """A job that was waited for did not succeed. `job` has its message and its result."""

    def __init__(self, job: Job, *, last_lines: tuple[str, ...] = ()) -> None:
        reason = f": {job.message}" if job.message else ""
        said = "".join(f"\n  {line}" for line in last_lines)
        super().__init__(f"Job {job.id} ({job.kind} on {job.host}) is {job.state}{reason}{said}")
        self.job = job
        self.last_lines = last_lines
        """The end of its log, oldest first; empty where nobody asked for it."""


class JobNotFinishedError(BackhaulError):
    """The wait was over before the job was. The job goes on; wait again, or look at it later."""

    may_retry = True

    def __init__(self, job: Job) -> None:
        super().__init__(f"Job {job.id} ({job.kind} on {job.host}) is still {job.state}.")
        self.job = job


def refuse(field: str, message: str) -> InvalidRequestError:
    """Build the error that the server would answer with, for what need not be asked."""
    return InvalidRequestError(
        Problem(
            type=ProblemType.INVALID_REQUEST,
            title="Invalid request",
            status=422,
            detail=f"{field}: {message}" if field else message,
            errors=(FieldError(field=field, message=message),),
        )
    )
