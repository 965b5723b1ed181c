"""Pictures: charts of altair that hold what the fleet said, and can be changed."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from backhaul import charts, frames
from backhaul.errors import MissingPackageError
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import BackupResult
from tests.unit.sdk.builders import NOW, build_host, build_job, build_schedule

DAY = timedelta(days=1)


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """Give the rows of a chart's table; to_dict checks it against the schema of Vega-Lite."""
    drawn = chart.to_dict()
    return max(map(list, drawn["datasets"].values()), key=len)


def test_timeline_has_a_bar_for_each_job_in_the_colour_of_its_end() -> None:
    jobs = [
        build_job(state, host=host, started_at=NOW, finished_at=NOW + timedelta(minutes=5))
        for host, state in (("a", JobState.SUCCEEDED), ("b", JobState.FAILED))
    ]

    chart = charts.timeline(jobs)

    assert [(row["host"], row["state"]) for row in rows_of(chart)] == [
        ("a", "succeeded"),
        ("b", "failed"),
    ]
    assert chart.properties(width=100).to_dict()["width"] == 100


def test_calendar_takes_the_best_backup_of_each_day() -> None:
    hosts = [build_host("a"), build_host("b")]
    jobs = [
        build_job(state, host="a", finished_at=NOW - days * DAY)
        for days, state in (
            (0, JobState.FAILED),
            (0, JobState.SUCCEEDED),
            (1, JobState.INCOMPLETE),
            (2, JobState.LOST),
        )
    ]

    rows = rows_of(charts.calendar(hosts, jobs, days=4, now=NOW))

    assert [row["backup"] for row in rows if row["host"] == "a"] == [
        "none",
        "failed",
        "incomplete",
        "good",
    ]
    assert {row["backup"] for row in rows if row["host"] == "b"} == {"none"}


def test_dry_run_is_no_backup_in_any_picture() -> None:
    trial = build_job(
        JobState.SUCCEEDED,
        host="a",
        finished_at=NOW,
        result=BackupResult(data_added=10, dry_run=True),
    )

    calendar = rows_of(charts.calendar([build_host("a")], [trial], days=1, now=NOW))

    assert [row["backup"] for row in calendar] == ["none"]
    assert charts.growth([trial], name="nas").to_dict()["title"]["subtitle"]
    assert bool(frames.build("jobs", [trial])["dry_run"][0])


def test_upcoming_counts_fires_by_the_hour_and_leaves_out_the_disabled() -> None:
    hourly = build_schedule(cron="30 * * * *", timezone="UTC", enabled=True)
    schedules = [hourly, hourly, msgspec.structs.replace(hourly, enabled=False)]

    rows = rows_of(charts.upcoming(schedules, days=1, now=NOW))

    assert len(rows) == 24
    assert {row["count"] for row in rows} == {2}


def test_growth_adds_up() -> None:
    jobs = [
        build_job(
            JobState.SUCCEEDED, finished_at=NOW - days * DAY, result=BackupResult(data_added=size)
        )
        for days, size in ((2, 5), (1, 7), (1, 1))
    ]

    rows = rows_of(charts.growth(jobs, name="nas"))

    assert [(row["added"], row["total"]) for row in rows] == [(5, 5), (8, 13)]


def test_compliance_judges_by_the_age_of_the_last_good_backup() -> None:
    def build(name: str, hours: float | None) -> Any:
        at = None if hours is None else NOW - timedelta(hours=hours)
        return msgspec.structs.replace(build_host(name), last_backup_at=at)

    chart = charts.compliance(
        [build("a", 2), build("b", 24), build("c", 24.2), build("d", None)], rpo_s=86_400, now=NOW
    )

    assert [row["verdict"] for row in rows_of(chart)] == ["within", "within", "late", "never"]
    assert chart.to_dict()["title"]["text"] == "2 of 4 hosts are beyond 24 h"


def test_pictures_of_nothing_say_so() -> None:
    for chart in (
        charts.timeline([]),
        charts.calendar([], [], days=3, now=NOW),
        charts.upcoming([], days=3, now=NOW),
        charts.growth([], name="nas"),
        charts.compliance([], rpo_s=1, now=NOW),
    ):
        assert chart.to_dict()["title"]["subtitle"] == ["There is nothing to show yet."]


def test_more_rows_than_altair_takes_by_default_are_drawn() -> None:
    jobs = [build_job(JobState.SUCCEEDED, started_at=NOW, finished_at=NOW)] * 5001

    assert len(rows_of(charts.timeline(jobs))) == 5001


def test_without_altair_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)

    with pytest.raises(MissingPackageError, match="pip install"):
        charts.timeline([])
