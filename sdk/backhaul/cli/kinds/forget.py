"""backhaul jobs run HOST forget."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.failures import BadInputError
from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import ForgetRequest


def forget(
    context: typer.Context,
    repository: RepositoryOption = None,
    source: Annotated[str | None, typer.Option(help="Its retention decides.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing, and tell what would go.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove the snapshots of a source that its retention does not keep.

    Snapshots that no job made, or whose time cannot be true, are neither counted nor removed.
    """
    if not source:
        raise BadInputError("What is to be forgotten? Give --source: its retention decides.")
    run(
        context,
        lambda host, repository: ForgetRequest(
            host=host, repository=repository, source=source, dry_run=dry_run
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
