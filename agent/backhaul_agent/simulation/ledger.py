"""What the agents did, noted apart from what they told: the checker compares the server with it.

It also takes the time from a wish to its fulfilment: a fire or a new job until its command is
here, a changed schedule until its ack has its receipt.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from backhaul.wire.jobs import Outcome
from backhaul.wire.reports import JobFinished
from backhaul_agent.simulation.figures import Figures

FIRE, POST, EDIT = "fire to command", "job POST to agent", "schedule edit to ack"


@dataclass(frozen=True)
class Told:
    """The end of a job that the server gave a receipt for."""

    attempt: int
    outcome: Outcome
    log_lines: int


@dataclass
class Ledger:
    """Everything that must be found again at the end."""

    figures: Figures
    clock_s: Callable[[], float] = time.monotonic
    fired: dict[UUID, list[datetime]] = field(default_factory=dict)
    """The slots of each schedule for which its agent fired."""
    made: set[UUID] = field(default_factory=set)
    """The jobs that the operator was told to be made."""
    runs: Counter[tuple[UUID, int]] = field(default_factory=Counter)
    """How often a job was begun on its host, by attempts."""
    ends: dict[UUID, Told] = field(default_factory=dict)
    """The last end that was told of each job."""
    _arrived_s: dict[UUID, float] = field(default_factory=dict)
    _awaited: dict[UUID, tuple[str, float]] = field(default_factory=dict)

    def note_fire(self, schedule_id: UUID, slot: datetime, job_id: UUID, *, is_timed: bool) -> None:
        self.fired.setdefault(schedule_id, []).append(slot)
        self.figures.fires += 1
        if is_timed:
            self._awaited[job_id] = (FIRE, self.clock_s())

    def note_post(self, job_id: UUID, *, since_s: float) -> None:
        """A job was made, by a request that was begun then. Its command may be here already."""
        self.made.add(job_id)
        arrived_s = self._arrived_s.pop(job_id, None)
        if arrived_s is None:
            self._awaited[job_id] = (POST, since_s)
        else:
            self.figures.note_latency(POST, arrived_s - since_s)

    def note_command(
        self, job_id: UUID, *, is_operators: bool, is_timed_since: Callable[[float], bool]
    ) -> None:
        """A command is here. `is_timed_since` says no of a fire that had to wait for its turn on
        the repository, by the moment of the fire."""
        awaited = self._awaited.pop(job_id, None)
        if awaited is None:
            if is_operators and job_id not in self.made:
                self._arrived_s[job_id] = self.clock_s()
            return
        name, since_s = awaited
        if name != FIRE or is_timed_since(since_s):
            self.figures.note_latency(name, self.clock_s() - since_s)

    def note_run(self, job_id: UUID, attempt: int) -> None:
        self.runs[job_id, attempt] += 1
        self.figures.begun += 1

    def note_end(self, finished: JobFinished) -> None:
        self.ends[finished.job_id] = Told(finished.attempt, finished.outcome, finished.log_lines)
        self.figures.ended += 1
