"""Whether the server has everything that happened, once: the verdict over a simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from backhaul.cron import Cron
from backhaul.wire.jobs import (
    OUTCOME_EVENTS,
    REVIVED_STATES,
    TERMINAL_STATES,
    Job,
    JobEvent,
    JobState,
    move,
)
from backhaul.wire.schedules import Schedule
from backhaul_agent.simulation.ledger import Ledger, Told

_INSTANT = timedelta(microseconds=1)
_GIVEN_UP = frozenset({JobState.LOST, JobState.EXPIRED})


@dataclass
class Verdict:
    """Findings, each a line for people."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.stuck)


def judge(ledger: Ledger, jobs: Sequence[Job], crons: Mapping[UUID, Cron]) -> Verdict:
    """Compare what the agents did with what the server says, by jobs and by slots.

    `jobs` are all of the simulated hosts, `crons` the expressions of the schedules that they follow
    at the end.
    """
    verdict = Verdict()
    known = {job.id: job for job in jobs}
    verdict.lost += [f"job {one} is not there any more" for one in ledger.made - known.keys()]
    for job in jobs:
        _judge_job(verdict, job, ledger.ends.get(job.id))
    for (job_id, attempt), count in ledger.runs.items():
        if job_id not in known:
            verdict.lost.append(f"job {job_id} was run, and the server knows nothing of it")
        if count > 1:
            verdict.doubled.append(f"job {job_id} was run {count} times in attempt {attempt}")
    by_schedule: dict[UUID, list[Job]] = {}
    for job in jobs:
        if job.schedule_id is not None:
            by_schedule.setdefault(job.schedule_id, []).append(job)
    for schedule_id, slots in ledger.fired.items():
        # One that somebody has deleted meanwhile may have fired no more.
        if (cron := crons.get(schedule_id)) is not None:
            _judge_slots(verdict, schedule_id, slots, by_schedule.get(schedule_id, []), cron)
    return verdict


def find_unfollowed(schedules: Iterable[Schedule], crons: Mapping[UUID, Cron]) -> list[str]:
    """Find the schedules of the server that their hosts do not follow, or not any more: no fire is
    missing of one that nobody has heard of. Each is a line for people."""
    return [
        f"host {one.host} does not follow schedule {one.id}"
        for one in schedules
        if one.enabled and one.id not in crons
    ]


def _judge_job(verdict: Verdict, job: Job, told: Told | None) -> None:
    if job.state in _GIVEN_UP:
        verdict.lost.append(f"job {job.id} is {job.state}: {job.message}")
    elif job.state not in TERMINAL_STATES | REVIVED_STATES:
        verdict.stuck.append(f"job {job.id} of {job.host} is {job.state}")
    elif told is not None and told.attempt == job.attempt:
        expected = _find_state(told)
        if job.state is not expected:
            verdict.lost.append(f"job {job.id} is {job.state}, and was told to be {expected}")
        if job.log_lines != told.log_lines:
            verdict.lost.append(
                f"job {job.id} has {job.log_lines} log lines of the {told.log_lines} that were sent"
            )
    elif told is None and job.accepted_at is not None:
        verdict.lost.append(f"job {job.id} is {job.state}, which no agent has told")


def _find_state(told: Told) -> JobState:
    event: JobEvent = OUTCOME_EVENTS[told.outcome]
    return move(JobState.RUNNING, event)


def _judge_slots(
    verdict: Verdict,
    schedule_id: UUID,
    fired: Sequence[datetime],
    jobs: Sequence[Job],
    cron: Cron,
) -> None:
    """Require every slot from the first that was fired to the last to have one job."""
    covered = Counter(slot for job in jobs for slot in list_covered(job, cron))
    expected = {*fired, *_list_between(min(fired), max(fired), cron)}
    verdict.lost += [
        f"slot {slot:%Y-%m-%d %H:%M} of schedule {schedule_id} has no job"
        for slot in sorted(expected)
        if not covered[slot]
    ]
    verdict.doubled += [
        f"slot {slot:%Y-%m-%d %H:%M} of schedule {schedule_id} has {count} jobs"
        for slot, count in sorted(covered.items())
        if count > 1
    ]


def list_covered(job: Job, cron: Cron) -> Iterator[datetime]:
    """List the slots that a job stands for: its own, and the missed ones before it."""
    slot = job.scheduled_at
    for _ in range(job.missed + 1):
        if slot is None:
            return
        yield slot
        slot = cron.last_until(slot - _INSTANT)


def _list_between(first: datetime, last: datetime, cron: Cron) -> Iterator[datetime]:
    for slot in cron.iterate_after(first):
        if slot >= last:
            return
        yield slot
