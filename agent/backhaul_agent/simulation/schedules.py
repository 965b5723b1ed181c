"""Which schedules simulated hosts have: drawn as fleets have them, spread over the day.

A fleet that lives `speed` times as fast fires so many times as often. Cron knows whole minutes, so
each rate becomes the nearest expression that fires evenly: every so many minutes, hours, or daily.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from backhaul.wire.schedules import DEFAULT_RETRY_DELAY_S, CreateSchedule, ScheduleKind

MIX: Sequence[tuple[float, float]] = ((0.80, 1.0), (0.15, 4.0), (0.05, 24.0))
"""Shares of hosts, and how many backups a day they make."""

HIGHEST_RATE = max(rate for _, rate in MIX)

HOSTS_PER_REPOSITORY = 100
MINUTES_PER_DAY = 1440
MOST_PER_DAY = 20 * MINUTES_PER_DAY
"""Of one host: it takes a schedule for every minute of them."""
FORGETS_PER_DAY = 1.0
"""Of a repository, by its first host; a check comes once in a week."""
CHECKS_PER_DAY = 1 / 7

_MINUTE_STEPS = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
_HOUR_STEPS = (1, 2, 3, 4, 6, 8, 12)
_LONGEST_JITTER_S = 3600.0


def mean_rate(per_day: float | None) -> float:
    """Tell how many backups a day a host makes: of the mix, where nothing was said."""
    return sum(share * rate for share, rate in MIX) if per_day is None else per_day


def draw_rate(dice: random.Random, per_day: float | None) -> float:
    """Draw how many backups a day one host makes."""
    if per_day is not None:
        return per_day
    shares, rates = zip(*MIX, strict=True)
    return float(dice.choices(rates, weights=shares)[0])


def build_crons(per_day: float) -> list[tuple[str, float]]:
    """Build the expressions that fire so often together, each with a jitter that spreads it.

    What cannot be had exactly is the nearest: every 7 minutes become every 6. Less than once a day
    becomes the days of a week.
    """
    if per_day > MINUTES_PER_DAY:
        return build_crons(MINUTES_PER_DAY) * math.ceil(per_day / MINUTES_PER_DAY)
    minutes = MINUTES_PER_DAY / per_day
    if minutes < 45:
        step = _nearest(minutes, _MINUTE_STEPS)
        return [("* * * * *" if step == 1 else f"H/{step} * * * *", step * 60 - 1.0)]
    if minutes < 18 * 60:
        step = _nearest(minutes / 60, _HOUR_STEPS)
        hours = "*" if step == 1 else f"H/{step}"
        return [(f"H {hours} * * *", min(step * 3600.0, _LONGEST_JITTER_S))]
    if per_day > 0.5:
        return [("H H * * *", _LONGEST_JITTER_S)]
    return [("H H * * H", _LONGEST_JITTER_S)]


def _nearest(wanted: float, steps: Sequence[int]) -> int:
    return min(steps, key=lambda step: abs(math.log(step / wanted)))


def draw_schedules(
    dice: random.Random,
    *,
    per_day: float | None,
    speed: float,
    repository: str,
    source: str,
    is_upkeep_host: bool,
) -> Iterator[CreateSchedule]:
    """Draw the schedules of one host."""
    wanted = [(ScheduleKind.BACKUP, draw_rate(dice, per_day))]
    if is_upkeep_host:
        wanted += [(ScheduleKind.FORGET, FORGETS_PER_DAY), (ScheduleKind.CHECK, CHECKS_PER_DAY)]
    for kind, rate in wanted:
        for cron, jitter in build_crons(rate * speed):
            yield CreateSchedule(
                kind=kind,
                cron=cron,
                jitter=jitter,
                repository=repository,
                source=None if kind is ScheduleKind.CHECK else source,
                retry_delay=max(1.0, DEFAULT_RETRY_DELAY_S / speed),
            )
