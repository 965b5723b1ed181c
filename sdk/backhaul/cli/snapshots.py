"""backhaul snapshots."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.output import AsJson, Column, Form, Output, Quiet, note, now, print_list, say
from backhaul.cli.repository_choice import choose_repository
from backhaul.wire.snapshots import FileEntry, FileList, Snapshot

_Snapshot = Annotated[str, typer.Argument(help="Its id, or enough of the first digits.")]
_Repository = Annotated[
    str | None, typer.Option(help="The repository that holds it; not needed if there is only one.")
]
_Host = Annotated[
    str | None, typer.Option(help="The host that is to look; else the one that made the snapshot.")
]
_Limit = Annotated[int | None, typer.Option(min=1, help="How many.")]
_Long = Annotated[
    bool, typer.Option("--long", "-l", help="With permissions, owner, size and time.")
]

app = typer.Typer(help="What the repositories hold.", rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """What the repositories hold."""


@app.command("list")
def list_snapshots(
    repository: Annotated[str | None, typer.Option(help="Only of this repository.")] = None,
    host: Annotated[str | None, typer.Option(help="Only those that this host made.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    output: Output = Form.TABLE,
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
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@app.command("ls")
def list_files(
    snapshot: _Snapshot,
    path: Annotated[str, typer.Argument(help="The folder.")] = "/",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also all that is below.")
    ] = False,
    repository: _Repository = None,
    host: _Host = None,
    limit: _Limit = None,
    long: _Long = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List a folder of a snapshot. A host looks into the repository for it."""
    with open_client() as client:
        chosen = choose_repository(client, repository)

        def fetch(count: int | None, cursor: str | None) -> FileList:
            return client.list_snapshot_files(
                chosen, snapshot, path, recursive=recursive, host=host, limit=count, cursor=cursor
            )

        _print_files(_iterate(fetch, limit), is_long=long, as_json=as_json, quiet=quiet)


@app.command("find")
def find_files(
    snapshot: _Snapshot,
    pattern: Annotated[str, typer.Argument(help="Like '*.conf', or '/etc/nginx/*'.")],
    repository: _Repository = None,
    host: _Host = None,
    limit: _Limit = None,
    long: _Long = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search a snapshot. A host looks into the repository for it."""
    with open_client() as client:
        chosen = choose_repository(client, repository)

        def fetch(count: int | None, cursor: str | None) -> FileList:
            return client.find_snapshot_files(
                chosen, snapshot, pattern, host=host, limit=count, cursor=cursor
            )

        _print_files(_iterate(fetch, limit), is_long=long, as_json=as_json, quiet=quiet)


def _iterate(
    fetch: Callable[[int | None, str | None], FileList], limit: int | None
) -> Iterator[FileEntry]:
    """Give the entries page by page."""
    left, cursor = limit, None
    while left is None or left > 0:
        page = fetch(None if left is None else min(left, 1000), cursor)
        yield from page.entries
        if page.next_cursor is None:
            return
        left = None if left is None else left - len(page.entries)
        cursor = page.next_cursor


def _print_files(
    entries: Iterator[FileEntry], *, is_long: bool, as_json: bool, quiet: bool
) -> None:
    if as_json or (is_long and not quiet):
        print_list(
            entries,
            _FILE_COLUMNS,
            key=lambda entry: entry.path,
            empty="Nothing there.",
            as_json=as_json,
            quiet=quiet,
        )
        return
    # As they come: a snapshot can hold more paths than a terminal wants to wait for.
    is_empty = True
    for entry in entries:
        is_empty = False
        say(f"{entry.path}/" if entry.type == "dir" and not quiet else entry.path)
    if is_empty and not quiet:
        note("Nothing there.")


def _render_mode(entry: FileEntry) -> str:
    """Render type and permissions as `ls -l` does."""
    kind = _KINDS.get(entry.type, stat.S_IFREG)
    return "" if entry.mode is None else stat.filemode(kind | entry.mode)


_KINDS = {
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "dev": stat.S_IFBLK,
    "chardev": stat.S_IFCHR,
}

_FILE_COLUMNS: list[Column[FileEntry]] = [
    Column("MODE", _render_mode, is_whole=True),
    Column("OWNER", lambda entry: _render_owner(entry.user, entry.uid)),
    Column("GROUP", lambda entry: _render_owner(entry.group, entry.gid)),
    Column(
        "SIZE",
        lambda entry: "" if entry.size is None else display.render_bytes(entry.size),
        is_right=True,
        is_whole=True,
    ),
    Column("CHANGED", lambda entry: display.render_moment(entry.mtime), is_whole=True),
    Column("PATH", lambda entry: entry.path),
]


def _render_owner(name: str, id_: int | None) -> str:
    return name or ("" if id_ is None else str(id_))


def _build_columns(at: datetime) -> list[Column[Snapshot]]:
    return [
        Column("ID", lambda snapshot: snapshot.short_id, lambda _: "bold", is_whole=True),
        Column("MADE", lambda snapshot: display.render_age(snapshot.time, at)),
        Column("REPOSITORY", lambda snapshot: snapshot.repository),
        Column("HOST", lambda snapshot: snapshot.hostname),
        Column("TAGS", lambda snapshot: ", ".join(snapshot.tags)),
        Column("PATHS", lambda snapshot: ", ".join(snapshot.paths)),
        Column("DOUBT", lambda snapshot: snapshot.doubt or "", lambda _: "yellow"),
        Column("USER", lambda snapshot: snapshot.username, is_wide=True),
        Column("JOB", lambda snapshot: str(snapshot.job_id or ""), is_whole=True, is_wide=True),
        Column("WHOLE ID", lambda snapshot: snapshot.id, is_whole=True, is_wide=True),
    ]
