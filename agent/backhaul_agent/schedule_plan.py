"""What a set of schedules becomes on this host: timers to follow, and entries to skip and why."""

from __future__ import annotations

import logging
from datetime import datetime
from uuid import UUID

import msgspec

from backhaul.cron import CronError
from backhaul.wire.schedules import ScheduleAck, ScheduleEntry
from backhaul_agent.logs import fields
from backhaul_agent.schedule_entries import ReceivedEntry, ReceivedSet, read_entry
from backhaul_agent.timers import Timer, build_timer, revise_timer

log = logging.getLogger(__name__)


class Plan:
    """Put together entry by entry."""

    def __init__(self, *, host_id: UUID) -> None:
        self._host_id = host_id
        self.received: dict[UUID, ReceivedEntry] = {}
        self.entries: dict[UUID, ScheduleEntry] = {}
        self.timers: list[Timer] = []

    @property
    def skipped(self) -> list[ReceivedEntry]:
        return [one for one in self.received.values() if one.error is not None]

    def add(
        self,
        received: ReceivedEntry,
        *,
        settled_until: datetime,
        fired: frozenset[datetime],
        settled_before: datetime | None = None,
        is_new: bool = False,
    ) -> None:
        """Take an entry up as one that goes on from a moment, or is new at it.

        A new one lives behind the clock by its jitter, as they all do: a slot that passed less than
        that ago is still to come.
        """
        entry = received.entry
        if entry is None:
            self.received[received.schedule_id] = received
            return
        try:
            timer = build_timer(
                entry,
                host_id=self._host_id,
                settled_until=settled_until,
                fired=fired,
                settled_before=settled_before,
            )
            timer = timer.begin(settled_until) if is_new else timer
        except CronError as error:
            message = f"{error.what}: {error}"
            self.received[received.schedule_id] = received.with_error(message)
            return
        self._take(received, entry, timer)

    def keep(self, received: ReceivedEntry, known: Timer) -> None:
        """Take an entry up as one that goes on, perhaps with other policies."""
        entry = received.entry
        assert entry is not None  # noqa: S101 (only one that was read can be unchanged)
        self._take(received, entry, revise_timer(known, entry, host_id=self._host_id))

    def _take(self, received: ReceivedEntry, entry: ScheduleEntry, timer: Timer) -> None:
        self.received[received.schedule_id] = received
        self.entries[entry.schedule_id] = entry
        if entry.enabled:
            self.timers.append(timer)

    def build_ack(self, version: int) -> ScheduleAck:
        return ScheduleAck(
            schedule_version=version, errors=tuple(one.report() for one in self.skipped)
        )

    def log_errors(self) -> None:
        for one in self.skipped:
            log.warning(
                "schedule.unusable", extra=fields(schedule_id=one.schedule_id, reason=one.error)
            )


def read_entries(received: ReceivedSet) -> list[ReceivedEntry]:
    """Read the entries of a set; of two with one id, neither is believed."""
    entries: dict[UUID, ReceivedEntry] = {}
    for raw in received.schedules:
        try:
            entry = read_entry(bytes(raw))
        except msgspec.DecodeError as error:
            log.warning("schedule.unreadable", extra=fields(reason=str(error)))
            continue
        if entry.schedule_id in entries:
            entry = entries[entry.schedule_id].with_error("the set names this schedule twice")
        entries[entry.schedule_id] = entry
    return list(entries.values())
