"""What running a job of any kind has in common: its options, and how it is told of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from backhaul.cli import job_progress
from backhaul.cli.connection import open_client
from backhaul.cli.output import is_terminal, note, print_json, say
from backhaul.cli.repository_choice import choose_repository
from backhaul.wire.kinds import JobRequest

RepositoryOption = Annotated[
    str | None, typer.Option("--repository", help="May be left out while there is only one.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for its end; exit 0 succeeded, 3 incomplete, else 1.")
]
Texts = list[str] | None


def run(
    context: typer.Context,
    build: Callable[[str, str], JobRequest],
    *,
    repository: str | None,
    wait: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Create the job that `build` makes of the host and the repository, and tell of it."""
    host: str = context.obj
    with open_client() as client:
        job = client.create_job(build(host, choose_repository(client, repository)))
        if quiet and not as_json:
            say(str(job.id))
        elif not as_json:
            say(f"Job {job.id} is {job.state}: {job.kind} on {job.host}.")
        if wait:
            job = job_progress.wait(client, job, is_silent=as_json or quiet)
    if as_json:
        print_json(job)
    if wait:
        raise typer.Exit(job_progress.choose_exit_code(job))
    if is_terminal() and not (as_json or quiet):
        note(f"Follow it: backhaul jobs log -f {job.id}")
