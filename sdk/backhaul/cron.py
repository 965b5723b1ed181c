"""Cron: at which instants a schedule fires. The one evaluation that all three programs share.

Accepted are the five fields of cron, the @aliases, and `H`. croniter reads the fields; everything
about time zones is done here, by the rule of Debian's cron (cron(8), "DST"), which operators know:

- A fixed-time schedule, with no `*` in its minute and hour fields, fires exactly once for each
  local time that it names. When that time comes twice (autumn), at the first; when it falls into a
  gap (spring), at the end of the gap. Several times in one gap make one fire.
- A schedule with a `*` in either field follows elapsed time: every minute of the world whose local
  time matches, so twice in autumn and not at all within a gap.

When day of month and day of week are both restricted, either may match; a field that begins with
`*`, also `*/2`, counts as not restricted (crontab(5)).

`H` stands for a number that depends on the schedule's key only, so that a fleet spreads:
`H 2 * * *` is some minute of the hour from 2:00, `H(0-29)/10` every ten minutes of the first half
hour.

Needs croniter, which the extras `agent` and `api` install.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
# What `H` may become. A day after the 28th would be skipped in short months.
_HASH_RANGES = ((0, 59), (0, 23), (1, 28), (1, 12), (0, 6))
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_NUMBER = r"(?:\d{1,2}|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat)"
_ITEM = re.compile(rf"(?:\*(?:/\d+)?|{_NUMBER}|{_NUMBER}-{_NUMBER}(?:/\d+)?)", re.IGNORECASE)
_HASHED = re.compile(r"H(?:\((\d{1,2})-(\d{1,2})\))?(?:/(\d+))?", re.IGNORECASE)

# A 29 February that must also be a given weekday comes back after 40 years at the latest.
_HORIZON = timedelta(days=366 * 41)
_DAY = timedelta(days=1)
_DAYS_KEPT = 4


class CronError(ValueError):
    """An expression or a time zone is not acceptable; the message says what would be."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what
        """`cron` or `timezone`."""


def parse_cron(expression: str, timezone: str, *, hash_key: str | None = None) -> Cron:
    """Read an expression in an IANA time zone.

    Args:
        hash_key: what `H` depends on: the host's id and the schedule's id. Without it, an
            expression with `H` is refused.

    Raises:
        CronError: see there.
    """
    zone = _load_zone(timezone)
    fields = _split(expression)
    plain = [
        ",".join(_plain_item(index, item, hash_key) for item in text.split(","))
        for index, text in enumerate(fields)
    ]
    for index, text in enumerate(plain):
        _check_field(index, text)
    try:
        minutes, hours, days, months, weekdays = croniter.expand(" ".join(plain))[0]
    except CroniterError as error:
        raise CronError("cron", f"{expression!r} is not a cron expression: {error}") from error
    cron = Cron(
        expression=expression,
        zone=zone,
        is_fixed=not any(_is_starred(text) for text in fields[:2]),
        minutes=_expand(minutes, 0, 59),
        hours=_expand(hours, 0, 23),
        days=_expand(days, 1, 31),
        months=frozenset(_expand(months, 1, 12)),
        weekdays=frozenset(day % 7 for day in _expand(weekdays, 0, 6)),
        needs_both_days=plain[2].startswith("*") or plain[4].startswith("*"),
    )
    cron.check_fires()
    return cron


