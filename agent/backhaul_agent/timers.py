"""When a schedule is due: pure rules over stored facts, asked on a cheap tick.

A timer remembers up to which moment its slots are settled (fired, stood for by a later fire, or
skipped by policy) and which slots fired lately. Whether something is due follows from these and the
clock alone, so it survives suspend, restarts, slow disks and clocks that step:

- Asleep or stopped past several slots: the latest one fires, and says how many it stands for.
- Clock steps forward: the same.
- Clock steps back: slots become due again only if they did not fire before, so none fires twice and
  a clock that was a year ahead for a minute does not silence a schedule for a year.
- Clock jumps forward over months to where it was before it stepped back, as that of a machine which
  forgets the time when it is off: what was settled before is settled still.

Jitter moves a fire, never its slot: the schedule simply lives that much behind the clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal
from uuid import UUID

from backhaul.cron import Cron, build_hash_key, draw_jitter, parse_cron
from backhaul.wire.schedules import ScheduleEntry

ON_TIME = timedelta(seconds=60)
"""A fire later than this after its slot is a catch-up."""

FIRED_KEPT = 1500
"""How many fired slots are remembered: a day of a schedule that fires every minute, four years of a
daily one. Clocks are not set back further; and the server refuses the second fire of a slot."""

MISSED_COUNTED = 10_000
"""Counting stops here: a schedule of every minute misses half a million slots in a year."""

FORGOTTEN = timedelta(days=40)
"""A clock that shows so much less than before had forgotten the time. Less can be the way back of
one that was ahead."""

LONGEST_WINDOW_S = 100 * 366 * 86_400
"""A catch-up window that is longer than this is as good as none."""

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Due:
    """A slot whose time has come."""

    slot: datetime
    missed: int
    """How many earlier slots it stands for."""
    is_late: bool


@dataclass(frozen=True, slots=True)
class Timer:
    """One enabled schedule and its place in time. Moments are aware and in UTC."""

    schedule_id: UUID
    cron: Cron
    jitter: timedelta
    catch_up: Literal["once", "skip"]
    catch_up_window: timedelta | None
    settled_until: datetime
    """Slots at or before this are over, whatever became of them."""
    fired: frozenset[datetime] = field(default=frozenset())
    """The slots that fired lately, so that a clock that steps back fires none again."""
    settled_before: datetime | None = None
    """Up to where slots were over when the clock stepped back, until it has come past that."""

    def next_at(self) -> datetime:
        """Give the moment at which the timer wants to be asked again."""
        slot = self.cron.next_after(self.settled_until)
        while slot in self.fired:
            slot = self.cron.next_after(slot)
        return slot + self.jitter

    def look(self, now: datetime) -> Due | None:
        """Find the latest slot that is due and did not fire; changes nothing."""
        shown = now - self.jitter
        slot = self.cron.last_until(shown)
        while slot in self.fired and slot > self.settled_until:
            slot = self.cron.last_until(slot - _INSTANT)
        if slot <= self.settled_until:
            return None
        earlier = takewhile(lambda s: s < slot, self.cron.iterate_after(self.settled_until))
        missed = sum(
            1 for s, _ in zip(earlier, range(MISSED_COUNTED), strict=False) if s not in self.fired
        )
        return Due(slot=slot, missed=missed, is_late=shown - slot > ON_TIME)

    def may_fire(self, due: Due, now: datetime) -> bool:
        """Tell whether the schedule's policy still wants a slot that is late."""
        if not due.is_late:
            return True
        if self.catch_up == "skip":
            return False
        window = self.catch_up_window
        return window is None or now - self.jitter - due.slot <= window

    def settle(self, due: Due, now: datetime, *, has_fired: bool) -> Timer:
        """Give the timer after a slot was fired, or skipped by policy."""
        fired = self.fired | {due.slot} if has_fired else self.fired
        if len(fired) > FIRED_KEPT:
            # Not simply the oldest: with a clock that was ahead, that is the one that just fired.
            fired -= {max(fired, key=lambda slot: abs(slot - now))}
        return replace(
            self,
            settled_until=max(due.slot, self.cron.last_until(now - self.jitter)),
            fired=fired,
        )

    def begin(self, now: datetime) -> Timer:
        """Give the timer as a new one: it lives behind the clock from now on."""
        return replace(self, settled_until=min(self.settled_until, now - self.jitter))

    def rewind(self, now: datetime) -> Timer:
        """Give the timer after the clock stepped back to before what is settled."""
        before = max(self.settled_until, self.settled_before or self.settled_until)
        return replace(self.begin(now), settled_before=before)

    def come_back(self, now: datetime) -> Timer:
        """Give the timer after the clock may have come past where it was before it stepped back.

        If it had forgotten the time, what was settled before is settled. If it had been ahead, the
        slots on the way have had their turn, or are missed.
        """
        before = self.settled_before
        if before is None or now - self.jitter <= before:
            return self
        had_forgotten = before - self.settled_until > FORGOTTEN
        settled_until = before if had_forgotten else self.settled_until
        return replace(self, settled_until=settled_until, settled_before=None)

    def is_ahead_of(self, now: datetime) -> bool:
        """Tell whether the clock shows less than what is settled: it stepped back."""
        return now < self.settled_until


def build_timer(
    entry: ScheduleEntry,
    *,
    host_id: UUID,
    settled_until: datetime,
    fired: frozenset[datetime] = frozenset(),
    settled_before: datetime | None = None,
) -> Timer:
    """Build the timer of an enabled entry.

    Raises:
        CronError: the expression or the time zone is not acceptable here.
    """
    key = build_hash_key(host_id, entry.schedule_id)
    timer = Timer(
        schedule_id=entry.schedule_id,
        cron=parse_cron(entry.cron, entry.timezone, hash_key=key),
        jitter=timedelta(),
        catch_up=entry.catch_up,
        catch_up_window=None,
        settled_until=settled_until,
        fired=fired,
        settled_before=settled_before,
    )
    return revise_timer(timer, entry, host_id=host_id)


def revise_timer(timer: Timer, entry: ScheduleEntry, *, host_id: UUID) -> Timer:
    """Give a timer new policies. It keeps its cron expression and its place in time."""
    key = build_hash_key(host_id, entry.schedule_id)
    window_s = entry.catch_up_window
    return replace(
        timer,
        jitter=timedelta(seconds=draw_jitter(key, entry.jitter)),
        catch_up=entry.catch_up,
        catch_up_window=(
            None if window_s is None else timedelta(seconds=min(window_s, LONGEST_WINDOW_S))
        ),
    )
