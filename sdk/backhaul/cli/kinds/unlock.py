"""backhaul jobs run HOST unlock."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import UnlockRequest


def unlock(
    context: typer.Context,
    repository: RepositoryOption = None,
    remove_all: Annotated[
        bool, typer.Option("--remove-all", help="Also locks that may be of living processes.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove locks that dead processes have left in the repository."""
    run(
        context,
        lambda host, repository: UnlockRequest(
            host=host, repository=repository, remove_all=remove_all
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
