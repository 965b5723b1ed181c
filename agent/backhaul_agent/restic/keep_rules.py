"""restic's keep rules, over snapshots that were chosen before: which of them stay.

`restic forget` has no way to leave snapshots out of the count, so that what was set aside would
push others out. This is its `ApplyPolicy` (restic's internal/restic/snapshot_policy.go; since 0.19
in internal/data), for the rules that a source can have:

- Newest first. A rule with a count keeps the first snapshot of each of its last hours, days, ISO
  weeks, months or years, by the clock of the host that made it. Newer restics keep the very oldest
  snapshot as well while a rule has some of its count left.
- `within` keeps what is later than that long before the newest snapshot that is not in the future.
- Of a duration in which a unit stands twice, the last one counts.

Compared with what `forget --dry-run` keeps, over 37 snapshots and 14 policies
(tests/integration/test_keep_rules.py): the same with 0.14.0, which does not keep the oldest, and
with 0.18.0 and 0.19.1, which do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from backhaul.wire.kinds import Retention
from backhaul_agent.restic.version import ResticVersion

_PART = re.compile(r"(\d+)([ymdh])")

Bucket = Callable[[datetime, int], object]


class Dated(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot, as far as the rules look at it."""

    id: str
    time: datetime
    """With the offset that was recorded: the days of another time zone begin at other times."""
    hostname: str = ""


_BUCKETS: dict[str, Bucket] = {
    "keep_last": lambda _, number: number,
    "keep_hourly": lambda time, _: (time.year, time.month, time.day, time.hour),
    "keep_daily": lambda time, _: (time.year, time.month, time.day),
    "keep_weekly": lambda time, _: time.isocalendar()[:2],
    "keep_monthly": lambda time, _: (time.year, time.month),
    "keep_yearly": lambda time, _: time.year,
}


class _Rule:
    """A rule with a count."""

    def __init__(self, count: int, bucket: Bucket) -> None:
        self._left = count
        self._bucket = bucket
        self._last: object = None

    def keeps(self, time: datetime, number: int, *, is_oldest: bool) -> bool:
        """Tell whether it keeps a snapshot, and count it then."""
        if self._left == 0:
            return False
        bucket = self._bucket(time, number)
        if bucket == self._last and not is_oldest:
            return False
        self._last = bucket
        self._left -= 1
        return True


def does_keep_oldest(version: ResticVersion) -> bool:
    """Tell whether a rule with some of its count left keeps the oldest snapshot.

    0.14.0 does not, 0.18.0 does. Of those between, which were not tried, too much is kept at worst.
    """
    return version.is_at_least(0, 15, 0)


def choose(
    snapshots: Iterable[Dated], keep: Retention, *, now: datetime, keeps_oldest: bool
) -> tuple[list[Dated], list[Dated]]:
    """Choose what stays, and what goes, of the snapshots of one host; both newest first."""
    found = sorted(snapshots, key=lambda one: one.time, reverse=True)
    counts = {name: getattr(keep, name) for name in _BUCKETS}
    rules = [_Rule(count, _BUCKETS[name]) for name, count in counts.items() if count is not None]
    within = _parse_duration(keep.keep_within or "")
    if not rules and not any(within.values()):
        return found, []
    since = _find_begin(found, within, now) if any(within.values()) else None
    kept: list[Dated] = []
    removed: list[Dated] = []
    for number, one in enumerate(found):
        is_oldest = keeps_oldest and number == len(found) - 1
        # All of them count it, also when the first one keeps it.
        is_counted = [rule.keeps(one.time, number, is_oldest=is_oldest) for rule in rules]
        stays = any(is_counted) or (since is not None and one.time > since)
        (kept if stays else removed).append(one)
    return kept, removed


def _parse_duration(text: str) -> dict[str, int]:
    return {unit: int(number) for number, unit in _PART.findall(text)}


def _find_begin(
    newest_first: Sequence[Dated], within: dict[str, int], now: datetime
) -> datetime | None:
    """Find the moment after which all is kept."""
    latest = next((one.time for one in newest_first if one.time < now), None)
    if latest is None:
        return _BEGINNING
    try:
        return _go_back(latest, within)
    except (OverflowError, ValueError):
        return _BEGINNING


def _go_back(time: datetime, within: dict[str, int]) -> datetime:
    """Go back by the calendar, and then by hours. The day that is missing in a shorter month is
    one of the next: a month before the 31st of March is the 3rd."""
    months = time.year * 12 + time.month - 1 - within.get("y", 0) * 12 - within.get("m", 0)
    first = time.replace(year=months // 12, month=months % 12 + 1, day=1, tzinfo=None)
    wall = first + timedelta(days=time.day - 1 - within.get("d", 0))
    # Go takes an offset that is this machine's own for its time zone, with its summer times.
    is_local = time.astimezone().utcoffset() == time.utcoffset()
    moment = wall.astimezone() if is_local else wall.replace(tzinfo=time.tzinfo)
    return moment.astimezone(UTC) - timedelta(hours=within.get("h", 0))


_BEGINNING = datetime.min.replace(tzinfo=UTC)