@dataclass(frozen=True)
class Cron:
    """When a schedule fires. Instants are aware and in UTC."""

    expression: str
    zone: ZoneInfo
    is_fixed: bool
    """No `*` in minute and hour: fires once for each local time that it names."""
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    needs_both_days: bool
    _days_seen: dict[date, list[datetime]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def next_after(self, moment: datetime) -> datetime:
        """Give the first instant after a moment."""
        return self._find(moment, _DAY)

    def last_until(self, moment: datetime) -> datetime:
        """Give the last instant at or before a moment."""
        return self._find(moment, -_DAY)

    def iterate_after(self, moment: datetime) -> Iterator[datetime]:
        """Give the instants after a moment, without end."""
        while True:
            moment = self.next_after(moment)
            yield moment

    def check_fires(self) -> None:
        """Refuse an expression that never fires.

        Raises:
            CronError: it names only days which no month has, like `0 2 30 2 *`, or only times
                which the clock always jumps over, like `*/10 2 25-31 3 */7` in Europe/Berlin.
        """
        first = min(self.days)
        by_weekday = not self.needs_both_days
        if by_weekday or any(first <= _DAYS_IN_MONTH[month - 1] for month in self.months):
            if not self.is_fixed and len(self.hours) < 24:  # a gap never takes a whole day's hours
                self.next_after(datetime.now(UTC))
            return
        raise CronError(
            "cron",
            f"{self.expression!r} never fires: none of its months has a day {first}. "
            "For the end of a month use day 28",
        )

    def _find(self, moment: datetime, step: timedelta) -> datetime:
        # Instants grow from day to day but for clocks that change at midnight: there a day can
        # begin before the one before it ends. So a find on one day is compared with its neighbour.
        found: tuple[date, datetime] | None = None
        for day in self._walk(moment.astimezone(self.zone).date() - step, step):
            if found is not None and abs(day - found[0]) > _DAY:
                break
            instants = self._instants_of(day)
            index = bisect.bisect_right(instants, moment) - (step < timedelta())
            if not 0 <= index < len(instants):
                continue
            if found is not None:
                better = min if step > timedelta() else max
                return better(found[1], instants[index])
            found = (day, instants[index])
        if found is None:
            raise CronError("cron", f"{self.expression!r} does not fire within 40 years")
        return found[1]

    def _walk(self, day: date, step: timedelta) -> Iterator[date]:
        """Give the matching local days from one on, into the future or the past."""
        end = day + (_HORIZON if step > timedelta() else -_HORIZON)
        while (day < end) == (step > timedelta()):
            if day.month not in self.months:
                day = _enter_next_month(day) if step > timedelta() else _leave_month(day)
                continue
            if self._matches(day):
                yield day
            day += step

    def _matches(self, day: date) -> bool:
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_day and by_weekday) if self.needs_both_days else (by_day or by_weekday)

    def _instants_of(self, day: date) -> list[datetime]:
        found = self._days_seen.get(day)
        if found is None:
            if len(self._days_seen) >= _DAYS_KEPT:
                self._days_seen.clear()
            found = sorted({instant for hour in self.hours for instant in self._in_hour(day, hour)})
            self._days_seen[day] = found
        return found

    def _in_hour(self, day: date, hour: int) -> list[datetime]:
        minutes = [datetime.combine(day, time(hour, minute)) for minute in self.minutes]
        ends = (minutes[0], minutes[-1])
        offsets = {
            end.replace(tzinfo=self.zone, fold=fold).utcoffset() for end in ends for fold in (0, 1)
        }
        if len(offsets) == 1:  # no change of the clock: one subtraction serves for all
            offset = offsets.pop() or timedelta()
            return [(minute - offset).replace(tzinfo=UTC) for minute in minutes]
        return [instant for minute in minutes for instant in self._instants_at(minute)]

    def _instants_at(self, local: datetime) -> list[datetime]:
        """Give the instants at which clocks on the wall show a local time: none, one or two.

        For a fixed-time schedule always one: the rule of the module's docstring.
        """
        first, second = (_to_utc(local, self.zone, fold) for fold in (0, 1))
        if second < first:
            # In a gap fold 0 reads the local time by the old offset, fold 1 by the new one.
            return [_find_change(second, first, self.zone)] if self.is_fixed else []
        return [first] if self.is_fixed or first == second else [first, second]


