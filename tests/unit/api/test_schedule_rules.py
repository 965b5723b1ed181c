"""What makes a schedule acceptable, and when it fires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from backhaul.cron import draw_jitter
from backhaul.wire.fleet import Source
from backhaul.wire.kinds import (
    Retention,
)
from backhaul.wire.schedules import Schedule, ScheduleKind
from backhaul_api.errors import InvalidError
from backhaul_api.moments import parse_moment
from backhaul_api.schedules import rules
from backhaul_api.sources.rules import has_keep_rule

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ONE = UUID("0192f0c1-7777-7000-8000-000000000001")
DAILY = Retention(keep_daily=7)


def build_source(retention: Retention | None = DAILY) -> Source:
    return Source(
        id=ONE,
        name="etc",
        paths=("/etc",),
        excludes=(),
        tags=("nightly",),
        one_file_system=False,
        retention=retention,
        created_at=NOW,
        updated_at=NOW,
    )


def build_schedule(**changes: Any) -> Schedule:
    fields: dict[str, Any] = {
        "id": ONE,
        "host_id": ONE,
        "host": "web1",
        "kind": ScheduleKind.BACKUP,
        "cron": "30 1 * * *",
        "timezone": "Europe/London",
        "enabled": True,
        "repository_id": ONE,
        "repository": "nas",
        "source_id": ONE,
        "source": "etc",
        "catch_up": "once",
        "catch_up_window": None,
        "jitter": 0.0,
        "start_deadline": None,
        "max_duration": None,
        "when_unreachable": "wait",
        "next_fire_at": None,
        "created_at": NOW,
        "updated_at": NOW,
        "revision": 1,
        "error": None,
    }
    return Schedule(**{**fields, **changes})


@pytest.mark.parametrize(
    ("retention", "keeps"),
    [
        (None, False),
        (Retention(), False),
        (Retention(keep_within="0d"), False),
        (Retention(keep_within="0y0m"), False),
        (Retention(keep_within="0y1d"), True),
        (Retention(keep_last=1), True),
        (Retention(keep_yearly=1), True),
    ],
    ids=repr,
)
def test_retention_keeps_something_or_nothing(retention: Retention | None, keeps: bool) -> None:
    assert has_keep_rule(retention) is keeps


@pytest.mark.parametrize("kind", ["backup", "forget"])
def test_kind_that_works_on_a_source_needs_one(kind: str) -> None:
    with pytest.raises(InvalidError, match=f"source: name the source to {kind}"):
        rules.check_source(ScheduleKind(kind), None)


@pytest.mark.parametrize("kind", ["prune", "check"])
def test_kind_that_works_on_the_repository_takes_no_source(kind: str) -> None:
    rules.check_source(ScheduleKind(kind), None)

    with pytest.raises(InvalidError, match=r"source: .* leave it out"):
        rules.check_source(ScheduleKind(kind), build_source())


def test_forget_needs_a_keep_rule_and_a_backup_does_not() -> None:
    rules.check_source(ScheduleKind.BACKUP, build_source(None))

    with pytest.raises(InvalidError, match="no keep rule"):
        rules.check_source(ScheduleKind.FORGET, build_source(None))


@pytest.mark.parametrize("kind", list(ScheduleKind))
def test_only_a_backup_runs_without_the_server(kind: ScheduleKind) -> None:
    is_backup = kind is ScheduleKind.BACKUP

    assert rules.choose_when_unreachable(kind, None) == ("run" if is_backup else "wait")
    assert rules.choose_when_unreachable(kind, "wait") == "wait"


def test_next_fire_is_the_slot_and_the_jitter() -> None:
    schedule = build_schedule(jitter=3600.0)
    delay = timedelta(seconds=draw_jitter(rules.key_of(schedule), 3600.0))
    slot = datetime(2026, 11, 24, 1, 30, tzinfo=UTC)

    assert delay > timedelta()
    assert rules.find_next_fire(schedule, NOW) == slot + delay
    # Between the slot and its delayed fire, that fire is still to come.
    assert rules.find_next_fire(schedule, slot) == slot + delay
    assert rules.find_next_fire(schedule, slot + delay) == slot + timedelta(days=1) + delay


@pytest.mark.parametrize("changes", [{"enabled": False}, {"timezone": "Atlantis/Port"}], ids=str)
def test_schedule_that_cannot_fire_has_no_next_fire(changes: dict[str, Any]) -> None:
    assert rules.find_next_fire(build_schedule(**changes), NOW) is None


def test_previews_end_where_time_ends() -> None:
    cron = rules.parse("0 0 1 1 *", "Pacific/Kiritimati", hash_key=None)

    fires = rules.preview(cron, start=datetime(9940, 1, 2, tzinfo=UTC), count=100)

    assert fires[0].at == "9941-01-01T00:00:00+14:00"
    assert 10 < len(fires) < 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T12:00:00Z", NOW),
        ("2026-11-23T13:00:00+01:00", NOW),
        ("2026-11-23T13:00:00 01:00", NOW),
        ("2026-11-23 13:00 0100", NOW),
    ],
)
def test_start_of_a_preview_is_read(text: str, expected: datetime) -> None:
    assert parse_moment("from", text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-23T12:00:00",
        "2026-11-23",
        "2026-11-23 12:00",
        "1969-12-31T00:00:00Z",
        "2200-01-01T00:00:00Z",
    ],
)
def test_start_of_a_preview_that_is_no_moment_near_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidError) as refused:
        parse_moment("from", text)

    assert refused.value.errors[0].field == "from"


@pytest.mark.parametrize(
    ("if_match", "matches"),
    [
        (None, True),
        ("*", True),
        ('"3"', True),
        ('"2", "3"', True),
        ('"2"', False),
        ('"33"', False),
        ('W/"3"', False),  # If-Match compares strongly (RFC 9110, 13.1.1)
    ],
)
def test_if_match_names_the_states_that_will_do(if_match: str | None, matches: bool) -> None:
    assert rules.matches_etag(if_match, 3) is matches


@pytest.mark.parametrize("if_match", ["3", "", '"3', '"3" "4"', '"3",', '*, "3"'])
def test_if_match_that_is_no_list_of_etags_is_refused(if_match: str) -> None:
    with pytest.raises(InvalidError, match="If-Match: write the ETag as it was given"):
        rules.matches_etag(if_match, 3)
