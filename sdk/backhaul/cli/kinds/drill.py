"""backhaul jobs run HOST drill."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.kinds.running import RepositoryOption, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import DrillRequest
from backhaul.wire.kinds.drill import DEFAULT_FILES, DEFAULT_MAX_BYTES


def drill(
    context: typer.Context,
    repository: RepositoryOption = None,
    snapshot: Annotated[str, typer.Option(help="An id, or latest.")] = "latest",
    of_host: Annotated[
        str | None,
        typer.Option(help="With latest: whose snapshot; by default HOST's own, or anybody's."),
    ] = None,
    files: Annotated[
        int, typer.Option(min=1, max=1000, help="How many, drawn at random.")
    ] = DEFAULT_FILES,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="Of all together; larger files are skipped.")
    ] = DEFAULT_MAX_BYTES,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore some files to a scratch folder, read them a second time, and compare."""
    run(
        context,
        lambda host, repository: DrillRequest(
            host=host,
            repository=repository,
            snapshot=snapshot,
            of_host=of_host,
            files=files,
            max_bytes=max_bytes,
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
