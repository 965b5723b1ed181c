"""backhaul jobs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from backhaul import display
from backhaul.cli import job_progress
from backhaul.cli.connection import open_client
from backhaul.cli.failures import INTERRUPTED
from backhaul.cli.kinds import app as run_app
from backhaul.cli.output import (
    STATE_STYLES,
    AsJson,
    Column,
    Form,
    Output,
    Quiet,
    now,
    print_changed,
    print_json,
    print_list,
    print_one,
    say,
)
from backhaul.cli.values import parse_since
from backhaul.wire.jobs import TERMINAL_STATES, Job, JobState, NumberedLogLine
from backhaul.wire.kinds import DiffResult, DrillResult, JobKind
from backhaul.wire.printing import join_lines
from backhaul.wire.wording import render_count

app = typer.Typer(help="Back up, restore, and look at what ran.", rich_markup_mode=None)
app.add_typer(run_app, name="run")

JobId = Annotated[UUID, typer.Argument(metavar="JOB", help="Its id.")]
Texts = list[str] | None


@app.command("list")
def list_jobs(
    host: Annotated[str | None, typer.Option(help="Only of this host.")] = None,
    repository: Annotated[str | None, typer.Option(help="Only with this repository.")] = None,
    schedule: Annotated[
        UUID | None, typer.Option(metavar="SCHEDULE_ID", help="Only those that it fired.")
    ] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only of this kind.")] = None,
    state: Annotated[
        list[JobState] | None, typer.Option(metavar="STATE", help="Only in this state. Repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="7d|MOMENT", help="Only those made since then, or so long ago."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="1d|MOMENT", help="Only those made before that.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 30,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the jobs, newest first: `backhaul jobs list --state failed --since 7d`."""
    begin = parse_since(since, option="--since")
    end = parse_since(until, option="--until")
    with open_client() as client:
        found = client.list_jobs(
            host=host,
            repository=repository,
            schedule=schedule,
            kind=kind,
            states=state or (),
            since=begin,
            until=end,
            limit=limit,
        )
        jobs = list(found)
    print_list(
        jobs,
        _build_columns(now()),
        key=lambda job: job.id,
        empty="No such jobs.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@app.command("show")
def show_job(job_id: JobId, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show a job."""
    with open_client() as client:
        job = client.get_job(job_id)
    print_one(job, _build_fields(job, now()), key=job.state, as_json=as_json, quiet=quiet)


@app.command("wait")
def wait_for_job(job_id: JobId, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Wait until a job has ended: exit 0 succeeded, 3 incomplete, 1 anything else.

    Ctrl-C ends the wait, not the job.
    """
    with open_client() as client:
        job = job_progress.wait(client, client.get_job(job_id), is_silent=as_json or quiet)
    if as_json:
        print_json(job)
    raise typer.Exit(job_progress.choose_exit_code(job))


@app.command("cancel")
def cancel_job(
    job_id: JobId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the host has ended it, and show how.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cancel a job: at once while it waits, else its host is asked to end it."""
    with open_client() as client:
        job = client.cancel_job(job_id)
        if wait and job.state not in TERMINAL_STATES:
            job = job_progress.wait(client, job, is_silent=as_json or quiet)
    if job.state is JobState.LOST:
        text = f"Host {job.host} is asked to end job {job.id} when it comes back."
    elif job.state in TERMINAL_STATES:
        text = f"Job {job.id} is {job.state}."
    else:
        text = f"Host {job.host} is asked to end job {job.id}: backhaul jobs wait {job.id}"
    print_changed(job, text, key=job.state, as_json=as_json, quiet=quiet)


@app.command("log")
def show_log(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines come, to the job's end.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show the log of a job. With --follow, --json prints one object a line; --quiet: text only."""
    with open_client() as client:
        lines = client.follow_job_log(job_id) if follow else client.get_job_log(job_id)
        try:
            _print_log(lines, is_streamed=follow, as_json=as_json, quiet=quiet)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _print_log(
    lines: Iterable[NumberedLogLine], *, is_streamed: bool, as_json: bool, quiet: bool
) -> None:
    if as_json and not is_streamed:
        print_json(list(lines))
        return
    for line in lines:
        if as_json:
            print_json(line, is_compact=True)
        else:
            say(line.text if quiet else _render_line(line))


def _render_line(line: NumberedLogLine) -> str:
    # What restic says on stdout is the rule; the rest says where it comes from.
    origin = "" if line.stream == "stdout" else f"{line.stream}: "
    return f"{display.render_moment(line.at)}  {origin}{line.text}"


# A second repository has an id here, and its name beside.
_SAID_BY_NAME = {"kind", "destination_id", "chunker_of_id"}


def _render_kind(job: Job) -> str:
    return f"{job.kind}, dry run" if getattr(job.arguments, "dry_run", False) else str(job.kind)


def _build_columns(at: datetime) -> list[Column[Job]]:
    return [
        Column("ID", lambda job: str(job.id), is_whole=True),
        Column("KIND", _render_kind),
        Column("HOST", lambda job: job.host, lambda _: "bold"),
        Column("REPOSITORY", lambda job: job.repository or "", is_spare=True),
        Column("STATE", lambda job: _render_state(job, at), lambda job: STATE_STYLES[job.state]),
        Column("CREATED", lambda job: display.render_age(job.created_at, at)),
        Column("TOOK", lambda job: _render_duration(job, at), is_right=True, is_spare=True),
        Column("SCHEDULED FOR", lambda job: display.render_moment(job.scheduled_at), is_wide=True),
        Column("FINISHED", lambda job: display.render_moment(job.finished_at), is_wide=True),
        Column("ATTEMPT", lambda job: str(job.attempt), is_right=True, is_wide=True),
        Column("EXIT", lambda job: _render_argument(job.exit_code), is_right=True, is_wide=True),
        Column("WHY", lambda job: join_lines(job.message or ""), is_wide=True),
    ]


def _build_fields(job: Job, at: datetime) -> list[tuple[str, str]]:
    arguments = msgspec.to_builtins(job.arguments)
    return [
        ("id", str(job.id)),
        ("kind", job.kind),
        ("state", _render_state(job, at)),
        ("outcome", job_progress.render_outcome(job) if job.finished_at else ""),
        ("message", join_lines(job.message or "")),
        ("failure", job.failure_class or ""),
        ("remedy", job_progress.render_remedy(job)),
        *_build_result_fields(job),
        ("exit code", "" if job.exit_code is None else str(job.exit_code)),
        ("host", job.host),
        ("repository", job.repository or ""),
        ("copies to", job.destination or ""),
        *(
            (
                name.replace("_", " "),
                display.render_quantity(name, arguments[name]) or _render_argument(arguments[name]),
            )
            for name in arguments
            if name not in _SAID_BY_NAME and arguments[name] is not None
        ),
        *_build_schedule_fields(job),
        ("created", display.render_moment(job.created_at)),
        ("attempt", f"{job.attempt} of {job.attempts}" if job.attempts > 1 else ""),
        ("started", display.render_moment(job.started_at)),
        ("finished", display.render_moment(job.finished_at)),
        ("took", _render_duration(job, at)),
        ("log lines", str(job.log_lines)),
    ]


def _build_result_fields(job: Job) -> list[tuple[str, str]]:
    """List what a result names: a line for each path."""
    match job.result:
        case DiffResult() as result:
            lines = [("change", f"{one.modifier} {one.path}") for one in result.changes]
            return [*lines, ("more changes", "yes" if result.is_cut else "")]
        case DrillResult() as result:
            return [
                ("made by", f"{result.hostname}, {display.render_moment(result.snapshot_time)}"),
                *(("differs", path) for path in result.differing),
                *(("unreadable", path) for path in result.unreadable),
                ("too large", _render_count(result.skipped_too_large)),
                ("unnameable", _render_count(result.skipped_unnameable)),
            ]
        case _:
            return []


def _render_count(count: int) -> str:
    return str(count) if count else ""


def _build_schedule_fields(job: Job) -> list[tuple[str, str]]:
    if job.schedule_id is None:
        return []
    return [
        ("schedule", str(job.schedule_id)),
        ("scheduled for", display.render_moment(job.scheduled_at)),
        ("missed before", render_count(job.missed, "slot") if job.missed else ""),
        ("ran offline", "yes" if job.ran_offline else ""),
    ]


def _render_argument(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', '-')} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _render_state(job: Job, at: datetime) -> str:
    state = str(job.state)
    if job.state is JobState.RUNNING and job.progress is not None:
        state = f"{job.state} {job.progress.percent_done:.0%}"
    condition = display.render_condition(job, at)
    return f"{state}, {condition}" if condition else state


def _render_duration(job: Job, at: datetime) -> str:
    if job.started_at is None:
        return "-"
    return display.render_duration(((job.finished_at or at) - job.started_at).total_seconds())
