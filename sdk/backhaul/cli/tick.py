"""backhaul tick."""

from __future__ import annotations

from backhaul.cli.connection import open_timer_client
from backhaul.cli.output import AsJson, Quiet, print_json, say
from backhaul.wire.ticks import Tick


def tick(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Have the server do what time has made necessary: end overdue jobs, delete what has expired.

    `backhaul serve` does so by itself, once a minute. A timer sets BACKHAUL_TICK_TOKEN to the
    server's `tick_token`, and needs no operator.
    """
    total = Tick()
    with open_timer_client() as client:
        while True:
            done = client.tick()
            total = _add(total, done)
            # Nothing done, and more to do: somebody else is at it.
            if not done.has_more or not _count(done):
                break
    if as_json:
        print_json(total)
    elif not quiet:
        jobs = total.expired_jobs + total.lost_jobs
        say(
            f"{total.expired_jobs} jobs expired, {total.lost_jobs} were lost; "
            f"{_count(total) - jobs} old rows were deleted."
        )


def _add(one: Tick, other: Tick) -> Tick:
    sums = {name: getattr(one, name) + getattr(other, name) for name in _COUNTS}
    return Tick(**sums, has_more=other.has_more)


def _count(done: Tick) -> int:
    return sum(getattr(done, name) for name in _COUNTS)


_COUNTS = tuple(name for name in Tick.__struct_fields__ if name != "has_more")
