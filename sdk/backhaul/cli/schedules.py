"""backhaul schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
import typer
from msgspec import UNSET, UnsetType

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.failures import BadInputError
from backhaul.cli.output import (
    AsJson,
    Column,
    Form,
    Output,
    Quiet,
    now,
    print_changed,
    print_list,
    print_one,
    print_removed,
)
from backhaul.cli.prompts import confirm_removal
from backhaul.cli.repository_choice import choose_repository
from backhaul.cli.schedule_options import (
    DataParts,
    Destination,
    OfHost,
    SampleBytes,
    SampleFiles,
    build_options,
)
from backhaul.cli.schedule_preview import preview_schedule
from backhaul.cli.values import parse_duration
from backhaul.wire.schedules import (
    DEFAULT_ATTEMPTS,
    DEFAULT_RETRY_DELAY_S,
    CatchUp,
    CreateSchedule,
    Schedule,
    ScheduleKind,
    UpdateSchedule,
    WhenUnreachable,
)

T = TypeVar("T")

app = typer.Typer(help="When hosts do what by themselves.", rich_markup_mode=None)
app.command("preview")(preview_schedule)

ScheduleId = Annotated[UUID, typer.Argument(metavar="SCHEDULE", help="Its id.")]
CronText = Annotated[
    str, typer.Option(help="Five fields, an alias like @daily, or H for a spread-out number.")
]
Zone = Annotated[str | None, typer.Option(metavar="ZONE", help="Like Europe/London. Default: UTC.")]
SourceName = Annotated[str | None, typer.Option(help="backup, forget, copy: the source.")]
CatchUpChoice = Annotated[
    CatchUp | None, typer.Option(help="What slots that were missed make: one fire, or none.")
]
CatchUpWindow = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Older slots are not caught up, like 12h.")
]
Jitter = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Move fires by up to this, each schedule by its own."),
]
StartDeadline = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Jobs not taken up by then expire, like 1h.")
]
MaxDuration = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Jobs that run longer are cancelled, like 6h."),
]
AttemptCount = Annotated[
    int | None,
    typer.Option(
        min=1, max=20, help="How often a job is run in all, when it fails in a way that may pass."
    ),
]
RetryDelay = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION", help="Before the second attempt, like 1m; doubled before each other."
    ),
]
WhenAway = Annotated[
    WhenUnreachable | None,
    typer.Option(help="Without the server: wait for it, or run (only, and by default, backup)."),
]
IfRevision = Annotated[
    int | None, typer.Option(metavar="N", help="Only as long as it is at this revision.")
]

CLEARABLE = ("catch-up-window", "start-deadline", "max-duration", "options")


@app.command("create")
def create_schedule(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Its name or id.")],
    kind: Annotated[
        ScheduleKind, typer.Argument(metavar="KIND", help=f"{', '.join(ScheduleKind)}.")
    ],
    cron: CronText,
    timezone: Zone = None,
    repository: Annotated[
        str | None, typer.Option(help="May be left out while there is only one.")
    ] = None,
    source: SourceName = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not fire yet.")] = False,
    catch_up: CatchUpChoice = None,
    catch_up_window: CatchUpWindow = None,
    jitter: Jitter = None,
    start_deadline: StartDeadline = None,
    max_duration: MaxDuration = None,
    attempts: AttemptCount = None,
    retry_delay: RetryDelay = None,
    when_unreachable: WhenAway = None,
    read_data_parts: DataParts = None,
    destination: Destination = None,
    of_host: OfHost = None,
    files: SampleFiles = None,
    max_bytes: SampleBytes = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put a schedule on a host. Durations are like 90s, 15m, 12h or 7d."""
    request = CreateSchedule(
        kind=kind,
        cron=cron,
        repository=repository or "",
        source=source,
        timezone=timezone or "UTC",
        enabled=not disabled,
        catch_up=catch_up or "once",
        catch_up_window=_read_duration("--catch-up-window", catch_up_window),
        jitter=_read_duration("--jitter", jitter) or 0.0,
        start_deadline=_read_duration("--start-deadline", start_deadline),
        max_duration=_read_duration("--max-duration", max_duration),
        attempts=DEFAULT_ATTEMPTS if attempts is None else attempts,
        retry_delay=_read_duration("--retry-delay", retry_delay) or DEFAULT_RETRY_DELAY_S,
        when_unreachable=when_unreachable,
        options=build_options(
            kind,
            {
                "read_data_parts": read_data_parts,
                "destination": destination,
                "of_host": of_host,
                "files": files,
                "max_bytes": max_bytes,
            },
        ),
    )
    with open_client() as client:
        chosen = choose_repository(client, repository)
        made = client.create_schedule(host, msgspec.structs.replace(request, repository=chosen))
    text = f"Schedule {made.id} is made: {_describe(made)}."
    print_changed(made, text, key=made.id, as_json=as_json, quiet=quiet)


