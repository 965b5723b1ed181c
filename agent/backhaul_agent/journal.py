"""The jobs that this host holds, on disk: persist, then act, then report.

    accepted -> claimed -> running -> finished -> (gone, once the server has the end)

accepted: the command is here, its ack is in the spool. claimed: the ack has its receipt, so the
server counts on us. Each step and the report of it are one transaction; a crash between two steps
repeats a report, and never loses a job nor runs one twice.

A job that this host begins by itself, for a schedule that fired while the server was away, starts
as claimed. Its fire, which is before it in the spool, says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import Literal
from uuid import UUID

import msgspec

from backhaul.wire.agents import HeldJob
from backhaul.wire.commands import CommandAck, CommandRun
from backhaul.wire.jobs import LogLine
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul.wire.schedules import RunTemplate, ScheduleEntry, build_scheduled_job_id
from backhaul.wire.wording import render_count
from backhaul_agent import spool_table
from backhaul_agent.journal_file import JournalFile
from backhaul_agent.process import Child

JobStep = Literal["accepted", "claimed", "running", "finished"]

MAX_KNOWN_JOBS = 10_000
"""How many past jobs are remembered: years of them, in well under a megabyte."""


class TakeUp(Enum):
    """What became of the wish to begin the job of a fire without the server."""

    BEGUN = auto()
    GONE = auto()
    """The fire has its receipt."""
    BUSY = auto()
    """Not now: the fire is under way to the server, or the schedule's last job is not over."""
    KNOWN = auto()
    """The job was here before: the server sent it, and only the receipt got lost."""


DEFAULT_SPOOL_LIMIT = 64 * 1024 * 1024
"""Bytes of what waits for the server, beyond which no more log lines are kept."""


class JournalJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the journal has it."""

    command: CommandRun
    step: JobStep
    log_lines: int
    child: Child | None
    noted_end: JobFinished | None = None
    """How restic's work has ended, while what comes after it goes on."""

    @property
    def id(self) -> UUID:
        return self.command.job_id


