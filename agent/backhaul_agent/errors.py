"""What can go wrong in the agent.

AgentError
  SettingsError             a setting is not acceptable; the message names it
  StateFileError            a file in the state folder cannot be used as it is
    NotEnrolledError
    DiskFullError           nothing more can be written to it now
  EnrolmentError            the server did not take the host in
  CredentialsError          the credentials of a command cannot be used
  ResticMissingError        there is no restic to run
  ResticStartError          there is one, and this command line cannot be run
  NotSupportedError         this host or its restic lacks what a job needs
  QueryFailedError          a query of an operator has no answer
  LinkError                 what became of a request
    LinkLostError           no usable answer: try again
    SupersededError         another process has this host's identity
    BatchRefusedError       this batch is too large or not acceptable
    LinkRefusedError        the server said no: try again slowly, and tell people
      HostRemovedError      ... and signed it: stop for good
"""

from __future__ import annotations

from enum import StrEnum

from backhaul.wire.commands import QueryFailure


class AgentError(Exception):
    """Base of all. The message is fit for people and holds no secret."""


class SettingsError(AgentError):
    """A setting is not acceptable; the message names it."""


class StateFileError(AgentError):
    """A file in the state folder cannot be used as it is. It is never replaced silently."""


class NotEnrolledError(StateFileError):
    """The state folder has no identity."""


class DiskFullError(StateFileError):
    """Nothing more can be written to the state folder now. What is in it is whole."""


class EnrolmentError(AgentError):
    """The server did not take the host in."""


class CredentialsError(AgentError):
    """The credentials of a command are missing, do not open, or ask for what is not allowed."""


class ResticMissingError(AgentError):
    """There is no restic to run."""


class ResticStartError(AgentError):
    """The system would not start restic: a command line too long, no memory, no process left."""


class NotSupportedError(AgentError):
    """This host, its restic or the repository lacks what a job needs. Nothing was started."""


class QueryFailedError(AgentError):
    """A query of an operator has no answer."""

    def __init__(self, message: str, failure: QueryFailure) -> None:
        super().__init__(message)
        self.failure = failure


class LinkError(AgentError):
    """A request did not do what it was for."""


class Loss(StrEnum):
    """Where a request was lost: what the next one should do differently."""

    NOT_SENT = "not_sent"
    """No connection came about. Says nothing of the path, nor of the request."""
    CUT = "cut"
    """It was under way when the connection, or a gateway between, gave up."""
    TIMED_OUT = "timed_out"
    """It was under way, and nothing came back in time. A smaller request may do better."""
    TOO_LARGE = "too_large"
    """Something between refused its size; the server never saw it. Send less, and drop nothing."""
    SERVER_FAILED = "server_failed"
    """The server itself failed at it (a 5xx of its own, other than being busy): perhaps at one
    thing in it."""
    OTHER = "other"
    """Somebody answered: the server that it is busy, or a stranger."""


class LinkLostError(LinkError):
    """No usable answer came back; another try may do better."""

    def __init__(
        self,
        reason: str,
        *,
        loss: Loss = Loss.OTHER,
        retry_after_s: float | None = None,
        age_s: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.loss = loss
        self.retry_after_s = retry_after_s
        self.age_s = age_s
        """How long the request had been under way; tells a cut poll from a refused connection."""


class SupersededError(LinkError):
    """Another process polls with this host's identity."""


class BatchRefusedError(LinkError):
    """The batch as a whole was refused; its parts may pass."""


class LinkRefusedError(LinkError):
    """The server understood and said no."""


class HostRemovedError(LinkRefusedError):
    """The server removed this host, and its signature proves it."""
