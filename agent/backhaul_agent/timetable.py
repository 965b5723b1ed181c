"""The timers of a host, in the order in which they want to be looked at. In memory only.

Asking whether anything is due costs the same for one schedule and for thousands: the first of a
heap is compared with the clock, and no cron expression is evaluated.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime
from uuid import UUID

from backhaul_agent.timers import Timer


class Timetable:
    """Timers by schedule. A timer that `pop_due` gave out comes back with `put`."""

    def __init__(self) -> None:
        self._timers: dict[UUID, Timer] = {}
        self._looks: dict[UUID, datetime] = {}
        self._heap: list[tuple[datetime, UUID]] = []

    def __iter__(self) -> Iterator[Timer]:
        return iter(self._timers.values())

    def __len__(self) -> int:
        return len(self._timers)

    def find(self, schedule_id: UUID) -> Timer | None:
        return self._timers.get(schedule_id)

    def put(self, timer: Timer, *, look_at: datetime | None = None) -> None:
        """Line a timer up for its next slot, or for an earlier moment."""
        moment = timer.next_at() if look_at is None else look_at
        self._timers[timer.schedule_id] = timer
        self._looks[timer.schedule_id] = moment
        heapq.heappush(self._heap, (moment, timer.schedule_id))

    def pop_due(self, now: datetime) -> list[Timer]:
        """Take out the timers whose moment has come, those first that wait longest."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            moment, schedule_id = heapq.heappop(self._heap)
            # A timer that was lined up twice is where it was put last.
            if self._looks.get(schedule_id) == moment:
                del self._looks[schedule_id]
                due.append(self._timers[schedule_id])
        return due

    def replace_all(self, timers: Iterable[Timer]) -> None:
        """Follow another set. A timer that is the same as before keeps its moment."""
        known, looks = self._timers, self._looks
        self._timers, self._looks, self._heap = {}, {}, []
        for timer in timers:
            is_same = known.get(timer.schedule_id) == timer
            self.put(timer, look_at=looks.get(timer.schedule_id) if is_same else None)

    def line_up_again(self, timers: Iterable[Timer]) -> None:
        """Follow these, each lined up for its next slot."""
        self._timers, self._looks, self._heap = {}, {}, []
        for timer in timers:
            self.put(timer)
