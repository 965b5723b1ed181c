"""Pictures of a fleet: ordinary charts of altair, to be changed like any other.

Each function takes what the API said and gives one chart. Colours are those of Okabe and Ito, which
people who see colours differently tell apart; the tooltip has the words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from backhaul import frames
from backhaul.errors import MissingPackageError
from backhaul.wire.fleet import Host
from backhaul.wire.jobs import Job, JobState, is_dry_run, is_real_backup
from backhaul.wire.schedules import Schedule

if TYPE_CHECKING:
    import altair

    AnyChart = altair.Chart | altair.LayerChart

ENDED_WITH_SNAPSHOT = (JobState.SUCCEEDED, JobState.INCOMPLETE)

STATE_COLOURS = {
    JobState.SUCCEEDED: "#009E73",
    JobState.INCOMPLETE: "#E69F00",
    JobState.FAILED: "#D55E00",
    JobState.LOST: "#CC79A7",
    JobState.EXPIRED: "#F0E442",
    JobState.REJECTED: "#8C4A00",
    JobState.CANCELLED: "#999999",
    JobState.RUNNING: "#0072B2",
    JobState.ACCEPTED: "#56B4E9",
    JobState.QUEUED: "#BBBBBB",
}
GOOD, LATE, NEVER = "#009E73", "#D55E00", "#999999"

MAX_FIRES_PER_SCHEDULE = 2000
"""A schedule that fires every minute for a week has five times that: the picture says so."""

_ROW_HEIGHT = 18
_WIDTH = 680


def require_packages() -> Any:
    """Import altair, and make sure of pandas.

    Raises:
        MissingPackageError: one is not installed.
    """
    frames.require_pandas()
    try:
        import altair
    except ImportError as error:
        raise MissingPackageError("Charts need altair: pip install 'backhaul[notebook]'") from error
    return altair


def timeline(jobs: Sequence[Job]) -> AnyChart:
    """Draw the jobs of each host over time, coloured by how they ended."""
    alt = require_packages()
    rows = [
        {
            "host": job.host,
            "kind": str(job.kind),
            "state": str(job.state),
            "from": job.started_at or job.created_at,
            "to": job.finished_at or job.started_at or job.created_at,
            "message": job.message or "",
        }
        for job in jobs
    ]
    chart = alt.Chart(_frame(rows, ["host", "kind", "state", "from", "to", "message"]))
    encoding = chart.encode(
        x=alt.X("from:T", title=None),
        x2="to:T",
        y=alt.Y("host:N", title=None, sort="ascending"),
        color=_state_colour(alt),
        tooltip=["host:N", "kind:N", "state:N", _time("from"), _time("to"), "message:N"],
    )
    # A backup of a minute would not be seen in a month: each has at least a stroke.
    bars = encoding.mark_bar(height=10, stroke=None, minBandSize=4)
    ticks = encoding.mark_tick(thickness=3, height=10).encode(x2=alt.Undefined)
    return _titled(alt.layer(bars, ticks), "Jobs over time", rows, len({r["host"] for r in rows}))


def calendar(hosts: Sequence[Host], jobs: Iterable[Job], *, days: int, now: datetime) -> AnyChart:
    """Draw on which day of UTC each host had a good backup."""
    alt = require_packages()
    best: dict[tuple[str, str], str] = {}
    for job in jobs:
        if not is_real_backup(job) or job.finished_at is None:
            continue
        place = (job.host, job.finished_at.date().isoformat())
        best[place] = _better(best.get(place), _rate(job.state))
    first = (now - timedelta(days=days - 1)).date()
    dates = [(first + timedelta(days=number)).isoformat() for number in range(days)]
    rows = [
        {"host": host.name, "day": date, "backup": best.get((host.name, date), "none")}
        for host in hosts
        for date in dates
    ]
    chart = alt.Chart(_frame(rows, ["host", "day", "backup"])).mark_rect(stroke="white")
    encoded = chart.encode(
        x=alt.X("yearmonthdate(day):O", title=None, axis=alt.Axis(format="%d %b", labelAngle=-60)),
        y=alt.Y("host:N", title=None, sort="ascending"),
        color=alt.Color(
            "backup:N",
            title="backup",
            scale=alt.Scale(
                domain=["good", "incomplete", "failed", "none"],
                range=[GOOD, "#E69F00", LATE, "#DDDDDD"],
            ),
        ),
        tooltip=["host:N", alt.Tooltip("day:N", title="day"), "backup:N"],
    )
    return _titled(encoded, "Good backups by day", rows, len(hosts))


def upcoming(schedules: Sequence[Schedule], *, days: int, now: datetime) -> AnyChart:
    """Draw how many schedules fire in each hour to come, by kind: herds show as peaks."""
    alt = require_packages()
    until = now + timedelta(days=days)
    rows = [
        {"at": fire.replace(minute=0, second=0, microsecond=0), "kind": str(schedule.kind)}
        for schedule in schedules
        for fire in list_fires(schedule, now=now, until=until)
    ]
    chart = alt.Chart(_count(rows, ["at", "kind"])).mark_bar()
    encoded = chart.encode(
        x=alt.X("at:T", title=None),
        y=alt.Y("count:Q", title="fires in the hour", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("kind:N", scale=alt.Scale(range=["#0072B2", "#E69F00", "#CC79A7", GOOD])),
        tooltip=[_time("at"), "kind:N", "count:Q"],
    )
    return _titled(encoded, f"Fires of the next {days} days", rows, None)


def growth(jobs: Sequence[Job], *, name: str) -> AnyChart:
    """Draw the bytes that each day's backups added to a repository, and their sum."""
    alt = require_packages()
    added: dict[str, int] = {}
    for job in jobs:
        size = getattr(job.result, "data_added", None)
        if size is not None and job.finished_at is not None and not is_dry_run(job):
            day = job.finished_at.date().isoformat()
            added[day] = added.get(day, 0) + size
    rows, total = [], 0
    for day, size in sorted(added.items()):
        total += size
        rows.append({"day": day, "added": size, "total": total})
    base = alt.Chart(_frame(rows, ["day", "added", "total"])).encode(x=alt.X("day:T", title=None))
    size_axis = alt.Axis(format="~s")
    bars = base.mark_bar(color="#56B4E9").encode(
        y=alt.Y("added:Q", title="bytes added a day", axis=size_axis),
        tooltip=["day:T", alt.Tooltip("added:Q", format=",")],
    )
    line = base.mark_line(color="#0072B2", point=True).encode(
        y=alt.Y("total:Q", title="bytes added in all", axis=size_axis),
        tooltip=["day:T", alt.Tooltip("total:Q", format=",")],
    )
    layers = alt.layer(bars, line).resolve_scale(y="independent")
    return _titled(layers, f"Growth of {name}", rows, None)


