"""backhaul repositories."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from msgspec import UNSET

from backhaul import _repository_texts as texts
from backhaul import display
from backhaul.cli import job_progress, repository_password, repository_sizes
from backhaul.cli.connection import open_client
from backhaul.cli.failures import BadInputError
from backhaul.cli.output import (
    AsJson,
    Column,
    Form,
    Output,
    Quiet,
    note,
    now,
    print_changed,
    print_list,
    print_one,
    print_removed,
)
from backhaul.cli.prompts import confirm, confirm_removal, read_secret
from backhaul.cli.values import read_variables
from backhaul.wire.fleet import (
    AdminCredential,
    AdoptRepository,
    CreateRepository,
    Repository,
    UpdateRepository,
)
from backhaul.wire.honesty import Doubt
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import SnapshotsRequest
from backhaul.wire.locations import mask_location
from backhaul.wire.snapshots import Snapshot
from backhaul.wire.wording import render_count

app = typer.Typer(help="The restic repositories.", rich_markup_mode=None)

RepositoryName = Annotated[str, typer.Argument(metavar="REPOSITORY", help="Its name or id.")]
LocationFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-", help="Read the location from here: for one that holds a password."
    ),
]
EnvNames = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME",
        help="A variable for restic, like AWS_ACCESS_KEY_ID, taken from the environment of this "
        "command. Repeatable.",
    ),
]
EnvFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Variables for restic: lines of NAME=VALUE, taken as is."),
]

AdminLocationFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-", help="Read the location to delete with from here, if it is another one."
    ),
]
AdminPasswordFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-", help="Read the password to delete with from here, if it is another one."
    ),
]
AdminEnv = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A variable to delete with, taken from the environment of this command; in place of "
        "all everyday ones. Repeatable.",
    ),
]
UpkeepHost = Annotated[
    str | None,
    typer.Option(help="The only host that may delete, and that is given what it needs for that."),
]


@app.command("create")
def create_repository(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    location: Annotated[
        str | None, typer.Argument(help="As restic writes it, like sftp:backup@nas:/restic.")
    ] = None,
    location_file: LocationFile = None,
    password_file: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Read its password from here instead of asking."),
    ] = None,
    env: EnvNames = None,
    env_file: EnvFile = None,
    admin_location_file: AdminLocationFile = None,
    admin_password_file: AdminPasswordFile = None,
    admin_env: AdminEnv = None,
    upkeep_host: UpkeepHost = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Record a repository. `backhaul jobs run HOST init` creates it at its location.

    Keep its password elsewhere too: without it, nobody can read the backups.
    """
    request = CreateRepository(
        name=name,
        location=_require_location(location, location_file),
        password=read_secret(
            password_file, what="repository password", option="--password-file", confirm=True
        ),
        environment=read_variables(env or [], env_file, os.environ),
        admin=_read_admin(admin_location_file, admin_password_file, admin_env),
        upkeep_host=upkeep_host,
    )
    with open_client() as client:
        made = client.create_repository(request)
    text = (
        f"Repository {made.name} is recorded. If it does not exist yet, a host creates it: "
        f"backhaul jobs run HOST init --repository {made.name} --wait"
    )
    print_changed(made, text, key=made.name, as_json=as_json, quiet=quiet)


