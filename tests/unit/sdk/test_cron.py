"""Cron expressions: what is accepted, and at which instants they fire."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backhaul.cron import CronError, parse_cron
from tests.fakes.minute_walker import Wall, walk

ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})
SPAN = timedelta(days=2)


def fires(expression: str, timezone: str, begin: str, count: int) -> list[str]:
    cron = parse_cron(expression, timezone)
    instants = cron.iterate_after(datetime.fromisoformat(begin))
    return [next(instants).astimezone(cron.zone).isoformat() for _ in range(count)]


def test_fixed_time_fires_once_when_autumn_shows_it_twice() -> None:
    assert fires("30 1 * * *", "Europe/London", "2026-10-24T00:00:00+01:00", 4) == [
        "2026-10-24T01:30:00+01:00",
        "2026-10-25T01:30:00+01:00",
        "2026-10-26T01:30:00+00:00",
        "2026-10-27T01:30:00+00:00",
    ]


def test_fixed_time_in_a_spring_gap_fires_at_the_end_of_the_gap() -> None:
    assert fires("30 1 * * *", "Europe/London", "2026-03-28T12:00:00+00:00", 2) == [
        "2026-03-29T02:00:00+01:00",
        "2026-03-30T01:30:00+01:00",
    ]


def test_several_fixed_times_in_one_gap_make_one_fire() -> None:
    assert fires("0,20,40 1,2 * * *", "Europe/London", "2026-03-29T00:00:00+00:00", 3) == [
        "2026-03-29T02:00:00+01:00",
        "2026-03-29T02:20:00+01:00",
        "2026-03-29T02:40:00+01:00",
    ]


def test_starred_time_follows_elapsed_time_through_autumn() -> None:
    assert fires("*/30 1 * * *", "Europe/London", "2026-10-25T00:00:00+01:00", 5) == [
        "2026-10-25T01:00:00+01:00",
        "2026-10-25T01:30:00+01:00",
        "2026-10-25T01:00:00+00:00",
        "2026-10-25T01:30:00+00:00",
        "2026-10-26T01:00:00+00:00",
    ]


def test_starred_time_within_a_gap_does_not_fire() -> None:
    assert fires("*/30 1 * * *", "Europe/London", "2026-03-29T00:00:00+00:00", 1) == [
        "2026-03-30T01:00:00+01:00"
    ]


def test_a_day_that_a_zone_skipped_fires_at_its_end() -> None:
    assert fires("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00:00-10:00", 2) == [
        "2011-12-31T00:00:00+14:00",
        "2011-12-31T12:00:00+14:00",
    ]


def test_two_restricted_day_fields_match_either() -> None:
    assert fires("0 0 13 * fri", "UTC", "2026-11-01T00:00:00+00:00", 3) == [
        "2026-11-06T00:00:00+00:00",
        "2026-11-13T00:00:00+00:00",
        "2026-11-20T00:00:00+00:00",
    ]


def test_a_day_field_that_begins_with_a_star_must_match_too() -> None:
    assert fires("0 0 */2 * fri", "UTC", "2026-11-01T00:00:00+00:00", 2) == [
        "2026-11-13T00:00:00+00:00",
        "2026-11-27T00:00:00+00:00",
    ]


def test_the_29th_of_february_is_found_across_a_century() -> None:
    assert fires("0 0 29 2 *", "UTC", "2096-03-01T00:00:00+00:00", 1) == [
        "2104-02-29T00:00:00+00:00"
    ]


@pytest.mark.parametrize(
    ("expression", "remedy"),
    [
        ("0 2 30 2 *", "never fires"),
        ("0 0 31 4,6 *", "never fires"),
        ("0 * * * * *", "6 fields, not 5"),
        ("* * *", "3 fields, not 5"),
        ("", "0 fields, not 5"),
        ("@reboot", "@daily"),
        ("60 * * * *", "out of range"),
        ("* * 0 * *", "out of range"),
        ("* * * * 8", "out of range"),
        ("R * * * *", "write numbers"),
        ("0 0 L * *", "write numbers"),
        ("0 0 * * mon#1", "write numbers"),
        ("0 0 15W * *", "write numbers"),
        ("0 0 ? * *", "write numbers"),
        ("5/15 * * * *", "write numbers"),
        ("0 22-2 * * *", "runs backwards"),
        ("*/0 * * * *", "never moves"),
        ("0 0 * foo *", "write numbers"),
        ("0 mon * * *", "not a cron expression"),
        ("H * * * *", "needs a host and a schedule"),
    ],
)
def test_bad_expression_is_refused_with_the_remedy(expression: str, remedy: str) -> None:
    with pytest.raises(CronError, match=remedy) as refused:
        parse_cron(expression, "UTC")

    assert refused.value.what == "cron"


def test_starred_time_that_is_always_in_the_gap_is_refused() -> None:
    with pytest.raises(CronError, match="does not fire"):
        parse_cron("*/10 2 25-31 3 */7", "Europe/Berlin")


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "", "../etc/passwd", "/etc/passwd", "Europe"])
def test_unknown_time_zone_is_refused(timezone: str) -> None:
    with pytest.raises(CronError, match="Europe/London") as refused:
        parse_cron("0 2 * * *", timezone)

    assert refused.value.what == "timezone"


@given(key=st.text(), moment=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)))  # noqa: DTZ001
def test_hashed_fields_stay_in_their_ranges_and_do_not_move(key: str, moment: datetime) -> None:
    after = moment.replace(tzinfo=UTC)
    cron = parse_cron("H(10-19) H(0-5) H * *", "UTC", hash_key=key)

    fire = cron.next_after(after)

    assert 10 <= fire.minute <= 19
    assert fire.hour <= 5
    assert fire.day <= 28
    assert fire == parse_cron("H(10-19) H(0-5) H * *", "UTC", hash_key=key).next_after(after)


def test_hash_spreads_a_fleet_over_the_whole_day() -> None:
    keys = [f"host-{number}/schedule" for number in range(3000)]

    times = {
        (cron.minutes[0], cron.hours[0])
        for cron in (parse_cron("H H * * *", "UTC", hash_key=key) for key in keys)
    }

    # 3000 draws from 1440 minutes leave about 1440 * (1 - exp(-3000/1440)) = 1261 of them hit.
    assert len(times) > 1200


def test_hashed_step_keeps_its_distance() -> None:
    cron = parse_cron("H/15 * * * *", "UTC", hash_key="a")

    first = cron.minutes[0]
    assert cron.minutes == (first, first + 15, first + 30, first + 45)
    assert first < 15
    assert not cron.is_fixed


# Against the minute walker ------------------------------------------------------------------------


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, high)
    item = st.one_of(number.map(str), span, st.tuples(span, step).map(lambda p: f"{p[0]}/{p[1]}"))
    star = st.one_of(st.just("*"), step.map(lambda n: f"*/{n}"))
    return st.one_of(st.lists(item, min_size=1, max_size=3).map(",".join), star)


EXPRESSIONS = st.tuples(
    _field(0, 59), _field(0, 23), st.one_of(st.just("*"), _field(1, 28)),
    st.just("*"), st.one_of(st.just("*"), _field(0, 7)),
).map(" ".join)  # fmt: skip


@lru_cache(maxsize=512)
def changes_of(timezone: str) -> list[datetime]:
    """Find the days of 2019 to 2037 on which a zone's clocks change."""
    zone = ZoneInfo(timezone)
    days = [datetime(2019, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(19 * 365)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [day for day, now, then in zip(days, offsets, offsets[1:], strict=False) if now != then]


@st.composite
def places(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone, and a moment in it that is near a change of its clocks when it has any."""
    timezone = draw(st.sampled_from(ZONES))
    changes = changes_of(timezone) or [datetime(2026, 6, 1, tzinfo=UTC)]
    offset = draw(st.integers(-24 * 60, 24 * 60))
    return timezone, draw(st.sampled_from(changes)) + timedelta(minutes=offset)


@settings(max_examples=300, deadline=None)
@given(expression=EXPRESSIONS, place=places())
def test_fires_are_those_that_the_minute_walker_finds(
    expression: str, place: tuple[str, datetime]
) -> None:
    timezone, begin = place
    # The walker begins a day early: a gap at the very start must have a before.
    wall = Wall.of(ZoneInfo(timezone), begin - timedelta(days=1), begin + SPAN)
    expected = [fire for fire in walk(expression, wall) if fire > begin]

    cron = parse_cron(expression, timezone)
    found = list(takewhile(lambda fire: fire < begin + SPAN, cron.iterate_after(begin)))

    assert found == expected


@settings(max_examples=200, deadline=None)
@given(expression=EXPRESSIONS, place=places())
def test_last_until_is_the_fire_that_next_after_leads_to(
    expression: str, place: tuple[str, datetime]
) -> None:
    timezone, moment = place
    cron = parse_cron(expression, timezone)

    fire = cron.next_after(moment)
    last = cron.last_until(moment)

    assert last <= moment < fire
    assert cron.last_until(fire) == fire
    assert cron.last_until(fire - timedelta(seconds=1)) == last
    assert cron.next_after(last) == fire