def spread(hash_key: str, purpose: str, size: int) -> int:
    """Draw a number below `size` that depends on the key and the purpose only."""
    digest = hashlib.blake2b(f"{purpose}\0{hash_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % size


def build_hash_key(host_id: object, schedule_id: object) -> str:
    """Build what `H` and jitter of a schedule are drawn from."""
    return f"{host_id}/{schedule_id}"


def draw_jitter(hash_key: str, jitter: float) -> int:
    """Draw a schedule's delay in whole seconds: 0 up to the jitter, and always the same."""
    return spread(hash_key, "jitter", int(jitter) + 1)


def _load_zone(timezone: str) -> ZoneInfo:
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise CronError(
            "timezone",
            f"{timezone!r} is not an IANA time zone; write one like Europe/London or UTC",
        ) from error


def _split(expression: str) -> list[str]:
    text = expression.strip()
    if text.startswith("@"):
        try:
            return ALIASES[text.lower()].split()
        except KeyError:
            raise CronError(
                "cron", f"{text!r} is not an alias; there are {', '.join(ALIASES)}"
            ) from None
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise CronError(
            "cron",
            f"{expression!r} has {len(fields)} fields, not 5: minute, hour, day of month, month, "
            "day of week (no seconds, no years)",
        )
    return fields


def _plain_item(index: int, item: str, hash_key: str | None) -> str:
    """Rewrite what croniter 7.0.0 reads in another way than cron: `H`, and `5-5` as every value."""
    found = _HASHED.fullmatch(item)
    if found is not None:
        return _draw(index, found, hash_key)
    span = item.partition("/")[0]
    low, _, high = span.partition("-")
    return low if low.lower() == high.lower() else item


def _draw(index: int, found: re.Match[str], hash_key: str | None) -> str:
    item = found[0]
    if hash_key is None:
        raise CronError("cron", "H needs a host and a schedule to be spread by")
    low, high = _HASH_RANGES[index]
    if found[1] is not None:
        inner = (int(found[1]), int(found[2]))
        if not low <= inner[0] < inner[1] <= high:
            raise CronError("cron", f"{item!r} in {_FIELDS[index]}: the range is {low}-{high}")
        low, high = inner
    step = int(found[3]) if found[3] else None
    if step == 0:
        raise CronError("cron", f"{item!r} in {_FIELDS[index]}: a step of 0 never moves")
    size = high - low + 1
    start = low + spread(hash_key, f"cron {_FIELDS[index]}", min(step or size, size))
    return str(start) if step is None or start + step > high else f"{start}-{high}/{step}"


def _check_field(index: int, text: str) -> None:
    for item in text.split(","):
        if _ITEM.fullmatch(item) is None:
            raise CronError(
                "cron",
                f"{item!r} in {_FIELDS[index]}: write numbers, names, ranges like 1-5, steps like "
                "*/15 or 1-30/5, or H",
            )
        span, _, step = item.partition("/")
        if step and int(step) == 0:
            raise CronError("cron", f"{item!r} in {_FIELDS[index]}: a step of 0 never moves")
        ends = [int(end) for end in span.split("-") if end.isdigit()]
        low, high = _RANGES[index]
        if any(not low <= end <= high for end in ends):
            raise CronError(
                "cron",
                f"{item!r} in {_FIELDS[index]} is out of range: write {low} to {high}",
            )
        if ends != sorted(ends):
            raise CronError("cron", f"{item!r} in {_FIELDS[index]}: the range runs backwards")


def _is_starred(text: str) -> bool:
    """Tell whether a field as it was written means "every" or "every n-th"."""
    return any(item.startswith("*") or item.upper().startswith("H/") for item in text.split(","))


def _expand(values: list[int | str], low: int, high: int) -> tuple[int, ...]:
    if values == ["*"]:
        return tuple(range(low, high + 1))
    return tuple(sorted(int(value) for value in values))


def _to_utc(local: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return local.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _find_change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Find the instant between two at which the zone's offset changes, to the second."""
    offset = before.astimezone(zone).utcoffset()
    low, high = int(before.timestamp()), int(after.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)


def _enter_next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _leave_month(day: date) -> date:
    return day.replace(day=1) - _DAY