class Journal:
    """The jobs table, and what must be written together with it."""

    def __init__(self, file: JournalFile, *, spool_limit: int = DEFAULT_SPOOL_LIMIT) -> None:
        self._file = file
        self._spool_limit = spool_limit

    def accept(self, command: CommandRun) -> bool:
        """Take a command up, with its ack. False when this job was ever here: nothing changes."""
        job_id = str(command.job_id)
        with self._file.transaction() as connection:
            if not _remember(connection, command):
                return False
            connection.execute(
                "INSERT INTO jobs (job_id, attempt, command, state) VALUES (?, ?, ?, 'accepted')",
                (job_id, command.attempt, msgspec.json.encode(command)),
            )
            ack = CommandAck(job_id=command.job_id, attempt=command.attempt, is_accepted=True)
            spool_table.put(connection, ack, job_id=job_id)
        return True

    def claim_again(self) -> int:
        """Put the ack of every job that waits into the spool again, and give their number.

        For the start of a process: meanwhile the server may have given a job up, and its receipt
        says so. Jobs that this host began by itself go on; the server has yet to hear of them.
        """
        with self._file.transaction() as connection:
            waiting = connection.execute(
                "SELECT job_id, attempt FROM jobs WHERE state IN ('accepted', 'claimed')"
                " AND schedule_id IS NULL ORDER BY position"
            ).fetchall()
            for job_id, attempt in waiting:
                connection.execute("UPDATE jobs SET state = 'accepted' WHERE job_id = ?", (job_id,))
                connection.execute(
                    "DELETE FROM spool WHERE job_id = ? AND type = 'command.ack'", (job_id,)
                )
                ack = CommandAck(job_id=UUID(job_id), attempt=attempt, is_accepted=True)
                spool_table.put(connection, ack, job_id=job_id)
        return len(waiting)

    def refuse(self, command: CommandRun, *, reason: str) -> bool:
        """Put the refusal of a command into the spool. False when this job was ever here."""
        with self._file.transaction() as connection:
            if not _remember(connection, command):
                return False
            ack = CommandAck(
                job_id=command.job_id, attempt=command.attempt, is_accepted=False, reason=reason
            )
            spool_table.put(connection, ack, job_id=None)
        return True

    def take_up(
        self, entry: ScheduleEntry, template: RunTemplate, *, in_flight: Collection[int]
    ) -> TakeUp:
        """Begin the job of a schedule's fire by its template, and have the fire say so.

        Any later `command.run` for this job changes nothing, whatever the server knew meanwhile.
        """
        key = (str(entry.schedule_id),)
        with self._file.transaction() as connection:
            fires = spool_table.list_fires(connection, entry.schedule_id)
            if not fires:
                return TakeUp.GONE
            at_work = connection.execute(
                "SELECT 1 FROM jobs WHERE schedule_id = ? AND state != 'finished'", key
            )
            if at_work.fetchone() or any(one.position in in_flight for one in fires):
                return TakeUp.BUSY
            spooled = fires[-1]
            fire = spool_table.read_fire(spooled)
            job_id = build_scheduled_job_id(fire.schedule_id, fire.scheduled_at)
            command = _build_command(entry, template, job_id)
            if not _remember(connection, command):
                return TakeUp.KNOWN
            connection.execute(
                "INSERT INTO jobs (job_id, attempt, command, state, schedule_id)"
                " VALUES (?, ?, ?, 'claimed', ?)",
                (str(job_id), command.attempt, msgspec.json.encode(command), *key),
            )
            begun = msgspec.structs.replace(
                fire,
                ran_offline=True,
                arguments=template.arguments,
                repository_id=template.repository_id,
            )
            spool_table.keep_fire(connection, spooled.position, begun)
        return TakeUp.BEGUN

    def start(self, started: JobStarted) -> None:
        """Note that restic is about to run, with the report of it."""
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'running' WHERE job_id = ?", (str(started.job_id),)
            )
            spool_table.put(connection, started, job_id=str(started.job_id))

    def record_child(self, job_id: UUID, child: Child | None) -> None:
        """Note which process works for the job, for an agent that comes after a crash."""
        pid, started = (child.pid, child.started) if child else (None, None)
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET pid = ?, pid_started = ? WHERE job_id = ?",
                (pid, started, str(job_id)),
            )

    def note_end(self, finished: JobFinished) -> None:
        """Note how the work of a job has ended before what comes after it (the list of what is in
        the repository now): an agent that dies in between reports this, and not that it failed."""
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET noted_end = ? WHERE job_id = ? AND state = 'running'",
                (msgspec.json.encode(finished), str(finished.job_id)),
            )

    def append_log(self, job_id: UUID, *, attempt: int, lines: Sequence[LogLine]) -> None:
        """Number log lines and put them into the spool; or, when that is full, count them.

        Room is made first by dropping what the server has and is kept for the case that it loses
        it. Lines that still do not fit get no numbers; one line will stand in their place.
        """
        key = str(job_id)
        with self._file.transaction() as connection:
            if not spool_table.make_room(connection, lines, limit=self._spool_limit):
                connection.execute(
                    "UPDATE jobs SET lines_left_out = lines_left_out + ? WHERE job_id = ?",
                    (len(lines), key),
                )
                return
            gap = _close_gap(connection, key, at=lines[0].at)
            _append_log(connection, job_id, attempt, (*gap, *lines))

    def finish(self, finished: JobFinished, *, left_out: int = 0) -> None:
        """Note the end with its report; `log_lines` is filled in here. Idempotent.

        `left_out` is how many of the last lines of the log there was no room for.
        """
        job_id = str(finished.job_id)
        with self._file.transaction() as connection:
            moved = connection.execute(
                "UPDATE jobs SET state = 'finished', pid = NULL, pid_started = NULL,"
                " lines_left_out = lines_left_out + ?"
                " WHERE job_id = ? AND state != 'finished'",
                (left_out, job_id),
            )
            if moved.rowcount == 0:
                return
            gap = _close_gap(connection, job_id, at=finished.at)
            if gap:
                _append_log(connection, finished.job_id, finished.attempt, gap)
            count = _count_log(connection, finished.job_id)
            report = msgspec.structs.replace(finished, log_lines=count)
            spool_table.put(connection, report, job_id=job_id)

    def held(self) -> tuple[HeldJob, ...]:
        """Build what a poll says of the jobs here."""
        names: dict[JobStep, Literal["accepted", "running", "finished"]] = {
            "accepted": "accepted",
            "claimed": "accepted",
            "running": "running",
            "finished": "finished",
        }
        return tuple(
            HeldJob(job_id=job.id, attempt=job.command.attempt, state=names[job.step])
            for job in self._list()
        )

    def find(self, job_id: UUID) -> JournalJob | None:
        return next((job for job in self._list() if job.id == job_id), None)

    def next_claimed(self, *, besides: Collection[UUID] = ()) -> JournalJob | None:
        """Find the job whose turn it is: of those with the highest priority the one that came
        first, besides those that are about to start."""
        claimed = [job for job in self._list() if job.step == "claimed" and job.id not in besides]
        return max(claimed, key=lambda job: job.command.priority, default=None)

    def left_running(self) -> tuple[JournalJob, ...]:
        """List the jobs that ran when the last process of the agent ended."""
        return tuple(job for job in self._list() if job.step == "running")

    def _list(self) -> list[JournalJob]:
        with self._file.transaction() as connection:
            rows = connection.execute(
                "SELECT command, state, log_lines, pid, pid_started, noted_end FROM jobs"
                " ORDER BY position"
            )
            return [_read(*row) for row in rows]


