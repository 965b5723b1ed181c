"""Compare many random (expression, zone) previews with the minute walker: no fire may differ.

    .venv/bin/python -m bench.cron_previews --count 100000

Half of the previews lie around a change of the zone's clocks. Prints one line a difference, then
`cron previews: <n> compared, <n> differences`; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo

from backhaul.cron import CronError, parse_cron
from tests.fakes.minute_walker import Wall, walk

SPAN = timedelta(days=2)
YEARS = range(2020, 2037)
CHUNK = 500
_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chunks = [(options.seed, first, min(CHUNK, options.count - first))
              for first in range(0, options.count, CHUNK)]  # fmt: skip
    began = time.monotonic()
    compared, differences = 0, 0
    with multiprocessing.Pool() as pool:
        for done, found in pool.imap_unordered(compare_chunk, chunks):
            compared += done
            differences += len(found)
            for difference in found:
                print(difference)
            show_progress(compared, options.count)
    print(
        f"cron previews: {compared} compared, {differences} differences "
        f"({time.monotonic() - began:.0f} s)"
    )
    return 1 if differences or compared < options.count else 0


def compare_chunk(chunk: tuple[int, int, int]) -> tuple[int, list[str]]:
    """Compare some previews; the same chunk always draws the same ones."""
    seed, first, count = chunk
    draw = random.Random(f"{seed}/{first}")
    differences = []
    # A few places a chunk: what the walker sees there is walked once and used for many.
    places = [draw_place(draw) for _ in range(max(1, count // 25))]
    compared = 0
    while compared < count:
        place = draw.choice(places)
        difference = compare(draw_expression(draw), *place)
        if difference is not None:
            compared += 1
            if difference:
                differences.append(difference)
    walk_place.cache_clear()
    return compared, differences


def compare(expression: str, timezone: str, begin: datetime) -> str | None:
    """Give what differs, '' when nothing does, None when the expression never fires anywhere."""
    try:
        cron = parse_cron(expression, timezone)
    except CronError:
        return None
    wall = walk_place(timezone, begin)
    expected = [fire for fire in walk(expression, wall) if fire > begin]
    found = list(takewhile(lambda fire: fire < begin + SPAN, cron.iterate_after(begin)))
    if found == expected:
        return ""
    return f"{expression!r} {timezone} {begin.isoformat()}: {found[:3]} not {expected[:3]}"


@lru_cache(maxsize=64)
def walk_place(timezone: str, begin: datetime) -> Wall:
    """Walk from a day earlier: a gap at the very begin must have a before."""
    return Wall.of(ZoneInfo(timezone), begin - timedelta(days=1), begin + SPAN)


def draw_place(draw: random.Random) -> tuple[str, datetime]:
    timezone = draw.choice(_ZONES)
    begin = datetime(draw.choice(YEARS), 1, 1, tzinfo=UTC)
    changes = find_changes(timezone, begin.year)
    if changes and draw.random() < 0.5:
        begin = draw.choice(changes) - timedelta(minutes=draw.randrange(36 * 60))
    else:
        begin += timedelta(minutes=draw.randrange(365 * 24 * 60))
    return timezone, begin


@cache
def find_changes(timezone: str, year: int) -> list[datetime]:
    zone = ZoneInfo(timezone)
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(366)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    pairs = zip(offsets, offsets[1:], days[1:], strict=False)
    return [day for before, after, day in pairs if before != after]


def draw_expression(draw: random.Random) -> str:
    return " ".join(draw_field(draw, *limits) for limits in _LIMITS)


def draw_field(draw: random.Random, low: int, high: int) -> str:
    if draw.random() < (0.7 if (high <= 31 and low == 1) or high == 7 else 0.25):
        return "*" if draw.random() < 0.7 else f"*/{draw.randint(1, high)}"
    return ",".join(draw_item(draw, low, high) for _ in range(draw.choice((1, 1, 1, 2, 3))))


def draw_item(draw: random.Random, low: int, high: int) -> str:
    first, last = sorted((draw.randint(low, high), draw.randint(low, high)))
    return draw.choice((f"{first}", f"{first}-{last}", f"{first}-{last}/{draw.randint(1, high)}"))


def show_progress(compared: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{compared}/{count}", end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