def compliance(hosts: Sequence[Host], *, rpo_s: float, now: datetime) -> AnyChart:
    """Draw how old each host's last good backup is, against the recovery point objective."""
    alt = require_packages()
    rows = [_judge(host, rpo_s=rpo_s, now=now) for host in hosts]
    frame = _frame(rows, ["host", "hours", "verdict", "last_backup_at"])
    encoded = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("hours:Q", title="hours since the last good backup"),
            y=alt.Y("host:N", title=None, sort="-x"),
            color=alt.Color(
                "verdict:N",
                scale=alt.Scale(domain=["within", "late", "never"], range=[GOOD, LATE, NEVER]),
            ),
            tooltip=["host:N", "verdict:N", "hours:Q", _time("last_backup_at")],
        )
    )
    rule = alt.Chart(alt.Data(values=[{"rpo": rpo_s / 3600}])).mark_rule(strokeDash=[4, 3])
    late = sum(row["verdict"] != "within" for row in rows)
    title = f"{late} of {len(rows)} hosts are beyond {rpo_s / 3600:g} h"
    return _titled(alt.layer(encoded, rule.encode(x="rpo:Q")), title, rows, len(hosts))


def list_fires(schedule: Schedule, *, now: datetime, until: datetime) -> list[datetime]:
    """List when a schedule fires from now on, jitter included; at most 2,000 times.

    Raises:
        MissingPackageError: croniter is not installed.
    """
    try:
        from backhaul.cron import CronError, build_hash_key, draw_jitter, parse_cron
    except ImportError as error:
        raise MissingPackageError(
            "What is to come needs croniter: pip install 'backhaul[agent]'"
        ) from error
    if not schedule.enabled:
        return []
    key = build_hash_key(schedule.host_id, schedule.id)
    jitter = timedelta(seconds=draw_jitter(key, schedule.jitter))
    fires: list[datetime] = []
    try:
        cron = parse_cron(schedule.cron, schedule.timezone, hash_key=key)
    except CronError:
        return []  # this machine does not know its time zone
    for slot in cron.iterate_after(now - jitter):
        fire = slot + jitter
        if fire >= until or len(fires) == MAX_FIRES_PER_SCHEDULE:
            break
        fires.append(fire)
    return fires


def _judge(host: Host, *, rpo_s: float, now: datetime) -> dict[str, Any]:
    if host.last_backup_at is None:
        return {"host": host.name, "hours": None, "verdict": "never", "last_backup_at": None}
    age_s = max((now - host.last_backup_at).total_seconds(), 0.0)
    verdict = "within" if age_s <= rpo_s else "late"
    hours = round(age_s / 3600, 1)
    return {
        "host": host.name,
        "hours": hours,
        "verdict": verdict,
        "last_backup_at": host.last_backup_at,
    }


def _rate(state: JobState) -> str:
    if state is JobState.SUCCEEDED:
        return "good"
    return "incomplete" if state is JobState.INCOMPLETE else "failed"


def _better(one: str | None, other: str) -> str:
    order = ["good", "incomplete", "failed"]
    return other if one is None else min(one, other, key=order.index)


def _state_colour(alt: Any) -> Any:
    domain = [str(state) for state in STATE_COLOURS]
    scale = alt.Scale(domain=domain, range=list(STATE_COLOURS.values()))
    return alt.Color("state:N", scale=scale)


def _time(field: str) -> Any:
    return require_packages().Tooltip(f"{field}:T", format="%Y-%m-%d %H:%M")


def _count(rows: list[dict[str, Any]], fields: list[str]) -> Any:
    counts: dict[tuple[Any, ...], int] = {}
    for row in rows:
        key = tuple(row[field] for field in fields)
        counts[key] = counts.get(key, 0) + 1
    counted = [dict(zip(fields, key, strict=True), count=n) for key, n in counts.items()]
    return _frame(counted, [*fields, "count"])


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> Any:
    return frames.require_pandas().DataFrame(rows, columns=columns)


def _titled(chart: Any, title: str, rows: Sequence[Any], hosts: int | None) -> AnyChart:
    alt = require_packages()
    # altair refuses tables of more than 5,000 rows unless they are inlined on purpose.
    alt.data_transformers.disable_max_rows()
    subtitle = [] if rows else ["There is nothing to show yet."]
    height = 240 if hosts is None else max(_ROW_HEIGHT * hosts, 60)
    titled: AnyChart = chart.properties(
        title=alt.TitleParams(title, subtitle=subtitle, anchor="start"),
        width=_WIDTH,
        height=height,
    )
    return titled
