"""backhaul jobs run HOST snapshots."""

from __future__ import annotations

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import SnapshotsRequest


def snapshots(
    context: typer.Context,
    repository: RepositoryOption = None,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Read the list of snapshots from the repository."""
    run(
        context,
        lambda host, repository: SnapshotsRequest(host=host, repository=repository),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
