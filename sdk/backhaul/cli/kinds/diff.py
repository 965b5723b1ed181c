"""backhaul jobs run HOST diff."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.failures import BadInputError
from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import DiffRequest


def diff(
    context: typer.Context,
    repository: RepositoryOption = None,
    snapshot: Annotated[str | None, typer.Option(help="The id of the first.")] = None,
    other: Annotated[str | None, typer.Option(help="The id of the second.")] = None,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Tell what has changed from one snapshot to another; `jobs show` lists it."""
    if not snapshot or not other:
        raise BadInputError("Which snapshots are to be compared? Give --snapshot and --other.")
    run(
        context,
        lambda host, repository: DiffRequest(
            host=host, repository=repository, snapshot=snapshot, other=other
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