@app.command("list")
def list_schedules(
    host: Annotated[
        str | None, typer.Argument(metavar="HOST", help="Only of this host: its name or id.")
    ] = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the schedules."""
    with open_client() as client:
        schedules = list(client.list_schedules(host=host))
    print_list(
        schedules,
        _build_columns(now()),
        key=lambda schedule: schedule.id,
        empty="No schedules yet. `backhaul schedules create` makes one.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@app.command("show")
def show_schedule(schedule: ScheduleId, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show a schedule."""
    with open_client() as client:
        found = client.get_schedule(schedule)
    print_one(found, _build_fields(found, now()), key=found.id, as_json=as_json, quiet=quiet)


@app.command("update")
def update_schedule(
    schedule: ScheduleId,
    cron: Annotated[str | None, typer.Option(help="As in create.")] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Like Europe/London.")
    ] = None,
    repository: Annotated[str | None, typer.Option(help="Its name or id.")] = None,
    source: SourceName = None,
    enabled: Annotated[
        bool | None, typer.Option("--enabled/--disabled", help="Whether it fires.")
    ] = None,
    catch_up: CatchUpChoice = None,
    catch_up_window: CatchUpWindow = None,
    jitter: Jitter = None,
    start_deadline: StartDeadline = None,
    max_duration: MaxDuration = None,
    attempts: AttemptCount = None,
    retry_delay: RetryDelay = None,
    when_unreachable: WhenAway = None,
    read_data_parts: DataParts = None,
    destination: Destination = None,
    of_host: OfHost = None,
    files: SampleFiles = None,
    max_bytes: SampleBytes = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help=f"Lift this: {', '.join(CLEARABLE)}. Repeatable."),
    ] = None,
    if_revision: IfRevision = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Change a schedule. What is left out stays; its host and its kind cannot change."""
    change = UpdateSchedule(
        cron=_or_unset(cron),
        repository=_or_unset(repository),
        source=_or_unset(source),
        timezone=_or_unset(timezone),
        enabled=_or_unset(enabled),
        catch_up=_or_unset(catch_up),
        catch_up_window=_or_unset(_read_duration("--catch-up-window", catch_up_window)),
        jitter=_or_unset(_read_duration("--jitter", jitter)),
        start_deadline=_or_unset(_read_duration("--start-deadline", start_deadline)),
        max_duration=_or_unset(_read_duration("--max-duration", max_duration)),
        attempts=_or_unset(attempts),
        retry_delay=_or_unset(_read_duration("--retry-delay", retry_delay)),
        when_unreachable=_or_unset(when_unreachable),
    )
    change = _clear(change, clear or [])
    options = {
        "read_data_parts": read_data_parts,
        "destination": destination,
        "of_host": of_host,
        "files": files,
        "max_bytes": max_bytes,
    }
    has_options = any(value is not None for value in options.values())
    if change == UpdateSchedule() and not has_options:
        raise BadInputError("Nothing to change: name at least one option.")
    if has_options and change.options is None:
        raise BadInputError("--clear options contradicts the options of the kind that are given.")
    with open_client() as client:
        if has_options:
            seen = client.get_schedule(schedule)
            built = build_options(seen.kind, options, known=seen.options)
            change = msgspec.structs.replace(change, options=built)
        changed = client.update_schedule(schedule, change, if_revision=if_revision)
    text = f"Schedule {changed.id} is changed: {_describe(changed)}."
    print_changed(changed, text, key=changed.id, as_json=as_json, quiet=quiet)


@app.command("enable")
def enable_schedule(schedule: ScheduleId, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Let a schedule fire."""
    with open_client() as client:
        changed = client.update_schedule(schedule, UpdateSchedule(enabled=True))
    text = f"Schedule {changed.id} is enabled: {_describe(changed)}."
    print_changed(changed, text, key=changed.id, as_json=as_json, quiet=quiet)


