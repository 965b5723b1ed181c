"""Jobs: their kinds, their states, and the one table of moves between states.

A job is one run of restic on one host. `MOVES` is the only place that says how a job may change;
the API asks `move`, the documentation is drawn from the table, and the agent names events only.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from backhaul.wire.base import Instant, Name, Wire
from backhaul.wire.kinds import Arguments, JobKind, Result


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    INCOMPLETE = "incomplete"
    """restic's exit code 3: a snapshot exists, some files could not be read."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    """The agent's own policy refused the job."""
    EXPIRED = "expired"
    """Not accepted before its start deadline."""
    LOST = "lost"
    """The agent came back without it, or did not come back."""


class JobEvent(StrEnum):
    """What can happen to a job."""

    ACCEPT = "accept"
    REJECT = "reject"
    EXPIRE = "expire"
    START = "start"
    RETRY = "retry"
    """An attempt failed, and another one may help."""
    SUCCEED = "succeed"
    FINISH_INCOMPLETE = "finish_incomplete"
    FAIL = "fail"
    CANCEL = "cancel"
    VANISH = "vanish"


_S, _E = JobState, JobEvent

MOVES: Mapping[tuple[JobState, JobEvent], JobState] = MappingProxyType(
    {
        (_S.QUEUED, _E.ACCEPT): _S.ACCEPTED,
        (_S.QUEUED, _E.REJECT): _S.REJECTED,
        (_S.QUEUED, _E.EXPIRE): _S.EXPIRED,
        (_S.QUEUED, _E.CANCEL): _S.CANCELLED,
        # The server finds out that it cannot send it: the repository is gone.
        (_S.QUEUED, _E.FAIL): _S.FAILED,
        (_S.ACCEPTED, _E.START): _S.RUNNING,
        # The agent can find out that it cannot start: restic is missing, a secret does not open.
        (_S.ACCEPTED, _E.FAIL): _S.FAILED,
        (_S.ACCEPTED, _E.CANCEL): _S.CANCELLED,
        (_S.ACCEPTED, _E.VANISH): _S.LOST,
        # Only before the last attempt that the job has.
        (_S.ACCEPTED, _E.RETRY): _S.QUEUED,
        (_S.RUNNING, _E.RETRY): _S.QUEUED,
        (_S.RUNNING, _E.SUCCEED): _S.SUCCEEDED,
        (_S.RUNNING, _E.FINISH_INCOMPLETE): _S.INCOMPLETE,
        (_S.RUNNING, _E.FAIL): _S.FAILED,
        # The agent confirms; asking is the column cancel_requested_at.
        (_S.RUNNING, _E.CANCEL): _S.CANCELLED,
        (_S.RUNNING, _E.VANISH): _S.LOST,
        # The host fell silent, is back, and still runs it.
        (_S.LOST, _E.START): _S.RUNNING,
        # The agent's spool delivers late news: of these ends the server was never certain.
        (_S.LOST, _E.SUCCEED): _S.SUCCEEDED,
        (_S.LOST, _E.FINISH_INCOMPLETE): _S.INCOMPLETE,
        (_S.LOST, _E.FAIL): _S.FAILED,
        (_S.LOST, _E.CANCEL): _S.CANCELLED,
        # A host that was cut off had begun it by itself; its report came after the deadline.
        (_S.EXPIRED, _E.ACCEPT): _S.ACCEPTED,
        # Likewise, and it was cancelled meanwhile, as one that nobody had begun. No other cancelled
        # job moves again.
        (_S.CANCELLED, _E.ACCEPT): _S.ACCEPTED,
    }
)

REVIVED_STATES = frozenset({JobState.EXPIRED, JobState.LOST, JobState.CANCELLED})
"""Ends that the server could only guess at; late news of the host may still change them."""

TERMINAL_STATES = frozenset(JobState) - {state for state, _ in MOVES} | REVIVED_STATES
"""Nothing more is expected of a job in these."""

ACTIVE_STATES = frozenset(JobState) - TERMINAL_STATES


class IllegalMoveError(Exception):
    """The table has no such move."""

    def __init__(self, state: JobState, event: JobEvent) -> None:
        super().__init__(f"a job that is {state} cannot {event}")
        self.state = state
        self.event = event


def move(state: JobState, event: JobEvent) -> JobState:
    """Look a move up.

    Raises:
        IllegalMoveError: the table has no such move.
    """
    try:
        return MOVES[state, event]
    except KeyError:
        raise IllegalMoveError(state, event) from None


class Outcome(StrEnum):
    """How the agent says a job ended."""

    SUCCEEDED = "succeeded"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


OUTCOME_EVENTS: Mapping[Outcome, JobEvent] = MappingProxyType(
    {
        Outcome.SUCCEEDED: JobEvent.SUCCEED,
        Outcome.INCOMPLETE: JobEvent.FINISH_INCOMPLETE,
        Outcome.FAILED: JobEvent.FAIL,
        Outcome.CANCELLED: JobEvent.CANCEL,
    }
)


class FailureClass(StrEnum):
    """Why a job failed, as far as the agent could tell; decides whether a retry can help."""

    REPOSITORY_MISSING = "repository_missing"
    REPOSITORY_EXISTS = "repository_exists"
    WRONG_PASSWORD = "wrong_password"
    LOCKED = "locked"
    NETWORK = "network"
    DAMAGED = "damaged"
    NO_SPACE = "no_space"
    SOURCE_MISSING = "source_missing"
    SNAPSHOT_MISSING = "snapshot_missing"
    """The repository has no such snapshot, or none at all of those that were meant."""
    RESTIC_MISSING = "restic_missing"
    NOT_SUPPORTED = "not_supported"
    """The restic of the host, its repository or the host itself lacks what the job needs."""
    INTERRUPTED = "interrupted"
    """The agent was stopped, or died, while restic ran."""
    REFUSED = "refused"
    """The host does not do it: its policy says no, the credentials do not open, or a forget would
    leave nothing. Or the storage does not: it takes no deletes."""
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> FailureClass | None:
        """A newer program knows classes that this one does not: its reports still count."""
        return cls.OTHER if isinstance(value, str) else None


RETRYABLE = frozenset(
    {FailureClass.NETWORK, FailureClass.LOCKED, FailureClass.INTERRUPTED, FailureClass.OTHER}
)
"""What may go better next time by itself. The rest waits for a person: a password, a disk."""


class Progress(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """restic's status line. Sizes in bytes, times in seconds.

    `percent_done` is 0 to 1 and counts data read, not stored: it reaches 1 before the end, and can
    fall while restic still scans. Only the job's state says that it is done.
    """

    percent_done: float = 0.0
    total_files: int = 0
    files_done: int = 0
    total_bytes: int = 0
    bytes_done: int = 0
    error_count: int = 0
    seconds_elapsed: int = 0
    seconds_remaining: int | None = None
    current_files: tuple[str, ...] = ()


class LogLine(Wire, frozen=True, kw_only=True):
    """One line of a job's log."""

    at: Instant
    stream: Literal["stdout", "stderr", "agent"]
    """`agent` marks what the agent itself has to say."""
    text: str


