"""backhaul snapshots."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.output import AsJson, Column, Quiet, now, print_list
from backhaul.wire.snapshots import Snapshot

app = typer.Typer(help="What the repositories hold.", rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """What the repositories hold."""


@app.command("list")
def list_snapshots(
    repository: Annotated[str | None, typer.Option(help="Only of this repository.")] = None,
    host: Annotated[str | None, typer.Option(help="Only those that this host made.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the snapshots as they were last seen, newest first."""
    with open_client() as client:
        snapshots = list(client.list_snapshots(repository=repository, host=host, limit=limit))
    print_list(
        snapshots,
        _build_columns(now()),
        key=lambda snapshot: snapshot.id,
        empty="No snapshots yet.",
        as_json=as_json,
        quiet=quiet,
    )


def _build_columns(at: datetime) -> list[Column[Snapshot]]:
    return [
        Column("ID", lambda snapshot: snapshot.short_id, lambda _: "bold", is_whole=True),
        Column("MADE", lambda snapshot: display.render_age(snapshot.time, at)),
        Column("REPOSITORY", lambda snapshot: snapshot.repository),
        Column("HOST", lambda snapshot: snapshot.hostname),
        Column("TAGS", lambda snapshot: ", ".join(snapshot.tags)),
        Column("PATHS", lambda snapshot: ", ".join(snapshot.paths)),
    ]
