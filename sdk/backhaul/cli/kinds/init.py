"""backhaul jobs run HOST init."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import InitRequest


def init(
    context: typer.Context,
    repository: RepositoryOption = None,
    chunker_of: Annotated[
        str | None,
        typer.Option(
            metavar="REPOSITORY",
            help="Cut files as this one does, so that copies of its snapshots share data.",
        ),
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Create the repository. Refused for one that is known to exist."""
    run(
        context,
        lambda host, repository: InitRequest(
            host=host, repository=repository, chunker_of=chunker_of
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
