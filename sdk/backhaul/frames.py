"""Tables of pandas, made of what the API said: a column for each figure, of its proper type.

Times are `datetime64[us, UTC]`, durations `timedelta64[us]`, counts and sizes whole numbers that
may be missing (`Int64`), states and kinds categories in their order. Built column by column: a row
of its own for each of ten thousand jobs would take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from backhaul.errors import MissingPackageError
from backhaul.wire.fleet import HostState
from backhaul.wire.jobs import JobState, is_dry_run
from backhaul.wire.kinds import BackupResult, DrillResult, JobKind

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame

Getter = Callable[[Any], Any]

TIME = "datetime64[us, UTC]"
DURATION = "timedelta64[us]"
COUNT = "Int64"
SHARE = "Float64"
FLAG = "boolean"
TEXT = "str"
OBJECT = "object"


def require_pandas() -> Any:
    """Import pandas.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingPackageError("Tables need pandas: pip install 'backhaul[notebook]'") from error
    return pandas


def build(noun: str, rows: Sequence[Any]) -> DataFrame:
    """Build the table of things of one kind, as the collections name them: `jobs`, `hosts` …

    Raises:
        MissingPackageError: pandas is not installed.
    """
    pandas = require_pandas()
    columns = {
        name: _make_column(pandas, dtype, [get(row) for row in rows])
        for name, dtype, get in COLUMNS[noun]
    }
    return pandas.DataFrame(columns)


def _make_column(pandas: Any, dtype: Any, values: list[Any]) -> Any:
    if isinstance(dtype, tuple):
        dtype = pandas.CategoricalDtype(list(dtype), ordered=False)
    if dtype == TIME:
        return pandas.Series(pandas.to_datetime(values, utc=True)).astype(TIME)
    if dtype == DURATION:
        return pandas.Series(pandas.to_timedelta(values, unit="s")).astype(DURATION)
    return pandas.Series(values, dtype=dtype)


def _get(name: str) -> Getter:
    return lambda row: getattr(row, name)


def _text(name: str) -> Getter:
    def get(row: Any) -> str | None:
        value = getattr(row, name)
        return None if value is None else str(value)

    return get


def _joined(name: str) -> Getter:
    return lambda row: ", ".join(getattr(row, name))


def _result(name: str) -> Getter:
    return lambda row: getattr(row.result, name, None)


def _count_unreadable(row: Any) -> int | None:
    match row.result:
        case BackupResult() as backup:
            return backup.unreadable
        case DrillResult() as drill:
            return drill.files_unreadable
    return None


def _duration(row: Any) -> float | None:
    if row.started_at is None or row.finished_at is None:
        return None
    seconds: float = (row.finished_at - row.started_at).total_seconds()
    return seconds


_JOB_STATES = tuple(state.value for state in JobState)
_KINDS = tuple(kind.value for kind in JobKind)
_HOST_STATES = tuple(state.value for state in HostState)

