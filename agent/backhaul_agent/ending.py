"""How the work on a job ended: what `job.finished` is made of."""

from __future__ import annotations

import msgspec

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import Result
from backhaul_agent.restic.locks import explain_lock, read_lock
from backhaul_agent.restic_runner import Exit


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How the work on a job ended."""

    outcome: Outcome
    exit_code: int | None = None
    failure_class: FailureClass | None = None
    message: str | None = None
    result: Result | None = None


_LOCKED = (
    "Another restic works on the repository, or one that died has left its lock: when none runs "
    "any more, a job of the kind unlock removes it."
)

_DAMAGED = (
    "Data in the repository is damaged; the log names it. Prune nothing now. Look at its disk, "
    "copy the repository while it can be read, and see Troubleshooting in restic's manual: a new "
    "backup of the same files can bring lost data back."
)

APPEND_ONLY = (
    "What opens this repository may not delete from it: a repository that is append-only for its "
    "hosts needs an admin credential, and an upkeep host that is given it."
)


def build_ending(done: Exit, result: Result | None) -> Ending:
    """Build the ending that restic's exit stands for."""
    has_failed = done.verdict.outcome is Outcome.FAILED
    return Ending(
        outcome=done.verdict.outcome,
        exit_code=done.code,
        failure_class=done.verdict.failure_class,
        message=_explain(done) if has_failed else None,
        result=result,
    )


def build_failure(
    message: str,
    *,
    exit_code: int | None = None,
    failure_class: FailureClass = FailureClass.OTHER,
) -> Ending:
    """Build the ending of a job that the agent itself calls failed."""
    return Ending(
        outcome=Outcome.FAILED,
        exit_code=exit_code,
        failure_class=failure_class,
        message=message,
    )


def build_refusal(message: str, *, exit_code: int | None = None) -> Ending:
    """Build the ending of a job that this host does not do, however often it is asked."""
    return Ending(
        outcome=Outcome.FAILED,
        exit_code=exit_code,
        failure_class=FailureClass.REFUSED,
        message=message,
    )


def describe_cut(*, is_lock_left: bool) -> str:
    """Tell what a restic leaves behind that could not be ended in order, and the remedy."""
    if is_lock_left:
        return (
            "restic may have left a lock in the repository that could not be removed: a job of the "
            "kind unlock does that"
        )
    return "restic had to be killed; the lock that it left was removed"


def note_cut(ending: Ending, *, is_lock_left: bool) -> Ending:
    """Add that to an ending."""
    text = describe_cut(is_lock_left=is_lock_left)
    message = f"{ending.message}\n{text}" if ending.message else text
    return msgspec.structs.replace(ending, message=message)


def _explain(done: Exit) -> str:
    said = done.message or f"restic ended with code {done.code}"
    match done.verdict.failure_class:
        case FailureClass.LOCKED:
            lock = read_lock(done.stderr)
            return f"{said}\n{_LOCKED if lock is None else explain_lock(lock)}"
        case FailureClass.DAMAGED:
            return f"{said}\n{_DAMAGED}"
        case FailureClass.REFUSED:
            return f"{said}\n{APPEND_ONLY}"
        case _:
            return said
