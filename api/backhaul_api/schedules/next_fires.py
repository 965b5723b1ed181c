"""When schedules fire next, remembered until then: a list of hosts costs no cron.

In memory only, and right without it: another process, or this one after a restart, computes anew.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from uuid import UUID

from backhaul.wire.schedules import Schedule
from backhaul_api.schedules import rules

MAX_REMEMBERED = 200_000
"""About 100 bytes each; beyond it, the least used are computed again."""


class NextFires:
    """The next fire of each schedule, by its id and revision."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[UUID, int], tuple[datetime, datetime]] = OrderedDict()

    def find(self, schedule: Schedule, now: datetime) -> datetime | None:
        """Find when the schedule fires next, as `rules.find_next_fire` does."""
        if not schedule.enabled:
            return None
        key = (schedule.id, schedule.revision)
        if (known := self._known.get(key)) is not None:
            computed_at, next_fire = known
            # Nothing lies between: the answer stays the same until the fire. A clock can step back.
            if computed_at <= now < next_fire:
                self._known.move_to_end(key)
                return next_fire
        found = rules.find_next_fire(schedule, now)
        if found is not None:
            self._remember(key, (now, found))
        return found

    def _remember(self, key: tuple[UUID, int], value: tuple[datetime, datetime]) -> None:
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)


NEXT_FIRES = NextFires()
"""This process's."""
