"""backhaul repositories sizes."""

from __future__ import annotations

from typing import Annotated

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.output import AsJson, Column, Form, Output, Quiet, print_list
from backhaul.wire.fleet import RepositorySize


def list_sizes(
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="Its name or id.")],
    limit: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List how large a repository was, newest first, as `stats` jobs have measured it."""
    with open_client() as client:
        sizes = list(client.list_repository_sizes(repository, limit=limit))
    print_list(
        sizes,
        _COLUMNS,
        key=lambda size: size.measured_at.isoformat(),
        empty="Nothing was measured yet. `backhaul jobs run HOST stats` does.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


_COLUMNS: list[Column[RepositorySize]] = [
    Column("MEASURED", lambda size: display.render_moment(size.measured_at)),
    Column("SIZE", lambda size: display.render_bytes(size.total_size)),
    Column("SNAPSHOTS", lambda size: str(size.snapshots_count)),
    Column("UNCOMPRESSED", lambda size: _render(size.uncompressed_size), is_wide=True),
    Column("NEWEST RESTORES TO", lambda size: _render(size.restore_size)),
    Column("JOB", lambda size: str(size.job_id or "-"), is_whole=True, is_wide=True),
]


def _render(size: int | None) -> str:
    return "-" if size is None else display.render_bytes(size)
