"""backhaul jobs run HOST backup."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.failures import BadInputError
from backhaul.cli.kinds.running import RepositoryOption, Texts, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import BackupRequest


def backup(
    context: typer.Context,
    repository: RepositoryOption = None,
    source: Annotated[str | None, typer.Option(help="Its name or id.")] = None,
    path: Annotated[Texts, typer.Option(metavar="DIR", help="Absolute. Repeatable.")] = None,
    exclude: Annotated[Texts, typer.Option(metavar="PATTERN", help="Repeatable.")] = None,
    tag: Annotated[Texts, typer.Option(metavar="TAG", help="For the snapshot. Repeatable.")] = None,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", help="Stay on one disk.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Back up a source, or paths that are named."""
    if not source and not path:
        raise BadInputError("What is to be backed up? Give --source, or --path once or more.")
    run(
        context,
        lambda host, repository: BackupRequest(
            host=host,
            repository=repository,
            source=source,
            paths=tuple(path or ()),
            excludes=tuple(exclude or ()),
            tags=tuple(tag or ()),
            one_file_system=one_file_system,
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