COLUMNS: dict[str, list[tuple[str, Any, Getter]]] = {
    "hosts": [
        ("name", TEXT, _get("name")),
        ("state", _HOST_STATES, _text("state")),
        ("last_backup_at", TIME, _get("last_backup_at")),
        ("next_fire_at", TIME, _get("next_fire_at")),
        ("last_seen_at", TIME, _get("last_seen_at")),
        ("has_drift", FLAG, lambda row: row.drift is not None),
        ("labels", OBJECT, _get("labels")),
        ("os", TEXT, lambda row: row.facts.os),
        ("agent_version", TEXT, lambda row: row.facts.agent_version),
        ("restic_version", TEXT, lambda row: row.facts.restic_version),
        ("enrolled_at", TIME, _get("enrolled_at")),
        ("id", TEXT, _text("id")),
    ],
    "jobs": [
        ("id", TEXT, _text("id")),
        ("host", TEXT, _get("host")),
        ("kind", _KINDS, _text("kind")),
        ("state", _JOB_STATES, _text("state")),
        ("repository", TEXT, _get("repository")),
        ("destination", TEXT, _get("destination")),
        ("created_at", TIME, _get("created_at")),
        ("started_at", TIME, _get("started_at")),
        ("finished_at", TIME, _get("finished_at")),
        ("duration", DURATION, _duration),
        ("scheduled_at", TIME, _get("scheduled_at")),
        ("missed", COUNT, _get("missed")),
        ("ran_offline", FLAG, _get("ran_offline")),
        ("dry_run", FLAG, is_dry_run),
        ("attempt", COUNT, _get("attempt")),
        ("attempts", COUNT, _get("attempts")),
        ("stalled_since", TIME, _get("stalled_since")),
        ("exit_code", COUNT, _get("exit_code")),
        ("failure_class", TEXT, _text("failure_class")),
        ("message", TEXT, _get("message")),
        ("files", COUNT, _result("total_files_processed")),
        ("bytes", COUNT, _result("total_bytes_processed")),
        ("bytes_added", COUNT, _result("data_added")),
        ("unreadable", COUNT, _count_unreadable),
        ("snapshot", TEXT, _result("snapshot_id")),
        ("schedule", TEXT, _text("schedule_id")),
    ],
    "schedules": [
        ("host", TEXT, _get("host")),
        ("kind", _KINDS, _text("kind")),
        ("cron", TEXT, _get("cron")),
        ("timezone", TEXT, _get("timezone")),
        ("enabled", FLAG, _get("enabled")),
        ("source", TEXT, _get("source")),
        ("repository", TEXT, _get("repository")),
        ("next_fire_at", TIME, _get("next_fire_at")),
        ("jitter", DURATION, _get("jitter")),
        ("error", TEXT, _get("error")),
        ("id", TEXT, _text("id")),
    ],
    "sources": [
        ("name", TEXT, _get("name")),
        ("paths", OBJECT, lambda row: list(row.paths)),
        ("excludes", OBJECT, lambda row: list(row.excludes)),
        ("tags", OBJECT, lambda row: list(row.tags)),
        ("dump", TEXT, _get("dump")),
        ("created_at", TIME, _get("created_at")),
        ("updated_at", TIME, _get("updated_at")),
        ("id", TEXT, _text("id")),
    ],
    "repositories": [
        ("name", TEXT, _get("name")),
        ("location", TEXT, _get("location")),
        ("created_at", TIME, _get("created_at")),
        ("initialized_at", TIME, _get("initialized_at")),
        ("size", COUNT, lambda row: row.size and row.size.total_size),
        ("snapshots", COUNT, lambda row: row.size and row.size.snapshots_count),
        ("measured_at", TIME, lambda row: row.size and row.size.measured_at),
        ("growth_30d", COUNT, lambda row: row.growth_30d and row.growth_30d.bytes),
        ("locked_since", TIME, lambda row: row.lock and row.lock.since),
        ("last_check_at", TIME, lambda row: row.last_check and row.last_check.finished_at),
        ("last_check", TEXT, lambda row: row.last_check and str(row.last_check.state)),
        ("last_prune_at", TIME, lambda row: row.last_prune and row.last_prune.finished_at),
        ("last_forget_at", TIME, lambda row: row.last_forget and row.last_forget.finished_at),
        ("upkeep_host", TEXT, _get("upkeep_host")),
        ("id", TEXT, _text("id")),
    ],
    "sizes": [
        ("measured_at", TIME, _get("measured_at")),
        ("total_size", COUNT, _get("total_size")),
        ("snapshots_count", COUNT, _get("snapshots_count")),
        ("blobs_count", COUNT, _get("blobs_count")),
        ("uncompressed_size", COUNT, _get("uncompressed_size")),
        ("restore_size", COUNT, _get("restore_size")),
        ("job", TEXT, _text("job_id")),
    ],
    "snapshots": [
        ("short_id", TEXT, _get("short_id")),
        ("time", TIME, _get("time")),
        ("hostname", TEXT, _get("hostname")),
        ("repository", TEXT, _get("repository")),
        ("paths", TEXT, _joined("paths")),
        ("tags", TEXT, _joined("tags")),
        ("job", TEXT, _text("job_id")),
        ("doubt", TEXT, _get("doubt")),
        ("id", TEXT, _get("id")),
    ],
    "files": [
        ("path", TEXT, _get("path")),
        ("name", TEXT, _get("name")),
        ("type", TEXT, _get("type")),
        ("size", COUNT, _get("size")),
        ("mode", COUNT, _get("mode")),
        ("mtime", TIME, _get("mtime")),
        ("uid", COUNT, _get("uid")),
        ("gid", COUNT, _get("gid")),
        ("user", TEXT, _get("user")),
        ("group", TEXT, _get("group")),
        ("link_target", TEXT, _get("link_target")),
    ],
    "api_tokens": [
        ("name", TEXT, _get("name")),
        ("created_at", TIME, _get("created_at")),
        ("last_used_at", TIME, _get("last_used_at")),
        ("expires_at", TIME, _get("expires_at")),
        ("id", TEXT, _text("id")),
    ],
    "users": [
        ("username", TEXT, _get("username")),
        ("created_at", TIME, _get("created_at")),
        ("last_login_at", TIME, _get("last_login_at")),
        ("disabled_at", TIME, _get("disabled_at")),
        ("id", TEXT, _text("id")),
    ],
    "enrollment_tokens": [
        ("host_name", TEXT, _get("host_name")),
        ("uses_left", COUNT, _get("uses_left")),
        ("created_at", TIME, _get("created_at")),
        ("expires_at", TIME, _get("expires_at")),
        ("id", TEXT, _text("id")),
    ],
    "events": [
        ("at", TIME, _get("at")),
        ("kind", TEXT, _get("kind")),
        ("host", TEXT, _get("host")),
        ("job_kind", _KINDS, _text("job_kind")),
        ("job", TEXT, _text("job_id")),
        ("target", TEXT, _get("target")),
        ("actor", TEXT, _get("actor")),
        ("message", TEXT, _get("message")),
        ("id", COUNT, _get("id")),
    ],
    "audit": [
        ("at", TIME, _get("at")),
        ("actor", TEXT, lambda row: row.actor or row.actor_kind),
        ("action", TEXT, _get("action")),
        ("target_kind", TEXT, _get("target_kind")),
        ("target", TEXT, _get("target")),
        ("id", TEXT, _text("id")),
    ],
}