@app.command("list")
def list_repositories(
    output: Output = Form.TABLE, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """List the repositories, without their secrets."""
    with open_client() as client:
        repositories = list(client.list_repositories())
    print_list(
        repositories,
        _build_columns(now()),
        key=lambda repository: repository.name,
        empty="No repositories yet. `backhaul repositories create` records one.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@app.command("show")
def show_repository(
    repository: RepositoryName, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Show a repository, without its secrets."""
    with open_client() as client:
        found = client.get_repository(repository)
    print_one(found, _build_fields(found, now()), key=found.id, as_json=as_json, quiet=quiet)


@app.command("update")
def update_repository(
    repository: RepositoryName,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    location: Annotated[str | None, typer.Option(help="Where it is now.")] = None,
    location_file: LocationFile = None,
    password_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Read the password that Backhaul is to use from here; `-` asks for it.",
        ),
    ] = None,
    env: EnvNames = None,
    env_file: EnvFile = None,
    clear_env: Annotated[bool, typer.Option("--clear-env", help="Forget all variables.")] = False,
    admin_location_file: AdminLocationFile = None,
    admin_password_file: AdminPasswordFile = None,
    admin_env: AdminEnv = None,
    clear_admin: Annotated[
        bool, typer.Option("--clear-admin", help="Forget the admin credential.")
    ] = False,
    upkeep_host: UpkeepHost = None,
    clear_upkeep_host: Annotated[
        bool, typer.Option("--clear-upkeep-host", help="Let each host delete again.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Change the record of a repository. What is left out stays; variables, and the admin
    credential, are replaced as a whole.

    The repository itself, and the keys in it, are not touched: `passwd` changes its password.
    """
    admin = _read_admin(admin_location_file, admin_password_file, admin_env)
    if clear_admin and admin is not None:
        raise BadInputError("Give either an admin credential or --clear-admin.")
    if clear_upkeep_host and upkeep_host is not None:
        raise BadInputError("Give either --upkeep-host or --clear-upkeep-host.")
    variables = read_variables(env or [], env_file, os.environ)
    where = _read_location(location, location_file)
    change = UpdateRepository(
        name=UNSET if name is None else name,
        location=UNSET if where is None else where,
        password=UNSET
        if password_file is None
        else read_secret(
            password_file, what="repository password", option="--password-file", confirm=True
        ),
        environment=variables if variables or clear_env else UNSET,
        admin=admin if admin is not None or clear_admin else UNSET,
        upkeep_host=upkeep_host if upkeep_host is not None or clear_upkeep_host else UNSET,
    )
    if change == UpdateRepository():
        raise BadInputError("Nothing to change: name at least one option.")
    with open_client() as client:
        changed = client.update_repository(repository, change)
    text = f"Repository {changed.name} is changed."
    print_changed(changed, text, key=changed.name, as_json=as_json, quiet=quiet)


@app.command("adopt")
def adopt_repository(
    repository: RepositoryName,
    host: Annotated[str, typer.Option(help="The host that is to list its snapshots.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take over a repository that exists, with its snapshots: a forget counts them from then on.

    Those whose time is in the future stay set aside.
    """
    with open_client() as client:
        job = client.create_job(SnapshotsRequest(host=host, repository=repository))
        job = job_progress.wait(client, job, is_silent=as_json or quiet)
        if job.state is not JobState.SUCCEEDED:
            if as_json or quiet:
                note(job_progress.render_outcome(job))
            raise typer.Exit(job_progress.choose_exit_code(job))
        found = list(client.list_snapshots(repository=repository))
        for line in _describe_found(found):
            note(line)
        confirm(f"Vouch for the snapshots in {repository}?", is_sure=yes)
        adoption = client.adopt_repository(repository, AdoptRepository())
    name = adoption.repository.name
    vouched = render_count(adoption.adopted, "snapshot")
    text = f"Repository {name} is adopted: vouched for {vouched}."
    if adoption.doubted:
        text = f"{text} Still doubted: {adoption.doubted}; `backhaul snapshots list` says why."
    print_changed(adoption, text, key=name, as_json=as_json, quiet=quiet)


def _describe_found(found: Sequence[Snapshot]) -> Iterator[str]:
    """Describe what a repository holds, for whoever is to vouch for it."""
    if not found:
        yield "It holds no snapshots."
        return
    times = [snapshot.time for snapshot in found if snapshot.doubt != Doubt.FUTURE]
    hosts = sorted({snapshot.hostname for snapshot in found})
    yield f"{render_count(len(found), 'snapshot')}, of {', '.join(hosts)}"
    if times:
        begin, end = (display.render_moment(time) for time in (min(times), max(times)))
        yield f"made from {begin} to {end}"
    for doubt, count in Counter(one.doubt for one in found if one.doubt).most_common():
        left = "stay set aside" if doubt == Doubt.FUTURE else "would be vouched for"
        yield f"{count} {left}: {doubt}"


@app.command("remove")
def remove_repository(
    repository: RepositoryName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Forget the record of a repository, and its password. Its files are not touched."""
    confirm_removal(f"Forget repository {repository} and the password that opens it?", is_sure=yes)
    with open_client() as client:
        client.remove_repository(repository)
    print_removed(f"Repository {repository} is forgotten.", as_json=as_json, quiet=quiet)


app.command("passwd")(repository_password.change_password)
app.command("sizes")(repository_sizes.list_sizes)


def _read_admin(
    location_file: str | None, password_file: str | None, names: list[str] | None
) -> AdminCredential | None:
    if location_file is None and password_file is None and not names:
        return None
    return AdminCredential(
        location=None
        if location_file is None
        else read_secret(location_file, what="admin location", option="--admin-location-file"),
        password=None
        if password_file is None
        else read_secret(
            password_file, what="admin password", option="--admin-password-file", confirm=True
        ),
        environment=read_variables(names, None, os.environ) if names else None,
    )


def _require_location(location: str | None, file: str | None) -> str:
    found = _read_location(location, file)
    if found is None:
        raise BadInputError("The location is missing: give LOCATION or --location-file.")
    return found


def _read_location(location: str | None, file: str | None) -> str | None:
    if location is not None and file is not None:
        raise BadInputError("Give either the location or --location-file.")
    if file is not None:
        return read_secret(file, what="location", option="--location-file")
    if location is not None and mask_location(location) != location:
        raise BadInputError(
            "The location seems to hold a password, and arguments are visible to everybody on this "
            "machine: use --location-file."
        )
    return location


def _build_columns(at: datetime) -> list[Column[Repository]]:
    return [
        Column("NAME", lambda repository: repository.name, lambda _: "bold"),
        Column("LOCATION", lambda repository: repository.location),
        Column(
            "INITIALISED",
            lambda repository: display.render_age(repository.initialized_at, at, absent="not yet"),
            lambda repository: "" if repository.initialized_at else "yellow",
        ),
        Column(
            "READ",
            lambda repository: f"{repository.read_coverage:.0%}",
            is_right=True,
            is_wide=True,
        ),
        Column(
            "SIZE",
            lambda repository: (
                "-" if repository.size is None else display.render_bytes(repository.size.total_size)
            ),
        ),
        Column(
            "CHECKED",
            lambda repository: display.render_age(
                repository.last_check.finished_at if repository.last_check else None, at
            ),
            lambda repository: (
                ""
                if repository.last_check and repository.last_check.state == "succeeded"
                else "yellow"
            ),
        ),
        Column(
            "LOCKED",
            lambda repository: (
                "no" if repository.lock is None else display.render_age(repository.lock.since, at)
            ),
            lambda repository: "" if repository.lock is None else "red",
        ),
        Column("UPKEEP", lambda repository: repository.upkeep_host or "-", is_wide=True),
        Column("RESTIC ID", lambda repository: (repository.restic_id or "")[:10], is_wide=True),
        Column(
            "CREATED",
            lambda repository: display.render_age(repository.created_at, at),
            is_wide=True,
        ),
        Column("ID", lambda repository: str(repository.id), is_whole=True, is_wide=True),
    ]


def _build_fields(repository: Repository, at: datetime) -> list[tuple[str, str]]:
    return [
        ("name", repository.name),
        ("id", str(repository.id)),
        ("location", repository.location),
        ("variables", ", ".join(repository.environment_names)),
        ("upkeep", texts.describe_upkeep(repository)),
        *(
            [
                ("admin location", repository.admin_location or "the everyday one"),
                ("admin variables", ", ".join(repository.admin_environment_names)),
            ]
            if repository.has_admin
            else []
        ),
        ("size", texts.describe_size(repository, at)),
        ("locked", texts.describe_lock(repository, at)),
        ("last check", texts.render_last(repository.last_check, at)),
        ("last prune", texts.render_last(repository.last_prune, at)),
        ("last forget", texts.render_last(repository.last_forget, at)),
        *(
            [("password", texts.describe_password_change(repository))]
            if repository.password_change
            else []
        ),
        ("created", display.render_moment(repository.created_at)),
        ("changed", display.render_moment(repository.updated_at)),
        (
            "initialised",
            display.render_moment(repository.initialized_at)
            if repository.initialized_at
            else "not yet",
        ),
        ("restic id", repository.restic_id or ""),
        ("data read", f"{repository.read_coverage:.0%} in 30 days"),
    ]
