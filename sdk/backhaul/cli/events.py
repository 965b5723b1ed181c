"""backhaul events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.failures import INTERRUPTED
from backhaul.cli.output import AsJson, Column, Form, Output, Quiet, print_json, print_list, say
from backhaul.wire.events import Event


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as things happen, until Ctrl-C.")
    ] = False,
    tail: Annotated[
        int | None,
        typer.Option(min=0, help="So many of the newest. [default: 50; with --follow 10]"),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Like job.failed, or job for all of jobs. Repeatable."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Only of this host, by name or id.")] = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what happened, oldest first, or follow what happens.

    With --follow, --json prints one object a line; --quiet prints kinds only.
    """
    kinds = kind or ()
    if tail is None:
        tail = 10 if follow else 50
    with open_client() as client:
        if not follow:
            found = client.list_events(kinds=kinds, host=host, tail=tail)
            print_list(
                found,
                _COLUMNS,
                key=lambda event: event.kind,
                empty="Nothing happened yet.",
                output=output,
                as_json=as_json,
                quiet=quiet,
            )
            return
        coming = client.follow_events(kinds=kinds, host=host, tail=tail)
        try:
            _print_stream(coming, as_json=as_json, quiet=quiet)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _print_stream(coming: Iterable[Event], *, as_json: bool, quiet: bool) -> None:
    for event in coming:
        if as_json:
            print_json(event, is_compact=True)
        else:
            say(event.kind if quiet else _render_line(event))


def _render_line(event: Event) -> str:
    parts = [display.render_moment(event.at), event.kind, event.host or "", _render_what(event)]
    line = "  ".join(filter(None, parts))
    return f"{line}: {event.message}" if event.message else line


def _render_what(event: Event) -> str:
    if event.job_kind is not None:
        return event.job_kind
    return "" if event.target == event.host else event.target or ""


_COLUMNS: list[Column[Event]] = [
    Column("AT", lambda event: display.render_moment(event.at), is_whole=True),
    Column("WHAT", lambda event: event.kind, lambda _: "bold"),
    Column("HOST", lambda event: event.host or ""),
    Column("ON", _render_what),
    Column("WHO", lambda event: event.actor or ""),
    Column("WHY", lambda event: event.message or ""),
    Column("JOB", lambda event: str(event.job_id or ""), is_whole=True, is_wide=True),
    Column("TARGET ID", lambda event: str(event.target_id or ""), is_whole=True, is_wide=True),
]
