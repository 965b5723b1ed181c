"""The spool on disk: envelopes for the server, in order, kept until their receipt has come.

Functions over an open transaction, so that an envelope can be written together with what it tells.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

import msgspec

from backhaul.wire.agents import Hello, UpEnvelope
from backhaul.wire.jobs import LogLine
from backhaul.wire.reports import JobLog
from backhaul.wire.schedules import ScheduleAck, ScheduleFire, build_scheduled_job_id
from backhaul_agent.timers import MISSED_COUNTED

_FILLER_LINES = 1000
"""Lines in one envelope that stands for lost ones: well below the size of a batch."""


class Spooled(msgspec.Struct, frozen=True, kw_only=True):
    """An envelope in the spool."""

    position: int
    type: str
    job_id: UUID | None
    body: bytes
    schedule_id: UUID | None = None
    """Of a fire that may still be replaced by a later one."""


def put(connection: sqlite3.Connection, envelope: UpEnvelope, *, job_id: str | None) -> None:
    """Append an envelope."""
    connection.execute(
        "INSERT INTO spool (type, job_id, body) VALUES (?, ?, ?)",
        (type_of(envelope), job_id, msgspec.json.encode(envelope)),
    )


def put_first(connection: sqlite3.Connection, hello: Hello) -> None:
    """Put the hello of this process before everything; one that waits already is replaced."""
    connection.execute("DELETE FROM spool WHERE type = 'hello'")
    connection.execute(
        "INSERT INTO spool (position, type, body)"
        " VALUES ((SELECT coalesce(min(position), 1) - 1 FROM spool), 'hello', ?)",
        (msgspec.json.encode(hello),),
    )


def list_unsent(
    connection: sqlite3.Connection, *, limit: int, besides: Sequence[str] = ()
) -> list[Spooled]:
    """List the oldest envelopes that have no receipt, besides those of some subjects."""
    rows = connection.execute(
        "SELECT position, type, job_id, body, schedule_id FROM spool WHERE is_sent = 0"
        " ORDER BY position"
    )
    found: list[Spooled] = []
    for row in rows:
        spooled = _read(*row)
        if besides and not list_subjects(spooled).isdisjoint(besides):
            continue
        found.append(spooled)
        if len(found) == limit:
            break
    return found


def list_subjects(spooled: Spooled) -> set[str]:
    """Name what an envelope is about: a job, or a schedule and the job that its fire makes."""
    if spooled.type == "schedule.fire":
        fire = read_fire(spooled)
        job_id = build_scheduled_job_id(fire.schedule_id, fire.scheduled_at)
        return {str(fire.schedule_id), str(job_id)}
    return {str(spooled.position) if spooled.job_id is None else str(spooled.job_id)}


def make_room(connection: sqlite3.Connection, lines: Sequence[LogLine], *, limit: int) -> bool:
    """Tell whether log lines fit into the spool, after dropping what it could do without.

    Only log lines have to fit. A fire or a result always goes in: they are few, and cannot be
    told again.
    """
    needed = len(msgspec.json.encode(lines))
    if _measure(connection) + needed <= limit:
        return True
    connection.execute("DELETE FROM spool WHERE type = 'job.log' AND is_sent = 1")
    return _measure(connection) + needed <= limit


def _measure(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(sum(length(body)), 0) FROM spool").fetchone()[0])


def give_back(connection: sqlite3.Connection, spooled: Spooled) -> None:
    """Forget a job whose turn has not come, as if it had never been here: it is sent again."""
    job_id = str(spooled.job_id)
    connection.execute("DELETE FROM spool WHERE position = ?", (spooled.position,))
    row = connection.execute(
        "DELETE FROM jobs WHERE job_id = ? AND state = 'accepted' RETURNING attempt", (job_id,)
    ).fetchone()
    if row is not None:
        connection.execute(
            "DELETE FROM known_jobs WHERE job_id = ? AND attempt = ?", (job_id, row[0])
        )


def settle(connection: sqlite3.Connection, spooled: Spooled, *, is_refused: bool) -> None:
    """Draw the consequences of a receipt, or of giving an envelope up."""
    if spooled.type == "job.log" and not is_refused:
        connection.execute("UPDATE spool SET is_sent = 1 WHERE position = ?", (spooled.position,))
        return
    connection.execute("DELETE FROM spool WHERE position = ?", (spooled.position,))
    job_id = str(spooled.job_id)
    if spooled.type == "command.ack" and spooled.job_id is not None:
        _settle_claim(connection, job_id, is_refused=is_refused)
    elif spooled.type == "job.finished":
        connection.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
        connection.execute("DELETE FROM spool WHERE job_id = ? AND type = 'job.log'", (job_id,))


def _settle_claim(connection: sqlite3.Connection, job_id: str, *, is_refused: bool) -> None:
    if is_refused:
        connection.execute("DELETE FROM jobs WHERE job_id = ? AND state = 'accepted'", (job_id,))
        return
    connection.execute(
        "UPDATE jobs SET state = 'claimed' WHERE job_id = ? AND state = 'accepted'", (job_id,)
    )


def put_ack(connection: sqlite3.Connection, ack: ScheduleAck) -> None:
    """Append the ack of a set; those of older sets have nothing more to say."""
    connection.execute("DELETE FROM spool WHERE type = 'schedule.ack'")
    put(connection, ack, job_id=None)


def put_fire(
    connection: sqlite3.Connection, fire: ScheduleFire, *, in_flight: Collection[int]
) -> ScheduleFire:
    """Append a fire. It stands for those of its schedule that wait, which go, and counts them.

    A fire that is under way to the server right now stays: nobody can take it back.
    """
    for older in list_fires(connection, fire.schedule_id):
        if older.position not in in_flight:
            fire = stand_for(fire, older)
            connection.execute("DELETE FROM spool WHERE position = ?", (older.position,))
    connection.execute(
        "INSERT INTO spool (type, schedule_id, body) VALUES (?, ?, ?)",
        (type_of(fire), str(fire.schedule_id), msgspec.json.encode(fire)),
    )
    return fire


def merge_fires(connection: sqlite3.Connection) -> None:
    """Leave one fire of each schedule, after those under way came back without a receipt."""
    schedules = connection.execute(
        "SELECT schedule_id FROM spool WHERE schedule_id IS NOT NULL"
        " GROUP BY schedule_id HAVING count(*) > 1"
    ).fetchall()
    for (schedule_id,) in schedules:
        *older, newest = list_fires(connection, UUID(schedule_id))
        fire = read_fire(newest)
        for one in older:
            fire = stand_for(fire, one)
            connection.execute("DELETE FROM spool WHERE position = ?", (one.position,))
        connection.execute(
            "UPDATE spool SET body = ? WHERE position = ?",
            (msgspec.json.encode(fire), newest.position),
        )


def list_fires(connection: sqlite3.Connection, schedule_id: UUID) -> list[Spooled]:
    """List the fires of a schedule that have no receipt and no job here, oldest first."""
    rows = connection.execute(
        "SELECT position, type, job_id, body, schedule_id FROM spool WHERE schedule_id = ?"
        " ORDER BY position",
        (str(schedule_id),),
    )
    return [_read(*row) for row in rows]


def keep_fire(connection: sqlite3.Connection, position: int, fire: ScheduleFire) -> None:
    """Rewrite a fire in its place, for one whose job is here: no later fire may replace it."""
    connection.execute(
        "UPDATE spool SET body = ?, schedule_id = NULL WHERE position = ?",
        (msgspec.json.encode(fire), position),
    )


def read_fire(spooled: Spooled) -> ScheduleFire:
    return msgspec.json.decode(spooled.body, type=ScheduleFire)


def rewind_log(
    connection: sqlite3.Connection, job_id: UUID, *, expected_seq: int, filler: LogLine
) -> int:
    """Line up again what the server misses of a job: its log from one line on, then the rest.

    Lines that are not here any more are stood in for by `filler`, so that the log closes up and
    the job can end. Gives the number of lines that were lost.
    """
    key = (str(job_id),)
    logs = _list_logs(connection, job_id)
    job = connection.execute("SELECT attempt, log_lines FROM jobs WHERE job_id = ?", key).fetchone()
    attempt, end = job or (1, expected_seq)
    missing = [log for log in logs if log.seq + len(log.lines) > expected_seq]
    holes = list(_find_holes(missing, start=expected_seq, end=end))
    fillers = [
        JobLog(job_id=job_id, attempt=attempt, seq=seq, lines=(filler,) * count)
        for seq, count in holes
    ]
    rest = connection.execute(
        "SELECT type, job_id, body FROM spool WHERE job_id = ? AND is_sent = 0"
        " AND type != 'job.log' ORDER BY position",
        key,
    ).fetchall()
    connection.execute("DELETE FROM spool WHERE job_id = ? AND is_sent = 0", key)
    for log in missing:
        # Also what was sent and lost there; what is before expected_seq stays as it is.
        connection.execute(
            "DELETE FROM spool WHERE job_id = ? AND body = ?", (*key, msgspec.json.encode(log))
        )
    for log in sorted([*missing, *fillers], key=lambda log: log.seq):
        put(connection, log, job_id=str(job_id))
    connection.executemany("INSERT INTO spool (type, job_id, body) VALUES (?, ?, ?)", rest)
    return sum(count for _, count in holes)


def _list_logs(connection: sqlite3.Connection, job_id: UUID) -> list[JobLog]:
    rows = connection.execute(
        "SELECT body FROM spool WHERE job_id = ? AND type = 'job.log'", (str(job_id),)
    )
    logs = [msgspec.json.decode(body, type=JobLog) for (body,) in rows]
    return sorted(logs, key=lambda log: log.seq)


def _find_holes(logs: Sequence[JobLog], *, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Name the stretches that no envelope covers, as (first line, number of lines)."""
    seq = start
    for log_seq, log_end in [*((log.seq, log.seq + len(log.lines)) for log in logs), (end, end)]:
        while seq < log_seq:
            count = min(_FILLER_LINES, log_seq - seq)
            yield seq, count
            seq += count
        seq = max(seq, log_end)


def stand_for(fire: ScheduleFire, older: Spooled) -> ScheduleFire:
    """Give a fire that also stands for an older one of its schedule, which goes."""
    replaced = read_fire(older)
    since = min(
        replaced.missed_since or replaced.scheduled_at, fire.missed_since or fire.scheduled_at
    )
    return msgspec.structs.replace(
        fire,
        missed=min(fire.missed + 1 + replaced.missed, MISSED_COUNTED),
        # That one may have got to the server, without a receipt.
        missed_since=since,
    )


def _read(
    position: int, type_: str, job_id: str | None, body: bytes, schedule_id: str | None
) -> Spooled:
    return Spooled(
        position=position,
        type=type_,
        job_id=UUID(job_id) if job_id else None,
        body=body,
        schedule_id=UUID(schedule_id) if schedule_id else None,
    )


def type_of(envelope: UpEnvelope) -> str:
    """Name an envelope as the wire does."""
    return str(type(envelope).__struct_config__.tag)
