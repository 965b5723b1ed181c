"""backhaul jobs run HOST check."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import CheckRequest


def check(
    context: typer.Context,
    repository: RepositoryOption = None,
    read_data: Annotated[
        str | None, typer.Option(metavar="PART", help="Read data too, like 1/7 or 2.5%.")
    ] = None,
    read_data_parts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="Read one of so many parts too: that whose turn it is.",
        ),
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look for errors in the repository."""
    run(
        context,
        lambda host, repository: CheckRequest(
            host=host,
            repository=repository,
            read_data_subset=read_data,
            read_data_parts=read_data_parts,
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
