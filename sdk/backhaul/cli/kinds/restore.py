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
    target: Annotated[str | None, typer.Option(help="A new or empty folder.")] = None,
    include: Annotated[
        Texts, typer.Option(metavar="PATTERN", help="Only these. Repeatable.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything again and compare.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore a snapshot into a new or empty folder of the host."""
    if not snapshot or not target:
        raise BadInputError(
            "A restore needs --snapshot (an id, or latest) and --target (a new or empty folder)."
        )
    run(
        context,
        lambda host, repository: RestoreRequest(
            host=host,
            repository=repository,
            snapshot=snapshot,
            target=target,
            include=tuple(include or ()),
            verify=verify,
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
