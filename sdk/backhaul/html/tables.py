"""Many things as a table: a column for what tells them apart, and for how they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from backhaul._repository_texts import render_last
from backhaul._result_texts import render_result
from backhaul.display import render_bytes, render_duration
from backhaul.html.markup import Markup, age, page, tag
from backhaul.html.states import (
    show_drift,
    show_enabled,
    show_event,
    show_host_state,
    show_job_state,
)
from backhaul.wire.jobs import Job

Column = tuple[str, Callable[[Any, datetime], str]]


def render_rows(noun: str, rows: Sequence[Any], now: datetime, *, has_more: bool) -> str:
    """Render rows of one kind; `has_more` says that these are only the first."""
    title = noun.replace("_", " ")
    if not rows:
        return page(tag("div", f"No {title}.", class_="bh-mute"), label=title)
    columns = COLUMNS.get(noun, _UNKNOWN)
    note = f"The first {len(rows)}. Iterate, or call to_pandas(), for all." if has_more else ""
    return page(
        _table(title, columns, rows, now),
        tag("div", note, class_="bh-note") if note else Markup(""),
        label=title,
    )


def build_rows(noun: str, rows: Sequence[Any], now: datetime) -> Markup:
    """Build the table of such rows as a part of something larger."""
    title = noun.replace("_", " ")
    if not rows:
        return tag("div", f"No {title}.", class_="bh-mute")
    return _table(title, COLUMNS[noun], rows, now)


def _table(title: str, columns: Sequence[Column], rows: Sequence[Any], now: datetime) -> Markup:
    head = tag("tr", *(tag("th", name, scope="col") for name, _ in columns))
    body = []
    for row in rows:
        first, *others = (show(row, now) for _, show in columns)
        body.append(tag("tr", tag("th", first, scope="row"), *(tag("td", one) for one in others)))
    return tag("table", tag("thead", head), tag("tbody", *body), aria_label=title)


def _show_job_duration(job: Job, now: datetime) -> str:
    if job.started_at is None:
        return "-"
    return render_duration(((job.finished_at or now) - job.started_at).total_seconds())


def _show_job_news(job: Job, _: datetime) -> str:
    if job.message:
        return job.message
    if job.result is None and job.progress is not None:
        return f"{job.progress.percent_done:.0%}"
    return render_result(job)


COLUMNS: dict[str, list[Column]] = {
    "hosts": [
        ("host", lambda one, _: one.name),
        ("state", lambda one, _: show_host_state(one)),
        ("last good backup", lambda one, now: age(one.last_backup_at, now)),
        ("next fire", lambda one, now: age(one.next_fire_at, now, absent="-")),
        ("drift", lambda one, _: show_drift(one)),
        ("labels", lambda one, _: ", ".join(f"{k}={v}" for k, v in one.labels.items())),
    ],
    "jobs": [
        ("job", lambda one, _: str(one.id)[-12:]),
        ("host", lambda one, _: one.host),
        ("kind", lambda one, _: str(one.kind)),
        ("state", lambda one, now: show_job_state(one, now)),
        ("made", lambda one, now: age(one.created_at, now)),
        ("took", _show_job_duration),
        ("what came of it", _show_job_news),
    ],
    "schedules": [
        ("host", lambda one, _: one.host),
        ("kind", lambda one, _: str(one.kind)),
        ("when", lambda one, _: one.cron),
        ("time zone", lambda one, _: one.timezone),
        ("what", lambda one, _: one.source or "-"),
        ("repository", lambda one, _: one.repository),
        ("state", lambda one, _: show_enabled(is_enabled=one.enabled, error=one.error)),
        ("next fire", lambda one, now: age(one.next_fire_at, now, absent="-")),
    ],
    "sources": [
        ("source", lambda one, _: one.name),
        ("paths", lambda one, _: f"dump {one.dump}" if one.dump else ", ".join(one.paths)),
        ("excludes", lambda one, _: ", ".join(one.excludes) or "-"),
        ("changed", lambda one, now: age(one.updated_at, now)),
    ],
    "repositories": [
        ("repository", lambda one, _: one.name),
        ("location", lambda one, _: one.location),
        ("known to exist", lambda one, now: age(one.initialized_at, now, absent="not yet")),
        ("size", lambda one, _: "-" if one.size is None else render_bytes(one.size.total_size)),
        ("checked", lambda one, now: render_last(one.last_check, now)),
        ("locked", lambda one, now: "no" if one.lock is None else age(one.lock.since, now)),
    ],
    "sizes": [
        ("measured", lambda one, now: age(one.measured_at, now)),
        ("size", lambda one, _: render_bytes(one.total_size)),
        ("snapshots", lambda one, _: f"{one.snapshots_count:,}"),
        (
            "newest restores to",
            lambda one, _: "-" if one.restore_size is None else render_bytes(one.restore_size),
        ),
    ],
    "snapshots": [
        ("snapshot", lambda one, _: one.short_id),
        ("host", lambda one, _: one.hostname),
        ("made", lambda one, now: age(one.time, now)),
        ("repository", lambda one, _: one.repository),
        ("paths", lambda one, _: ", ".join(one.paths)),
        ("tags", lambda one, _: ", ".join(one.tags)),
        ("doubt", lambda one, _: one.doubt or ""),
    ],
    "files": [
        ("path", lambda one, _: one.path),
        ("type", lambda one, _: one.type),
        ("size", lambda one, _: "-" if one.size is None else render_bytes(one.size)),
        ("changed", lambda one, now: age(one.mtime, now, absent="-")),
        ("owner", lambda one, _: one.user or str(one.uid if one.uid is not None else "-")),
    ],
    "api_tokens": [
        ("token", lambda one, _: one.name),
        ("made", lambda one, now: age(one.created_at, now)),
        ("used", lambda one, now: age(one.last_used_at, now)),
        ("ends", lambda one, now: age(one.expires_at, now, absent="when it is revoked")),
    ],
    "users": [
        ("operator", lambda one, _: one.username),
        ("state", lambda one, _: show_enabled(is_enabled=one.disabled_at is None, error=None)),
        ("made", lambda one, now: age(one.created_at, now)),
        ("signed in", lambda one, now: age(one.last_login_at, now)),
    ],
    "enrollment_tokens": [
        ("token", lambda one, _: str(one.id)),
        ("for", lambda one, _: one.host_name or "any host"),
        ("uses left", lambda one, _: str(one.uses_left)),
        ("ends", lambda one, now: age(one.expires_at, now)),
    ],
    "events": [
        ("when", lambda one, now: age(one.at, now)),
        ("what", lambda one, _: show_event(one)),
        ("host", lambda one, _: one.host or "-"),
        ("on", lambda one, _: one.target or one.job_kind or "-"),
        ("who", lambda one, _: one.actor or "-"),
        ("why", lambda one, _: one.message or ""),
    ],
    "audit": [
        ("when", lambda one, now: age(one.at, now)),
        ("who", lambda one, _: one.actor or one.actor_kind),
        ("action", lambda one, _: one.action),
        ("target", lambda one, _: one.target or "-"),
    ],
}
_UNKNOWN: list[Column] = [("", lambda one, _: repr(one))]
