"""A second opinion on cron: walks every minute of the world and looks at the clock on the wall.

Shares no code and no idea with `backhaul.cron`: no croniter, no arithmetic with offsets, no search
for changes of the clock. It is slow, and right by inspection.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


@dataclass(frozen=True)
class Wall:
    """The clocks on the wall of a zone, minute by minute: UTC minutes beside local ones."""

    utc: list[datetime]
    local: list[datetime]

    @classmethod
    def of(cls, zone: ZoneInfo, begin: datetime, end: datetime) -> Wall:
        """Walk from one UTC minute to another."""
        count = int((end - begin) / MINUTE)
        utc = [begin + MINUTE * index for index in range(count)]
        return cls(utc, [minute.astimezone(zone).replace(tzinfo=None) for minute in utc])


def walk(expression: str, wall: Wall) -> list[datetime]:
    """Give the UTC minutes at which a plain five-field expression fires on these clocks."""
    fields = expression.lower().split()
    sets = [
        _read(fields[0], 0, 59, []),
        _read(fields[1], 0, 23, []),
        _read(fields[2], 1, 31, []),
        {index + 1 for index in _indexes(fields[3], 1, 12, _MONTHS)},
        {day % 7 for day in _read(fields[4], 0, 7, _WEEKDAYS)},
    ]
    has_starred_day = fields[2][0] == "*" or fields[4][0] == "*"
    if "*" in fields[0] or "*" in fields[1]:
        return [
            utc
            for utc, local in zip(wall.utc, wall.local, strict=True)
            if _shows(local, sets, has_starred_day=has_starred_day)
        ]
    return _walk_fixed(sets, wall, has_starred_day=has_starred_day)


def _walk_fixed(sets: list[set[int]], wall: Wall, *, has_starred_day: bool) -> list[datetime]:
    """Fire once for each wanted local minute: when it is first shown, or first jumped over."""
    fires = set()
    reached = wall.local[0] - MINUTE
    for utc, local in zip(wall.utc, wall.local, strict=True):
        # What is new on the wall since the furthest minute that it ever showed.
        while reached < local:
            reached += MINUTE
            if _shows(reached, sets, has_starred_day=has_starred_day):
                fires.add(utc)
    return sorted(fires)


def _shows(local: datetime, sets: list[set[int]], *, has_starred_day: bool) -> bool:
    minutes, hours, days, months, weekdays = sets
    if local.minute not in minutes or local.hour not in hours or local.month not in months:
        return False
    by_day, by_weekday = local.day in days, local.isoweekday() % 7 in weekdays
    return (by_day and by_weekday) if has_starred_day else (by_day or by_weekday)


def _read(text: str, low: int, high: int, names: list[str]) -> set[int]:
    return {value + low for value in _indexes(text, low, high, names)}


def _indexes(text: str, low: int, high: int, names: list[str]) -> set[int]:
    """Read a field into positions from its lowest value: 0 is `low`."""
    found: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        if span == "*":
            first, last = low, high
        else:
            begin, _, end = span.partition("-")
            first = _number(begin, low, names)
            last = _number(end, low, names) if end else first
        found |= {value - low for value in range(first, last + 1, int(step or 1))}
    return found


def _number(text: str, low: int, names: list[str]) -> int:
    return names.index(text) + low if text in names else int(text)


def window(zone: ZoneInfo, around: datetime, *, days: int) -> Wall:
    """Walk some days on both sides of a UTC moment."""
    middle = around.astimezone(UTC).replace(second=0, microsecond=0)
    return Wall.of(zone, middle - timedelta(days=days), middle + timedelta(days=days))