@app.command("disable")
def disable_schedule(schedule: ScheduleId, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Keep a schedule from firing. A job that it has started goes on."""
    with open_client() as client:
        changed = client.update_schedule(schedule, UpdateSchedule(enabled=False))
    text = f"Schedule {changed.id} is disabled: {_describe(changed)}."
    print_changed(changed, text, key=changed.id, as_json=as_json, quiet=quiet)


@app.command("delete")
def delete_schedule(
    schedule: ScheduleId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    if_revision: IfRevision = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Delete a schedule. Its jobs and their snapshots stay."""
    confirm_removal(f"Delete schedule {schedule}?", is_sure=yes)
    with open_client() as client:
        client.delete_schedule(schedule, if_revision=if_revision)
    print_removed(f"Schedule {schedule} is deleted.", as_json=as_json, quiet=quiet)


def _read_duration(option: str, text: str | None) -> float | None:
    return None if text is None else parse_duration(text, option=option)


def _or_unset(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _clear(change: UpdateSchedule, names: list[str]) -> UpdateSchedule:
    lifted: dict[str, None] = {}
    for name in names:
        field = name.replace("-", "_")
        if name not in CLEARABLE:
            raise BadInputError(f"--clear {name}: choose {', '.join(CLEARABLE)}.")
        if getattr(change, field) is not UNSET:
            raise BadInputError(f"--clear {name} contradicts --{name}.")
        lifted[field] = None
    return msgspec.structs.replace(change, **lifted)


def _describe(schedule: Schedule) -> str:
    return f"{schedule.kind} on {schedule.host}, {schedule.cron} ({schedule.timezone})"


def _build_columns(at: datetime) -> list[Column[Schedule]]:
    return [
        Column("ID", lambda schedule: str(schedule.id), is_whole=True),
        Column("HOST", lambda schedule: schedule.host, lambda _: "bold"),
        Column("KIND", lambda schedule: schedule.kind),
        Column("CRON", lambda schedule: schedule.cron, is_whole=True),
        Column("TIME ZONE", lambda schedule: schedule.timezone, is_spare=True),
        Column("REPOSITORY", lambda schedule: schedule.repository, is_spare=True),
        Column("SOURCE", lambda schedule: schedule.source or "", is_spare=True),
        Column("NEXT", lambda schedule: _render_next(schedule, at), _choose_style),
        Column(
            "JITTER",
            lambda schedule: display.render_duration(schedule.jitter or None),
            is_wide=True,
        ),
        Column("CATCH UP", lambda schedule: schedule.catch_up, is_wide=True),
        Column("UNREACHABLE", lambda schedule: schedule.when_unreachable, is_wide=True),
        Column("REVISION", lambda schedule: str(schedule.revision), is_right=True, is_wide=True),
    ]


def _build_fields(schedule: Schedule, at: datetime) -> list[tuple[str, str]]:
    return [
        ("id", str(schedule.id)),
        ("host", schedule.host),
        ("kind", schedule.kind),
        ("cron", schedule.cron),
        ("time zone", schedule.timezone),
        ("next", _render_next(schedule, at)),
        ("skipped because", schedule.error or ""),
        ("repository", schedule.repository),
        ("source", schedule.source or ""),
        ("catch up", _render_catch_up(schedule)),
        ("jitter", _render_duration(schedule.jitter or None)),
        ("start deadline", _render_duration(schedule.start_deadline)),
        ("max duration", _render_duration(schedule.max_duration)),
        ("attempts", _render_attempts(schedule)),
        ("when unreachable", schedule.when_unreachable),
        ("options", display.render_options(schedule)),
        ("created", display.render_moment(schedule.created_at)),
        ("changed", display.render_moment(schedule.updated_at)),
        ("revision", str(schedule.revision)),
    ]


def _render_next(schedule: Schedule, at: datetime) -> str:
    if not schedule.enabled:
        return "disabled"
    if schedule.error is not None:
        return "skipped by the agent"
    return display.render_age(schedule.next_fire_at, at)


def _choose_style(schedule: Schedule) -> str:
    if not schedule.enabled:
        return "dim"
    return "" if schedule.error is None else "red"


def _render_catch_up(schedule: Schedule) -> str:
    if schedule.catch_up == "once" and schedule.catch_up_window is not None:
        return f"once, within {display.render_duration(schedule.catch_up_window)}"
    return schedule.catch_up


def _render_attempts(schedule: Schedule) -> str:
    if schedule.attempts == 1:
        return "1"
    return f"{schedule.attempts}, the second {display.render_duration(schedule.retry_delay)} later"


def _render_duration(seconds: float | None) -> str:
    return "" if seconds is None else display.render_duration(seconds)
