"""backhaul audit."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.output import AsJson, Column, Form, Output, Quiet, print_list
from backhaul.cli.values import parse_since
from backhaul.wire.accounts import AuditEntry

app = typer.Typer(help="Who changed what.", rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Who changed what."""


@app.command("list")
def list_entries(
    since: Annotated[
        str | None, typer.Option(help="Like 7d or 12h, or a moment like 2026-10-24T00:00:00Z.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="As --since; what is after it is left out.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List what was changed, newest first."""
    after, before = parse_since(since, option="--since"), parse_since(until, option="--until")
    with open_client() as client:
        entries = list(client.list_audit_entries(since=after, until=before, limit=limit))
    print_list(
        entries,
        _COLUMNS,
        key=lambda entry: entry.id,
        empty="No such entries." if since or until else "Nothing was changed yet.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


_COLUMNS: list[Column[AuditEntry]] = [
    Column("AT", lambda entry: display.render_moment(entry.at)),
    Column("WHO", lambda entry: entry.actor or entry.actor_kind, lambda _: "bold"),
    Column("DID", lambda entry: entry.action),
    Column("TO", lambda entry: entry.target or str(entry.target_id or "")),
    Column("TARGET ID", lambda entry: str(entry.target_id or ""), is_whole=True, is_wide=True),
]
