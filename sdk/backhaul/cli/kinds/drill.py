"""backhaul jobs run HOST drill."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.cli.values import parse_size
from backhaul.wire.kinds import DrillRequest
from backhaul.wire.kinds.drill import DEFAULT_FILES


def drill(
    context: typer.Context,
    repository: RepositoryOption = None,
    snapshot: Annotated[str, typer.Option(help="An id, or latest.")] = "latest",
    of_host: Annotated[
        str | None,
        typer.Option(help="With latest: whose snapshot; by default HOST's own, or anybody's."),
    ] = None,
    files: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="How many, drawn at random.")
    ] = DEFAULT_FILES,
    max_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Of all together; larger files are skipped.")
    ] = "1G",
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore some files to a scratch folder, read them a second time, and compare."""
    limit_bytes = parse_size(max_bytes, option="--max-bytes")
    run(
        context,
        lambda host, repository: DrillRequest(
            host=host,
            repository=repository,
            snapshot=snapshot,
            of_host=of_host,
            files=files,
            max_bytes=limit_bytes,
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