# The operator's view -----------------------------------------------------------------------------


class ActorKind(StrEnum):
    """Who made a job, or an entry of the audit log."""

    USER = "user"
    SCHEDULE = "schedule"
    SYSTEM = "system"
    HOST = "host"


class Obstacle(Wire, frozen=True, kw_only=True):
    """The job that another one waits for: both need the repository, one of them for itself."""

    job_id: UUID
    kind: JobKind
    state: JobState
    host: Name


class Job(Wire, frozen=True, kw_only=True):
    """One run of restic on one host. A retry is a further attempt of the same job."""

    id: UUID
    kind: JobKind
    state: JobState
    host_id: UUID
    host: Name
    repository_id: UUID | None
    repository: Name | None
    destination_id: UUID | None = None
    destination: Name | None = None
    """Of a copy: the second repository."""
    arguments: Arguments
    actor_kind: ActorKind
    actor_id: UUID | None
    schedule_id: UUID | None = None
    scheduled_at: Instant | None = None
    """The slot of the schedule that this job is for."""
    missed: int = 0
    """How many earlier slots it stands for, because the agent could not fire them."""
    ran_offline: bool = False
    """The agent ran it without the server and reported it afterwards."""
    attempt: int = 1
    """Counts from 1; each has a log of its own."""
    attempts: int = 1
    """How many there may be."""
    retry_at: Instant | None = None
    """Not before this the next attempt begins. `message`, `exit_code` and `failure_class` say until
    then how the last one failed."""
    created_at: Instant
    accepted_at: Instant | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    start_deadline_at: Instant | None = None
    cancel_requested_at: Instant | None = None
    waits_for: Obstacle | None = None
    """Of a queued job: what has to end before it can begin."""
    progress: Progress | None = None
    progressed_at: Instant | None = None
    """When restic last got on, or wrote a line."""
    stalled_since: Instant | None = None
    """Of a running job: it has not got on since then, for longer than the server's `stall_after`.
    It is left alone; cancel it if it hangs."""
    exit_code: int | None = None
    """restic's exit code; negative when a signal ended it."""
    failure_class: FailureClass | None = None
    message: str | None = None
    """Why the job ended as it did, when it did not simply succeed."""
    result: Result | None = None
    log_lines: int = 0
    revision: int = 0
    """Grows with every change of this job; wait for the next change with `after_revision`."""


def is_dry_run(job: Job) -> bool:
    """Tell whether a job only told what it would do."""
    return any(getattr(part, "dry_run", False) for part in (job.arguments, job.result))


def is_real_backup(job: Job) -> bool:
    """Tell whether a job is a backup that is to make a snapshot."""
    return job.kind is JobKind.BACKUP and not is_dry_run(job)


class NumberedLogLine(Wire, frozen=True, kw_only=True):
    """A log line with its place: `attempt` from 1, `seq` from 0 within the attempt."""

    attempt: int
    seq: int
    at: Instant
    stream: Literal["stdout", "stderr", "agent"]
    text: str


class JobLogPage(Wire, frozen=True, kw_only=True):
    """A stretch of a job's log, oldest first."""

    lines: tuple[NumberedLogLine, ...]
    next_cursor: str
    """Ask for what follows with this; also at the end of the log, where more may come."""
    state: JobState
    is_complete: bool
    """The job has ended and this page reaches the end of its log."""
