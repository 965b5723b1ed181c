"""backhaul jobs run HOST prune."""

from __future__ import annotations

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import PruneRequest


def prune(
    context: typer.Context,
    repository: RepositoryOption = None,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Delete the data that no snapshot refers to."""
    run(
        context,
        lambda host, repository: PruneRequest(host=host, repository=repository),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
