"""Waiting for a job: a live bar on a terminal, a few plain lines into a pipe, one at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from backhaul import display
from backhaul._result_texts import render_result
from backhaul.cli import output
from backhaul.cli.failures import FAILED, INCOMPLETE, INTERRUPTED
from backhaul.errors import NoAnswerError, NotFoundError, ServerFailedError
from backhaul.wire.fleet import HostState
from backhaul.wire.jobs import TERMINAL_STATES, FailureClass, Job, JobState, Progress
from backhaul.wire.printing import join_lines, render_printable
from backhaul.wire.wording import render_count

if TYPE_CHECKING:
    from backhaul.client import Client

STEP = 0.1
"""A line for each tenth that is done, so that the log of a script stays short."""


def wait(client: Client, job: Job, *, is_silent: bool) -> Job:
    """Wait until a job has ended, and show how far it is. Ctrl-C ends the wait, not the job.

    Raises:
        typer.Exit: the wait was interrupted.
        NoAnswerError: the server was away for too long.
        ServerFailedError: it answered, but could do no better.
    """
    jobs = client.follow_job(job.id)
    try:
        if is_silent:
            return _take_last(jobs, job)
        _note_absent_host(client, job)
        ended = _draw_bar(jobs, job) if output.is_terminal() else _print_lines(jobs, job)
    except KeyboardInterrupt:
        _note_end_of_wait(job)
        raise typer.Exit(INTERRUPTED) from None
    except (NoAnswerError, ServerFailedError):
        _note_end_of_wait(job)
        raise
    if remedy := render_remedy(ended):
        output.note(remedy)
    return ended


def _note_end_of_wait(job: Job) -> None:
    output.note(f"Job {job.id} goes on without us. Wait for it again: backhaul jobs wait {job.id}")


def choose_exit_code(job: Job) -> int:
    """Tell how a job ended: 0 succeeded, 3 incomplete, 1 anything else."""
    return {JobState.SUCCEEDED: 0, JobState.INCOMPLETE: INCOMPLETE}.get(job.state, FAILED)


def render_outcome(job: Job) -> str:
    """Render how a job ended in one line."""
    parts = [f"{job.kind} on {job.host} {job.state}"]
    summary = render_result(job)
    if summary:
        parts.append(f": {summary}")
    if job.started_at and job.finished_at:
        seconds = (job.finished_at - job.started_at).total_seconds()
        parts.append(f" in {display.render_duration(seconds)}")
    if job.message:
        parts.append(f": {join_lines(job.message)}")
    return "".join(parts)


def render_remedy(job: Job) -> str:
    """Render what can be done about how a job ended; empty where its message says enough."""
    if job.failure_class is FailureClass.REPOSITORY_MISSING and job.repository is not None:
        command = f"backhaul jobs run {job.host} init --repository {job.repository}"
        return f"If repository {job.repository} is a new one, initialise it: {command}"
    return ""


def _note_absent_host(client: Client, job: Job) -> None:
    """Say why a job may not begin: a queued job looks the same whether its host is there or not."""
    if job.state is not JobState.QUEUED or job.waits_for is not None:
        return
    try:
        host = client.get_host(job.host_id)
    except NotFoundError:
        return  # it was removed, and the job ends
    if host.state is HostState.ONLINE:
        return
    seen = display.render_age(host.last_seen_at, output.now())
    away = "was never seen" if host.state is HostState.NEVER_SEEN else f"is offline, seen {seen}"
    output.note(f"Host {host.name} {away}: the job begins when its agent is there.")


def _take_last(jobs: Iterable[Job], job: Job) -> Job:
    for changed in jobs:
        job = changed
    return job


def _print_lines(jobs: Iterable[Job], job: Job) -> Job:
    shown: tuple[object, float] | None = None
    for changed in jobs:
        job = changed
        done = job.progress.percent_done if job.progress else 0.0
        standing = (job.state, job.attempt, job.waits_for, job.cancel_requested_at)
        is_due = shown is None or standing != shown[0] or done >= shown[1] + STEP
        if is_due and job.state not in TERMINAL_STATES:
            output.say(_render_standing(job))
            shown = (standing, done)
    output.say(render_outcome(job))
    return job


def _draw_bar(jobs: Iterable[Job], job: Job) -> Job:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    console = output.build_console()
    columns = (
        TextColumn("{task.fields[state]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, state=str(job.state), detail="")
        for changed in jobs:
            job = changed
            progress = job.progress or Progress()
            bar.update(
                task,
                # Without a total the bar pulses: there is nothing to measure against yet.
                total=1.0 if job.progress else None,
                completed=min(progress.percent_done, 1.0),
                state=f"{job.kind} {_render_state(job)}",
                detail=_render_detail(progress) if job.progress else "",
            )
    outcome = render_printable(render_outcome(job))
    console.print(outcome, style=output.STATE_STYLES[job.state], soft_wrap=True)
    return job


def _render_state(job: Job) -> str:
    condition = display.render_condition(job, output.now())
    return f"{job.state}, {condition}" if condition else str(job.state)


def _render_standing(job: Job) -> str:
    condition = display.render_condition(job, output.now())
    return f"{job.state}{_render_share(job)}{f', {condition}' if condition else ''}"


def _render_share(job: Job) -> str:
    if job.progress is None:
        return ""
    return f" {job.progress.percent_done:.0%} {_render_detail(job.progress)}".rstrip()


def _render_detail(progress: Progress) -> str:
    parts = []
    if progress.total_files:
        parts.append(f"{progress.files_done}/{render_count(progress.total_files, 'file')}")
    if progress.total_bytes:
        done, total = progress.bytes_done, progress.total_bytes
        parts.append(f"{display.render_bytes(done)}/{display.render_bytes(total)}")
    if progress.seconds_remaining:
        parts.append(f"{display.render_duration(progress.seconds_remaining)} left")
    if progress.error_count:
        parts.append(render_count(progress.error_count, "error"))
    return ", ".join(parts)
