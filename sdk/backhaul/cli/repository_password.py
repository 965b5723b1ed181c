"""backhaul repositories passwd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backhaul.cli import job_progress
from backhaul.cli.connection import open_client
from backhaul.cli.failures import BadInputError
from backhaul.cli.output import AsJson, Quiet, note, print_json, print_removed, say
from backhaul.cli.prompts import read_secret
from backhaul.wire.fleet import ChangePassword, ContinuePasswordChange, StartedPasswordChange

if TYPE_CHECKING:
    from backhaul.client import Client
    from backhaul.wire.jobs import Job


def change_password(
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="Its name or id.")],
    host: Annotated[
        str | None, typer.Option(help="The host that does it; by default the upkeep host.")
    ] = None,
    password_file: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Read the new password from here instead of asking."),
    ] = None,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="Let the server make a password that nobody is shown."),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="With --generate: print the password, this once.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Do the current step of a change again, after its job failed."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="With --again: remove the old password before all hosts have it."
        ),
    ] = False,
    give_up: Annotated[
        bool,
        typer.Option("--give-up", help="Keep the password that is in use, and end the change."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the job.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give a repository a new password. `show` tells how far that is.

    One job adds the new password. A second one removes the old, once every host that may back up
    without the server has the new one. Keep the new one elsewhere too.
    """
    _check_options(
        is_new=generate or password_file is not None,
        is_generated=generate,
        is_shown=show,
        is_again=again,
        is_forced=force,
        is_given_up=give_up,
    )
    with open_client() as client:
        if give_up:
            client.give_up_password_change(repository)
            text = f"The password of {repository} stays as it is."
            print_removed(text, as_json=as_json, quiet=quiet)
            return
        if again:
            request = ContinuePasswordChange(host=host, force=force)
            job = client.continue_password_change(repository, request)
            started = StartedPasswordChange(job=job)
        else:
            new = None if generate else _read_new(password_file)
            change = ChangePassword(password=new, generate=generate, show=show, host=host)
            started = client.change_repository_password(repository, change)
        _tell(client, started, wait=wait, as_json=as_json, quiet=quiet)


def _check_options(
    *,
    is_new: bool,
    is_generated: bool,
    is_shown: bool,
    is_again: bool,
    is_forced: bool,
    is_given_up: bool,
) -> None:
    if is_again + is_given_up + is_new > 1:
        raise BadInputError("Give one of a new password, --again and --give-up.")
    if is_shown and not is_generated:
        raise BadInputError("--show shows a password that --generate has made.")
    if is_forced and not is_again:
        raise BadInputError("--force goes with --again.")


def _read_new(file: str | None) -> str:
    return read_secret(file, what="new password", option="--password-file", confirm=True)


def _tell(
    client: Client, started: StartedPasswordChange, *, wait: bool, as_json: bool, quiet: bool
) -> None:
    job: Job = started.job
    if started.password is not None and not as_json:
        say(started.password)
    if not (as_json or quiet):
        note(f"Job {job.id} is {job.state}: {job.kind} on {job.host}.")
    if wait:
        job = job_progress.wait(client, job, is_silent=as_json or quiet)
    if as_json:
        print_json(StartedPasswordChange(job=job, password=started.password))
    if wait:
        raise typer.Exit(job_progress.choose_exit_code(job))
