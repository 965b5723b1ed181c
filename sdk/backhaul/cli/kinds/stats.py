"""backhaul jobs run HOST stats."""

from __future__ import annotations

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import StatsRequest


def stats(
    context: typer.Context,
    repository: RepositoryOption = None,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the repository, and the newest snapshot that the host has in it."""
    run(
        context,
        lambda host, repository: StatsRequest(host=host, repository=repository),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
