"""One thing as a card: its title, its state, what people ask about it first."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from backhaul._repository_texts import (
    describe_lock,
    describe_password_change,
    describe_size,
    describe_upkeep,
    render_last,
)
from backhaul._result_texts import render_result
from backhaul.display import render_bytes, render_duration, render_options
from backhaul.html.markup import Markup, age, join, mark, page, tag
from backhaul.html.states import show_drift, show_enabled, show_host_state, show_job_state
from backhaul.wire.accounts import ApiToken, AuditEntry, EnrollmentToken, User
from backhaul.wire.events import Event
from backhaul.wire.fleet import Host, Repository, RepositorySize, Source
from backhaul.wire.jobs import TERMINAL_STATES, Job, JobState
from backhaul.wire.kinds import Retention
from backhaul.wire.schedules import Schedule
from backhaul.wire.snapshots import FileEntry, Snapshot
from backhaul.wire.wording import render_count

MAX_PATHS = 12


def render_card(data: Any, now: datetime) -> str:
    """Render one thing of the fleet."""
    title, rows = _lay_out(data, now)
    return page(_title(title), *rows, label=title)


def render_job(job: Job, now: datetime) -> str:
    """Render a job: a progress bar while it runs, a summary when it has ended."""
    title = f"{job.kind} on {job.host}"
    rows: list[tuple[str, str]] = [("state", show_job_state(job, now))]
    if job.message:
        rows.append(("why", job.message))
    if figures := render_result(job):
        rows.append(("result", figures))
    rows += [
        ("repository", _describe_place(job)),
        ("made", join(age(job.created_at, now), f" by {_describe_maker(job)}")),
        ("took", _describe_time(job, now)),
        ("id", str(job.id)),
    ]
    return page(_title(title), _show_progress(job), _card(rows), label=title)


def _lay_out(  # noqa: C901, PLR0912 (a case for each kind of thing)
    data: Any, now: datetime
) -> tuple[str, list[str]]:
    match data:
        case Host():
            return f"host {data.name}", [_card(_host_rows(data, now))]
        case Schedule():
            return f"schedule: {data.kind} on {data.host}", [_card(_schedule_rows(data, now))]
        case Source():
            return f"source {data.name}", [_card(_source_rows(data))]
        case Repository():
            return f"repository {data.name}", [_card(_repository_rows(data, now))]
        case RepositorySize():
            return "size of a repository", [_card(_size_rows(data, now))]
        case Snapshot():
            return f"snapshot {data.short_id}", [_card(_snapshot_rows(data, now))]
        case FileEntry():
            return f"{data.type} {data.path}", [_card(_file_rows(data, now))]
        case ApiToken():
            ends = age(data.expires_at, now, absent="when it is revoked")
            used = age(data.last_used_at, now)
            return f"API token {data.name}", [_card([("used", used), ("ends", ends)])]
        case User():
            state = show_enabled(is_enabled=data.disabled_at is None, error=None)
            seen = age(data.last_login_at, now)
            return f"operator {data.username}", [_card([("state", state), ("signed in", seen)])]
        case EnrollmentToken():
            rows = [
                ("for", data.host_name or "any host"),
                ("uses left", str(data.uses_left)),
                ("ends", age(data.expires_at, now)),
                ("labels", _labels(data.labels)),
            ]
            return f"enrollment token {data.id}", [_card(rows)]
        case Event():
            rows = [
                ("when", age(data.at, now)),
                ("host", data.host or "-"),
                ("on", data.target or data.job_kind or "-"),
                ("who", data.actor or "-"),
            ]
            return data.kind, [_card([*rows, ("why", data.message)] if data.message else rows)]
        case AuditEntry():
            rows = [
                ("who", data.actor or data.actor_kind),
                ("what", data.target or "-"),
                ("when", age(data.at, now)),
            ]
            return data.action, [_card(rows)]
        case _:
            return type(data).__name__, [tag("pre", repr(data))]


def _host_rows(host: Host, now: datetime) -> list[tuple[str, str]]:
    restic = host.facts.restic_version or "not found"
    return [
        ("state", join(show_host_state(host), ", seen ", age(host.last_seen_at, now))),
        ("last good backup", age(host.last_backup_at, now)),
        ("next fire", age(host.next_fire_at, now, absent="nothing is scheduled")),
        ("drift", show_drift(host)),
        ("labels", _labels(host.labels)),
        ("system", f"{host.facts.os}, {host.facts.architecture}"),
        ("versions", f"agent {host.facts.agent_version}, restic {restic}"),
    ]


def _file_rows(entry: FileEntry, now: datetime) -> list[tuple[str, str]]:
    owner, group = entry.user or str(entry.uid), entry.group or str(entry.gid)
    rows: list[tuple[str, str]] = [
        ("size", "-" if entry.size is None else render_bytes(entry.size)),
        ("changed", age(entry.mtime, now, absent="-")),
        ("owner", f"{owner}:{group}"),
        ("mode", "-" if entry.mode is None else f"{entry.mode:04o}"),
    ]
    return [*rows, ("leads to", entry.link_target)] if entry.link_target else rows


def _schedule_rows(one: Schedule, now: datetime) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [
        ("state", show_enabled(is_enabled=one.enabled, error=one.error)),
        ("when", f"{one.cron}  ({one.timezone})"),
        ("next fire", age(one.next_fire_at, now, absent="-")),
        ("what", one.source or "-"),
        ("repository", one.repository),
        ("missed", "one fire catches up" if one.catch_up == "once" else "is skipped"),
        ("tried", "once" if one.attempts == 1 else f"up to {one.attempts} times"),
        ("without the server", "runs" if one.when_unreachable == "run" else "waits"),
    ]
    if options := render_options(one):
        rows.append(("options", options))
    return [*rows, ("why", one.error)] if one.error else rows


def _source_rows(source: Source) -> list[tuple[str, str]]:
    return [
        ("dump", source.dump) if source.dump else ("paths", _lines(source.paths)),
        ("excludes", _lines(source.excludes) if source.excludes else "none"),
        ("tags", ", ".join((source.name, *source.tags))),
        *([("limits", text)] if (text := _describe_limits(source)) else []),
        ("keeps", _describe_retention(source.retention)),
    ]


def _describe_limits(source: Source) -> str:
    """Tell what a backup leaves out or holds back besides its excludes; empty when nothing."""
    said = {
        "excludes of": ", ".join(source.exclude_files),
        "no": "caches" if source.exclude_caches else "",
        "nothing larger than": source.exclude_larger_than or "",
        "one": "file system" if source.one_file_system else "",
        "upload": _render_rate(source.limit_upload),
        "download": _render_rate(source.limit_download),
        "compression": source.compression or "",
        "nice": "" if source.nice is None else str(source.nice),
        "ionice": source.ionice or "",
    }
    return ", ".join(f"{name} {value}" for name, value in said.items() if value)


def _render_rate(kib: int | None) -> str:
    return "" if kib is None else f"{kib} KiB/s"


def _repository_rows(one: Repository, now: datetime) -> list[tuple[str, str]]:
    names = ", ".join(one.environment_names) or "none"
    return [
        ("location", one.location),
        ("known to exist", age(one.initialized_at, now, absent="not yet: run an init job")),
        ("environment", names),
        ("data read", f"{one.read_coverage:.0%} in 30 days"),
        ("upkeep", describe_upkeep(one)),
        ("size", describe_size(one, now)),
        ("locked", describe_lock(one, now)),
        ("last check", render_last(one.last_check, now)),
        ("last prune", render_last(one.last_prune, now)),
        ("last forget", render_last(one.last_forget, now)),
        *([("password", text)] if (text := describe_password_change(one)) else []),
        ("made", age(one.created_at, now)),
    ]


def _size_rows(one: RepositorySize, now: datetime) -> list[tuple[str, str]]:
    restored = one.restore_size
    return [
        ("measured", age(one.measured_at, now)),
        ("takes", render_bytes(one.total_size)),
        ("snapshots", f"{one.snapshots_count:,}"),
        ("newest restores to", "-" if restored is None else render_bytes(restored)),
    ]


def _snapshot_rows(one: Snapshot, now: datetime) -> list[tuple[str, str]]:
    return [
        ("made", join(age(one.time, now), f" on {one.hostname}")),
        ("repository", one.repository),
        ("paths", _lines(one.paths)),
        ("tags", ", ".join(one.tags) or "none"),
        *([("doubt", one.doubt)] if one.doubt else []),
        ("id", one.id),
    ]


def _show_progress(job: Job) -> Markup:
    if job.state in TERMINAL_STATES or job.state is JobState.QUEUED:
        return Markup("")
    progress = job.progress
    done = min(max(progress.percent_done, 0.0), 1.0) if progress else 0.0
    text = "starting"
    if progress is not None:
        text = (
            f"{done:.0%}, {progress.files_done:,} of {render_count(progress.total_files, 'file')}, "
            f"{render_bytes(progress.bytes_done)} of {render_bytes(progress.total_bytes)}"
        )
        if progress.seconds_remaining is not None:
            text += f", {render_duration(progress.seconds_remaining)} left"
    bar = tag(
        "div",
        tag("div", style=f"width:{done:.1%}"),
        class_="bh-bar",
        role="progressbar",
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=f"{done * 100:.0f}",
        aria_label=f"{job.kind} on {job.host}",
    )
    return join(bar, tag("div", text))


def _describe_place(job: Job) -> str:
    place = job.repository or "-"
    return place if job.destination is None else f"{place}, copied to {job.destination}"


def _describe_maker(job: Job) -> str:
    if job.scheduled_at is None:
        return str(job.actor_kind)
    text = f"its schedule, for {job.scheduled_at.isoformat(timespec='minutes')}"
    text += f" and {job.missed:,} missed" if job.missed else ""
    return f"{text}, without the server" if job.ran_offline else text


def _describe_time(job: Job, now: datetime) -> str:
    if job.started_at is None:
        return "has not started"
    end = job.finished_at or now
    return render_duration((end - job.started_at).total_seconds())


def _describe_retention(retention: Retention | None) -> str:
    if retention is None:
        return "everything"
    rules = ((name, getattr(retention, name)) for name in retention.__struct_fields__)
    kept = [f"{name.removeprefix('keep_')} {value}" for name, value in rules if value is not None]
    return ", ".join(kept) or "everything"


def _labels(labels: dict[str, str]) -> Markup:
    if not labels:
        return mark("mute", "", "none")
    shown = (tag("span", f"{key}={value}", class_="bh-label") for key, value in labels.items())
    return join(*shown)


def _lines(texts: tuple[str, ...]) -> str:
    more = len(texts) - MAX_PATHS
    shown = "\n".join(texts[:MAX_PATHS])
    return f"{shown}\n… {more:,} more" if more > 0 else shown


def _title(text: str) -> Markup:
    return tag("div", text, class_="bh-title")


def _card(rows: list[tuple[str, str]]) -> Markup:
    cells = (tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows)
    return tag("table", tag("tbody", *cells), class_="bh-card")
