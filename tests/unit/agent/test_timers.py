"""Timers: what is due, through sleep, restarts and clocks that step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backhaul.wire.schedules import ScheduleEntry
from backhaul_agent.timers import Due, Timer, build_timer

HOST = UUID(int=1)
START = datetime(2026, 10, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def make_timer(
    cron: str = "0 2 * * *", *, settled_until: datetime = START, **fields: object
) -> Timer:
    entry = ScheduleEntry(
        schedule_id=UUID(int=2),
        kind="backup",
        cron=cron,
        timezone="Europe/London",
        **fields,  # type: ignore[arg-type]  # whatever a test wants to set
    )
    return build_timer(entry, host_id=HOST, settled_until=settled_until)


def slots_between(timer: Timer, after: datetime, until: datetime) -> list[datetime]:
    return list(takewhile(lambda slot: slot <= until, timer.cron.iterate_after(after)))


def fire(timer: Timer, now: datetime) -> tuple[Timer, Due | None]:
    """Do what the agent does on a tick."""
    timer = timer.rewind(now) if timer.is_ahead_of(now) else timer.come_back(now)
    due = timer.look(now)
    if due is None:
        return timer, None
    may_fire = timer.may_fire(due, now)
    return timer.settle(due, now, has_fired=may_fire), due if may_fire else None


def test_nothing_is_due_before_the_slot() -> None:
    timer = make_timer()

    assert timer.look(timer.next_at() - timedelta(microseconds=1)) is None


def test_a_slot_is_due_at_its_moment_and_on_time() -> None:
    timer = make_timer()

    due = timer.look(timer.next_at())

    assert due == Due(slot=datetime(2026, 10, 20, 1, tzinfo=UTC), missed=0, is_late=False)


def test_a_week_asleep_makes_one_fire_for_the_latest_slot() -> None:
    timer, due = fire(make_timer(), START + timedelta(days=7, hours=12))

    assert due == Due(slot=datetime(2026, 10, 27, 2, tzinfo=UTC), missed=7, is_late=True)
    assert timer.look(START + timedelta(days=7, hours=13)) is None
    assert timer.next_at() == datetime(2026, 10, 28, 2, tzinfo=UTC)


def test_catch_up_skip_settles_a_missed_slot_without_a_fire() -> None:
    timer, due = fire(make_timer(catch_up="skip"), START + timedelta(days=7, hours=12))

    assert due is None
    assert timer.next_at() == datetime(2026, 10, 28, 2, tzinfo=UTC)


@pytest.mark.parametrize(("window", "fires"), [(3600.0, False), (12 * 3600.0, True)])
def test_catch_up_window_limits_how_late_a_slot_may_fire(window: float, fires: bool) -> None:
    timer = make_timer(catch_up_window=window)

    _, due = fire(timer, datetime(2026, 10, 20, 9, tzinfo=UTC))

    assert (due is not None) == fires


def test_jitter_moves_the_fire_and_not_the_slot() -> None:
    timer = make_timer(jitter=3600.0)

    due = timer.look(timer.next_at())

    assert timer.jitter > timedelta()
    assert due == Due(slot=datetime(2026, 10, 20, 1, tzinfo=UTC), missed=0, is_late=False)
    assert timer.look(timer.next_at() - timedelta(seconds=1)) is None


def test_clock_that_steps_back_over_a_slot_fires_it_once() -> None:
    slot = datetime(2026, 10, 20, 1, tzinfo=UTC)
    timer, first = fire(make_timer(), slot)

    timer, second = fire(timer, slot - timedelta(hours=3))
    timer, third = fire(timer, slot + MINUTE)

    assert first is not None
    assert second is None
    assert third is None


def test_clock_that_was_a_year_ahead_does_not_silence_the_schedule() -> None:
    timer, ahead = fire(make_timer(), START + timedelta(days=365))

    timer, back = fire(timer, START + MINUTE)
    timer, today = fire(timer, datetime(2026, 10, 20, 1, tzinfo=UTC))

    assert ahead is not None
    assert back is None
    assert today is not None
    assert today.missed == 0


def test_clock_that_forgets_the_time_fires_nothing_that_is_over() -> None:
    """Slots before the schedule was made are over, as are those that a later fire stood for."""
    week, _ = fire(make_timer(), START + timedelta(days=7))
    daily = make_timer("0 2 * * *")
    for day in range(10):
        daily, _ = fire(daily, START + timedelta(days=day, hours=23))

    for timer, now in ((week, START + timedelta(days=7)), (daily, START + timedelta(days=10))):
        forgetful, at_boot = fire(timer, datetime(2000, 1, 1, tzinfo=UTC))
        forgetful, _ = fire(forgetful, datetime(2000, 1, 1, 5, tzinfo=UTC))
        back, once_set = fire(forgetful, now + timedelta(hours=1))
        _, tomorrow = fire(back, now + timedelta(days=1))

        assert at_boot is None
        assert once_set is None
        assert tomorrow is not None
        assert tomorrow.missed == 0


CRONS = st.sampled_from(
    ["0 2 * * *", "30 1 * * *", "*/30 1 * * *", "15 * * * *", "0 0 * * 0", "0 1,2,3 * * *"]
)
JITTERS = st.sampled_from([0.0, 0.0, 900.0])
SLEEPS = st.integers(1, 3 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))
STEPS = st.integers(-24 * 60, 24 * 60).map(lambda minutes: timedelta(minutes=minutes))


@settings(max_examples=200, deadline=None)
@given(cron=CRONS, jitter=JITTERS, sleeps=st.lists(SLEEPS, max_size=30))
def test_every_slot_is_fired_or_stood_for_exactly_once(
    cron: str, jitter: float, sleeps: list[timedelta]
) -> None:
    timer = make_timer(cron, jitter=jitter)
    now, fires = START, []

    for sleep in sleeps:
        now += sleep
        timer, due = fire(timer, now)
        fires += [due] if due else []

    slots = slots_between(timer, START, now - timer.jitter)
    assert sum(1 + due.missed for due in fires) == len(slots)
    assert [due.slot for due in fires] == sorted({due.slot for due in fires})
    assert {due.slot for due in fires} <= set(slots)


@settings(max_examples=200, deadline=None)
@given(cron=CRONS, jitter=JITTERS, steps=st.lists(st.tuples(SLEEPS, STEPS), max_size=12))
def test_no_slot_fires_twice_and_none_is_skipped_after_the_clock_calms(
    cron: str, jitter: float, steps: list[tuple[timedelta, timedelta]]
) -> None:
    timer = make_timer(cron, jitter=jitter)
    now, fired = START, []

    for sleep, step in steps:
        for moment in (now + sleep, now + sleep + step):
            timer, due = fire(timer, moment)
            fired += [due.slot] if due else []
        now += sleep + step
    calm_from = now
    while now < calm_from + timedelta(days=8):
        now += 15 * MINUTE
        timer, due = fire(timer, now)
        fired += [due.slot] if due else []

    assert len(fired) == len(set(fired))
    assert set(slots_between(timer, calm_from, now - timer.jitter)) <= set(fired)
