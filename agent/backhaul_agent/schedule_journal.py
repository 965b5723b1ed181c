"""The schedules of this host on disk: the set, the place of each timer, and what fired.

What is written together is one transaction: a set with its ack, and a fire with the new place of
its timer. So a crash repeats a report, and never loses a slot nor fires one twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from backhaul.wire.schedules import ScheduleAck, ScheduleFire
from backhaul_agent import spool_table
from backhaul_agent.journal_file import JournalFile
from backhaul_agent.schedule_entries import ReceivedEntry, read_entry
from backhaul_agent.timers import Timer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class StoredSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as the journal has it."""

    received: ReceivedEntry
    settled_until: datetime | None
    """None when it did not run."""
    settled_before: datetime | None
    fired: frozenset[datetime]


class ScheduleJournal:
    """The tables of schedules, and what must be written together with them."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def load_version(self) -> int:
        """Give the version of the set that was applied last; 0 before the first."""
        with self._file.transaction() as connection:
            row = connection.execute("SELECT schedule_version FROM applied_set").fetchone()
        return int(row[0]) if row else 0

    def load(self) -> list[StoredSchedule]:
        with self._file.transaction() as connection:
            rows = connection.execute(
                "SELECT schedule_id, entry, settled_until, settled_before FROM schedules"
                " ORDER BY position"
            ).fetchall()
            return [
                StoredSchedule(
                    received=read_entry(raw),
                    settled_until=_read_moment(settled),
                    settled_before=_read_moment(before),
                    fired=_list_fired(connection, schedule_id),
                )
                for schedule_id, raw, settled, before in rows
            ]

    def load_fired(self, schedule_ids: Iterable[UUID]) -> dict[UUID, frozenset[datetime]]:
        """Give the slots that schedules fired lately, also those that do not run at present."""
        with self._file.transaction() as connection:
            return {one: _list_fired(connection, str(one)) for one in schedule_ids}

    def apply(
        self, ack: ScheduleAck, entries: Iterable[ReceivedEntry], timers: Iterable[Timer]
    ) -> None:
        """Follow another set from now on, with its ack."""
        places = {timer.schedule_id: _write_place(timer) for timer in timers}
        nowhere = (None, None)
        rows = [
            (str(one.schedule_id), one.raw, *places.get(one.schedule_id, nowhere))
            for one in entries
        ]
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM schedules")
            connection.executemany(
                "INSERT INTO schedules (schedule_id, entry, settled_until, settled_before)"
                " VALUES (?, ?, ?, ?)",
                rows,
            )
            connection.execute(
                "DELETE FROM fired_slots"
                " WHERE schedule_id NOT IN (SELECT schedule_id FROM schedules)"
            )
            _save_ack(connection, ack)

    def acknowledge_again(self, ack: ScheduleAck) -> bool:
        """Put another ack of the applied set into the spool. False when it says nothing new.

        The spool keeps their order, so the errors that the server has in the end are the newest.
        """
        with self._file.transaction() as connection:
            known = connection.execute("SELECT errors FROM applied_set").fetchone()
            if known is None or known[0] == msgspec.json.encode(ack.errors):
                return False
            _save_ack(connection, ack)
        return True

    def fire(
        self, fire: ScheduleFire, *, before: Timer, after: Timer, in_flight: Collection[int]
    ) -> ScheduleFire:
        """Put a fire into the spool, and settle its slot. Gives the fire with all it stands for."""
        schedule_id = str(fire.schedule_id)
        with self._file.transaction() as connection:
            _save_place(connection, after)
            connection.executemany(
                "INSERT OR IGNORE INTO fired_slots (schedule_id, slot) VALUES (?, ?)",
                [(schedule_id, _write_moment(slot)) for slot in after.fired - before.fired],
            )
            connection.executemany(
                "DELETE FROM fired_slots WHERE schedule_id = ? AND slot = ?",
                [(schedule_id, _write_moment(slot)) for slot in before.fired - after.fired],
            )
            return spool_table.put_fire(connection, fire, in_flight=in_flight)

    def save_places(self, timers: Sequence[Timer]) -> None:
        """Note the places of timers that moved without a fire."""
        with self._file.transaction() as connection:
            for timer in timers:
                _save_place(connection, timer)

    def list_waiting(self) -> list[UUID]:
        """List the schedules that have a fire without a receipt, and without a job here."""
        with self._file.transaction() as connection:
            rows = connection.execute(
                "SELECT DISTINCT schedule_id FROM spool WHERE schedule_id IS NOT NULL"
            )
            return [UUID(schedule_id) for (schedule_id,) in rows]


def _save_ack(connection: sqlite3.Connection, ack: ScheduleAck) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO applied_set (only, schedule_version, errors) VALUES (1, ?, ?)",
        (ack.schedule_version, msgspec.json.encode(ack.errors)),
    )
    spool_table.put_ack(connection, ack)


def _save_place(connection: sqlite3.Connection, timer: Timer) -> None:
    connection.execute(
        "UPDATE schedules SET settled_until = ?, settled_before = ? WHERE schedule_id = ?",
        (*_write_place(timer), str(timer.schedule_id)),
    )


def _list_fired(connection: sqlite3.Connection, schedule_id: str) -> frozenset[datetime]:
    rows = connection.execute("SELECT slot FROM fired_slots WHERE schedule_id = ?", (schedule_id,))
    return frozenset(_EPOCH + slot * _MICROSECOND for (slot,) in rows)


def _write_place(timer: Timer) -> tuple[int, int | None]:
    before = timer.settled_before
    return _write_moment(timer.settled_until), None if before is None else _write_moment(before)


def _write_moment(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _read_moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + microseconds * _MICROSECOND
