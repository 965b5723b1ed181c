"""What 1,000 schedules cost one agent, and whether the previews of cron expressions are right.

    .venv/bin/python -m bench.scheduler              # or: make bench-scheduler
    .venv/bin/python -m bench.scheduler --previews 0 # without the previews, which take minutes

The core of an agent runs here, with its loops and its journal on disk, in front of a link that
stays in memory. The baseline is a scheduler that evaluates croniter once per schedule and tick,
measured in the same run. Prints a table, writes bench/results/scheduler.jsonl, and ends with exit
code 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from croniter import croniter

from backhaul.cron import Cron, parse_cron
from backhaul.wire.schedules import ScheduleEntry
from backhaul_agent.cron_loop import TICK_S
from bench.quiet_agent import QuietAgent
from bench.results import Result, write

SCHEDULES = 1000
PREVIEWS = 100_000
IDLE_S = 30.0
APPLY_LIMIT_S = 1.0
IDLE_LIMIT = 0.01
"""A share of one core."""
RESULTS = Path(__file__).parent / "results" / "scheduler.jsonl"

_ZONES = ("UTC", "Europe/London", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
_DAYS = ("* * *", "* * *", "* * 1-5", "1,15 * *")
_QUIET = timedelta(minutes=15)
_DAY_STEP_S = 60.0


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """The value that a result must not exceed."""

    name: str
    most: float


LIMITS = (
    Limit(name="apply 1,000 schedules", most=APPLY_LIMIT_S),
    Limit(name="apply an edit of one", most=APPLY_LIMIT_S),
    Limit(name="idle, share of a core", most=IDLE_LIMIT),
    Limit(name="idle, evaluations", most=0),
    Limit(name="preview differences", most=0),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds to be idle for")
    parser.add_argument("--previews", type=int, default=PREVIEWS, help="0 leaves them out")
    options = parser.parse_args()
    entries = draw_entries(SCHEDULES)
    baseline_s = measure_croniter(entries)
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as folder:
        results = asyncio.run(measure_agent(Path(folder), entries, options.idle, baseline_s))
    if options.previews:
        results += measure_previews(options.previews)
    print_table(results)
    write(results, RESULTS)
    broken = find_broken(results)
    for line in broken:
        print(f"broken: {line}")
    return 1 if broken else 0


# The agent ---------------------------------------------------------------------------------------


async def measure_agent(
    folder: Path, entries: list[ScheduleEntry], idle_s: float, baseline_s: float
) -> list[Result]:
    """Apply, edit, idle, and live through a day. `baseline_s`: of croniter for all of them."""
    agent = QuietAgent(folder)
    edited = [msgspec.structs.replace(entries[0], cron="7 7 1 1 *"), *entries[1:]]
    with counting_evaluations() as count:
        async with agent.running():
            apply_s = await agent.apply(entries)
            apply_evaluations = count.take()
            edit_s = await agent.apply(edited)
            edit_evaluations = count.take()
            share = await measure_idle(idle_s)
            idle_evaluations = count.take()
        fires, day_s = await live_a_day(agent)
        day_evaluations = count.take()
    agent.close()
    ticks = idle_s / TICK_S
    day_ticks = 86_400 / _DAY_STEP_S
    return [
        compare("croniter, one evaluation", baseline_s / SCHEDULES * 1e6, "µs", None),
        compare("apply 1,000 schedules", apply_s, "s", baseline_s),
        compare("apply, evaluations", apply_evaluations, "", SCHEDULES),
        compare("apply an edit of one", edit_s, "s", baseline_s),
        compare("edit, evaluations", edit_evaluations, "", SCHEDULES),
        compare("idle, share of a core", share, "", baseline_s / TICK_S),
        compare("idle, evaluations", idle_evaluations, "", SCHEDULES * ticks),
        compare("a day, fires", fires, "", None),
        compare("a day, evaluations", day_evaluations, "", SCHEDULES * day_ticks),
        compare("a day, time per fire", day_s / max(fires, 1) * 1e3, "ms", None),
    ]


async def measure_idle(seconds: float) -> float:
    """Give the share of a core that this process takes while nothing is due."""
    await asyncio.sleep(2 * TICK_S)  # what the apply left to do is done
    began, used_s = time.monotonic(), read_cpu_s()
    await asyncio.sleep(seconds)
    return (read_cpu_s() - used_s) / (time.monotonic() - began)


async def live_a_day(agent: QuietAgent) -> tuple[int, float]:
    """Let a day of the clock pass in ticks; gives the number of fires and the seconds it took."""
    began = time.monotonic()
    for _ in range(int(86_400 / _DAY_STEP_S)):
        agent.clock.advance(_DAY_STEP_S)
        await agent.cron.tick()
    return agent.count_fires(), time.monotonic() - began


def read_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Count:
    """How often an expression was evaluated: asked for its next or its last slot."""

    def __init__(self) -> None:
        self._number = 0

    def add(self) -> None:
        self._number += 1

    def take(self) -> int:
        """Give the number and begin again."""
        number, self._number = self._number, 0
        return number


@contextmanager
def counting_evaluations() -> Iterator[Count]:
    """Count the searches of every `Cron`."""
    count, find = Count(), Cron._find

    def counted(self: Cron, moment: datetime, step: timedelta) -> datetime:
        count.add()
        return find(self, moment, step)

    Cron._find = counted  # type: ignore[method-assign]  # watched, and put back below
    try:
        yield count
    finally:
        Cron._find = find  # type: ignore[method-assign]  # as it was


# What is scheduled, and the baseline -------------------------------------------------------------


def draw_entries(number: int, seed: int = 1) -> list[ScheduleEntry]:
    """Draw schedules of which none fires in the next minutes."""
    draw, now = random.Random(seed), datetime.now(UTC)
    entries: list[ScheduleEntry] = []
    while len(entries) < number:
        cron = f"{draw.randrange(60)} {draw.randrange(24)} {draw.choice(_DAYS)}"
        zone = draw.choice(_ZONES)
        if parse_cron(cron, zone).next_after(now) < now + _QUIET:
            continue
        schedule_id = UUID(int=len(entries) + 1)
        entries.append(
            ScheduleEntry(schedule_id=schedule_id, kind="check", cron=cron, timezone=zone)
        )
    return entries


def measure_croniter(entries: list[ScheduleEntry]) -> float:
    """Give the seconds of CPU that croniter takes to find the next slot of each, once."""
    now = datetime.now(UTC)
    used_s = time.process_time()
    for entry in entries:
        croniter(entry.cron, now.astimezone(ZoneInfo(entry.timezone))).get_next(datetime)
    return time.process_time() - used_s


def measure_previews(count: int) -> list[Result]:
    """Compare random previews with the walker over minutes, in processes of their own."""
    command = [sys.executable, "-m", "bench.cron_previews", "--count", str(count)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found = re.search(r"(\d+) compared, (\d+) differences", run.stdout)
    compared, differences = (int(found[1]), int(found[2])) if found else (0, 0)
    if compared < count:
        raise SystemExit(f"{' '.join(command[1:])} ended with {run.returncode}\n{run.stdout}")
    if differences:
        print(run.stdout, end="")
    return [
        compare("previews compared", compared, "", count),
        compare("preview differences", differences, "", None),
    ]


# What is printed and written ---------------------------------------------------------------------


def compare(name: str, value: float, unit: str, baseline: float | None) -> Result:
    value = round(value, 6)
    if not baseline:
        return Result(name=name, value=value, unit=unit)
    baseline = round(baseline, 6)
    return Result(
        name=name, value=value, unit=unit, baseline=baseline, ratio=round(value / baseline, 6)
    )


def print_table(results: list[Result]) -> None:
    most = {limit.name: limit.most for limit in LIMITS}
    print(f"{'':26} {'value':>10} {'':3} {'baseline':>10} {'ratio':>10} {'limit':>6}")
    for one in results:
        baseline = "" if one.baseline is None else f"{one.baseline:.7g}"
        ratio = "" if one.ratio is None else f"{one.ratio:.3g}"
        limit = "" if one.name not in most else f"{most[one.name]:g}"
        print(f"{one.name:26} {one.value:10.7g} {one.unit:3} {baseline:>10} {ratio:>10} {limit:>6}")


def find_broken(results: list[Result]) -> list[str]:
    """Say which limits do not hold."""
    values = {one.name: one.value for one in results}
    return [
        f"{limit.name}: {values[limit.name]:g}, limit {limit.most:g}"
        for limit in LIMITS
        if values.get(limit.name, 0) > limit.most
    ]


if __name__ == "__main__":
    sys.exit(main())
