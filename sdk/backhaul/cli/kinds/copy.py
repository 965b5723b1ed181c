"""backhaul jobs run HOST copy."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.failures import BadInputError
from backhaul.cli.kinds.running import RepositoryOption, Texts, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import CopyRequest


def copy(
    context: typer.Context,
    repository: RepositoryOption = None,
    destination: Annotated[str | None, typer.Option(help="The repository to copy to.")] = None,
    source: Annotated[str | None, typer.Option(help="Only its snapshots.")] = None,
    of_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Only the snapshots of this host.")
    ] = None,
    tag: Annotated[Texts, typer.Option(metavar="TAG", help="Only with it. Repeatable.")] = None,
    snapshot: Annotated[Texts, typer.Option(metavar="ID", help="Just this. Repeatable.")] = None,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy snapshots to a second repository. What is there already is not copied again."""
    if not destination:
        raise BadInputError("Where to? Give --destination, the name of a repository.")
    run(
        context,
        lambda host, repository: CopyRequest(
            host=host,
            repository=repository,
            destination=destination,
            source=source,
            of_host=of_host,
            tags=tuple(tag or ()),
            snapshots=tuple(snapshot or ()),
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