def _read(  # noqa: PLR0917 (a row)
    command: bytes,
    step: JobStep,
    log_lines: int,
    pid: int | None,
    pid_started: int | None,
    noted_end: bytes | None,
) -> JournalJob:
    return JournalJob(
        command=msgspec.json.decode(command, type=CommandRun),
        step=step,
        log_lines=log_lines,
        child=Child(pid=pid, started=pid_started or 0) if pid else None,
        noted_end=msgspec.json.decode(noted_end, type=JobFinished) if noted_end else None,
    )


def _build_command(entry: ScheduleEntry, template: RunTemplate, job_id: UUID) -> CommandRun:
    return CommandRun(
        job_id=job_id,
        attempt=1,
        kind=entry.kind,
        arguments=msgspec.Raw(msgspec.json.encode(template.arguments)),
        repository_id=template.repository_id,
        credentials=template.credentials,
        max_duration=entry.max_duration,
    )


def _remember(connection: sqlite3.Connection, command: CommandRun) -> bool:
    job_id = str(command.job_id)
    # A new attempt must wait until the one before it is off the journal.
    if connection.execute("SELECT 1 FROM jobs WHERE job_id = ?", (job_id,)).fetchone():
        return False
    added = connection.execute(
        "INSERT INTO known_jobs (job_id, attempt) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (job_id, command.attempt),
    )
    connection.execute(
        "DELETE FROM known_jobs WHERE position <= (SELECT max(position) FROM known_jobs) - ?",
        (MAX_KNOWN_JOBS,),
    )
    return added.rowcount == 1


def _append_log(
    connection: sqlite3.Connection, job_id: UUID, attempt: int, lines: Sequence[LogLine]
) -> None:
    seq = _count_log(connection, job_id)
    connection.execute(
        "UPDATE jobs SET log_lines = ? WHERE job_id = ?", (seq + len(lines), str(job_id))
    )
    log = JobLog(job_id=job_id, attempt=attempt, seq=seq, lines=tuple(lines))
    spool_table.put(connection, log, job_id=str(job_id))


def _close_gap(connection: sqlite3.Connection, job_id: str, *, at: datetime) -> tuple[LogLine, ...]:
    """Build the line that stands for those that there was no room for, if there are any."""
    row = connection.execute(
        "SELECT lines_left_out FROM jobs WHERE job_id = ?", (job_id,)
    ).fetchone()
    if row is None or row[0] == 0:
        return ()
    connection.execute("UPDATE jobs SET lines_left_out = 0 WHERE job_id = ?", (job_id,))
    text = f"({render_count(row[0], 'line')} left out here: the agent had no room for them)"
    return (LogLine(at=at, stream="agent", text=text),)


def _count_log(connection: sqlite3.Connection, job_id: UUID) -> int:
    row = connection.execute(
        "SELECT log_lines FROM jobs WHERE job_id = ?", (str(job_id),)
    ).fetchone()
    return int(row[0]) if row else 0
