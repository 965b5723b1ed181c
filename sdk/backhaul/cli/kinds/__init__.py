"""`backhaul jobs run HOST KIND`: a command for each kind of job, in a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul.cli.kinds import (
    backup,
    check,
    copy,
    diff,
    drill,
    forget,
    init,
    prune,
    restore,
    snapshots,
    stats,
    unlock,
)

app = typer.Typer(help="Run a job on a host, now or when its agent is back.", rich_markup_mode=None)


@app.callback()
def choose_host(
    context: typer.Context,
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="The name or id of the host that does it.")
    ],
) -> None:
    """Run a job on a host, now or when its agent is back."""
    context.obj = host


for _command in (
    init.init,
    backup.backup,
    snapshots.snapshots,
    restore.restore,
    forget.forget,
    prune.prune,
    check.check,
    unlock.unlock,
    copy.copy,
    diff.diff,
    drill.drill,
    stats.stats,
):
    app.command()(_command)
