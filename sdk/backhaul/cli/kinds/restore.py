"""backhaul jobs run HOST restore."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.failures import BadInputError
from backhaul.cli.kinds.running import RepositoryOption, Texts, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import RestoreRequest


def restore(
    context: typer.Context,
    repository: RepositoryOption = None,
    snapshot: Annotated[str | None, typer.Option(help="An id, or latest.")] = None,
    of_host: Annotated[
        str | None, typer.Option(help="With latest: whose snapshot; by default HOST's own.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="With latest: the source whose snapshot is meant.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="A new or empty folder.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Put the --include paths back, over what is there.")
    ] = False,
    confirm_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="With --in-place: the host's name again.")
    ] = None,
    include: Annotated[
        Texts, typer.Option(metavar="PATTERN", help="Only these. Repeatable.")
    ] = None,
    exclude: Annotated[
        Texts, typer.Option(metavar="PATTERN", help="All but these. Repeatable.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything again and compare.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore a snapshot into a new or empty folder of the host, or put files back in place."""
    if not snapshot or not (target or in_place):
        raise BadInputError(
            "A restore needs --snapshot (an id, or latest) and --target (a new or empty folder)."
        )
    run(
        context,
        lambda host, repository: RestoreRequest(
            host=host,
            repository=repository,
            snapshot=snapshot,
            of_host=of_host,
            source=source,
            target=target,
            in_place=in_place,
            confirm_host=confirm_host,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            verify=verify,
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
