"""Write docs/job-states.md from the table of moves, so that the two never differ.

.venv/bin/python -m tools.draw_states
"""

from __future__ import annotations

import sys
from pathlib import Path

from backhaul.wire.jobs import MOVES, RETRYABLE, TERMINAL_STATES, FailureClass, JobState

PAGE = Path(__file__).parents[1] / "docs" / "job-states.md"

MEANINGS = {
    JobState.QUEUED: "Made, and not yet taken up by the host's agent.",
    JobState.ACCEPTED: "The agent has written it to its disk and is about to start it.",
    JobState.RUNNING: "restic runs.",
    JobState.SUCCEEDED: "restic ended well.",
    JobState.INCOMPLETE: "A snapshot exists, but some files could not be read.",
    JobState.FAILED: "restic failed, or could not be started; the job's `message` says why.",
    JobState.CANCELLED: "Ended because it was asked to, or because the agent was stopped.",
    JobState.REJECTED: "The agent's own policy refused it.",
    JobState.EXPIRED: "No agent took it up before its start deadline.",
    JobState.LOST: "The agent came back without it, or did not come back.",
}

CAUSES = {
    FailureClass.REPOSITORY_MISSING: "There is no repository at the location.",
    FailureClass.REPOSITORY_EXISTS: "An `init` found one.",
    FailureClass.WRONG_PASSWORD: "The password does not open the repository.",
    FailureClass.LOCKED: "Another restic has locked the repository, or left its lock there.",
    FailureClass.NETWORK: "The storage could not be reached, or did not answer in time.",
    FailureClass.DAMAGED: "The repository is damaged, or two reads of a drill differ.",
    FailureClass.NO_SPACE: "A disk is full: that of the storage, or of the host.",
    FailureClass.SOURCE_MISSING: "None of the paths to back up is there.",
    FailureClass.SNAPSHOT_MISSING: "The repository has no such snapshot, or none of those meant.",
    FailureClass.RESTIC_MISSING: "The host has no restic where its agent looks for it.",
    FailureClass.NOT_SUPPORTED: "The host, its restic or the repository lacks what the job needs.",
    FailureClass.INTERRUPTED: "The agent was stopped, or died, while restic ran.",
    FailureClass.REFUSED: (
        "The host does not do it: by its policy, for credentials that do not open, or because a "
        "forget would leave nothing. Or the storage takes no deletes."
    ),
    FailureClass.OTHER: "Anything else; the `message` and the log have restic's own words.",
}


def draw() -> str:
    """Build the page."""
    return f"""<!-- Drawn by tools/draw_states.py from MOVES of backhaul.wire.jobs: change that. -->
# Job states

{_draw_diagram()}

{_draw_states()}

A state that is an end never changes, but for those that the server could only guess: `lost` accepts
the late report of the agent, and goes back to `running` when the host is heard of again and still
runs the job. `expired` gives way when the host, cut off from the server, had begun the job of a
schedule by itself; so does `cancelled`, but only of a job that was cancelled while it was queued.

{_draw_moves()}

## Why a job failed

A job that failed says why, as far as its host could tell, in `failure_class`. Another attempt is
made only where it may go better by itself, and only of what
[a schedule](schedules.md#limits-of-a-job) fired.

| class | tried again | meaning |
| --- | --- | --- |
{_draw_causes()}
"""


def _draw_diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {JobState.QUEUED}"]
    lines += [f"    {state} --> {to}: {event}" for (state, event), to in MOVES.items()]
    ends = sorted(TERMINAL_STATES - {JobState.LOST, JobState.EXPIRED})
    return "\n".join([*lines, *(f"    {state} --> [*]" for state in ends), "```"])


def _draw_states() -> str:
    rows = ["| state | is an end | meaning |", "| --- | --- | --- |"]
    for state in JobState:
        is_end = "yes" if state in TERMINAL_STATES else ""
        rows.append(f"| `{state}` | {is_end} | {MEANINGS[state]} |")
    return "\n".join(rows)


def _draw_moves() -> str:
    rows = ["| from | event | to |", "| --- | --- | --- |"]
    rows += [f"| `{state}` | {event} | `{to}` |" for (state, event), to in MOVES.items()]
    return "\n".join(rows)


def _draw_causes() -> str:
    return "\n".join(
        f"| `{one}` | {'yes' if one in RETRYABLE else ''} | {CAUSES[one]} |" for one in FailureClass
    )


if __name__ == "__main__":
    PAGE.write_text(draw())
    sys.stdout.write(f"{PAGE} is written\n")
