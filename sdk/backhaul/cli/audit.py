"""backhaul audit."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.output import AsJson, Column, Quiet, print_list
from backhaul.wire.accounts import AuditEntry

app = typer.Typer(help="Who changed what.", rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Who changed what."""


@app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List what was changed, newest first."""
    with open_client() as client:
        entries = list(client.list_audit_entries(limit=limit))
    print_list(
        entries,
        _COLUMNS,
        key=lambda entry: entry.id,
        empty="Nothing was changed yet.",
        as_json=as_json,
        quiet=quiet,
    )


_COLUMNS: list[Column[AuditEntry]] = [
    Column("AT", lambda entry: display.render_moment(entry.at)),
    Column("WHO", lambda entry: entry.actor or entry.actor_kind, lambda _: "bold"),
    Column("DID", lambda entry: entry.action),
    Column("TO", lambda entry: entry.target or str(entry.target_id or "")),
]
