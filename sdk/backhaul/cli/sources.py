"""backhaul sources."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
import typer
from msgspec import UNSET

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.failures import BadInputError
from backhaul.cli.kinds.backup_options import (
    CompressionOption,
    DumpName,
    ExcludeFiles,
    IoNice,
    LargerThan,
    LimitDownload,
    LimitUpload,
    Nice,
)
from backhaul.cli.output import (
    AsJson,
    Column,
    Form,
    Output,
    Quiet,
    now,
    print_changed,
    print_list,
    print_one,
    print_removed,
)
from backhaul.cli.prompts import confirm_removal
from backhaul.wire.fleet import CreateSource, Source, UpdateSource
from backhaul.wire.kinds import Retention

app = typer.Typer(help="What to back up: named sets of paths, and dumps.", rich_markup_mode=None)

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Its name or id.")]
Paths = Annotated[
    list[str] | None, typer.Option("--path", metavar="DIR", help="Absolute. Repeatable.")
]
Excludes = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="A pattern, as restic reads it. Repeatable."),
]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="TAG", help="For the snapshots. Repeatable.")
]
OneFileSystem = Annotated[
    bool | None, typer.Option("--one-file-system/--all-file-systems", help="Stay on one disk.")
]
ExcludeCaches = Annotated[
    bool | None,
    typer.Option(
        "--exclude-caches/--include-caches", help="Leave out folders with a CACHEDIR.TAG."
    ),
]
KeepCount = Annotated[int | None, typer.Option(min=1, metavar="N", help="Snapshots to keep.")]
KeepWithin = Annotated[str | None, typer.Option(help="Keep all that are younger, like 7d or 1y6m.")]


@app.command("create")
def create_source(
    name: Annotated[str, typer.Argument(help="Also the tag of its snapshots.")],
    path: Paths = None,
    exclude: Excludes = None,
    tag: Tags = None,
    one_file_system: OneFileSystem = None,
    exclude_file: ExcludeFiles = None,
    exclude_caches: ExcludeCaches = None,
    exclude_larger_than: LargerThan = None,
    limit_upload: LimitUpload = None,
    limit_download: LimitDownload = None,
    compression: CompressionOption = None,
    nice: Nice = None,
    ionice: IoNice = None,
    dump: DumpName = None,
    keep_last: KeepCount = None,
    keep_hourly: KeepCount = None,
    keep_daily: KeepCount = None,
    keep_weekly: KeepCount = None,
    keep_monthly: KeepCount = None,
    keep_yearly: KeepCount = None,
    keep_within: KeepWithin = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Name a set of paths, or a dump, to back up."""
    if not path and dump is None:
        raise BadInputError("Name at least one --path, or a --dump.")
    retention = Retention(
        keep_last=keep_last,
        keep_hourly=keep_hourly,
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_monthly=keep_monthly,
        keep_yearly=keep_yearly,
        keep_within=keep_within,
    )
    request = CreateSource(
        name=name,
        paths=tuple(path or ()),
        excludes=tuple(exclude or ()),
        tags=tuple(tag or ()),
        one_file_system=bool(one_file_system),
        retention=None if retention == Retention() else retention,
        exclude_files=tuple(exclude_file or ()),
        exclude_caches=bool(exclude_caches),
        exclude_larger_than=exclude_larger_than,
        limit_upload=limit_upload,
        limit_download=limit_download,
        compression=None if compression is None else compression.value,
        nice=nice,
        ionice=None if ionice is None else ionice.value,
        dump=dump,
    )
    with open_client() as client:
        made = client.create_source(request)
    print_changed(made, f"Source {made.name} is made.", key=made.name, as_json=as_json, quiet=quiet)


@app.command("list")
def list_sources(
    output: Output = Form.TABLE, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """List the sources."""
    with open_client() as client:
        sources = list(client.list_sources())
    print_list(
        sources,
        _build_columns(now()),
        key=lambda source: source.name,
        empty="No sources yet. `backhaul sources create` makes one.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@app.command("show")
def show_source(source: SourceName, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show a source."""
    with open_client() as client:
        found = client.get_source(source)
    print_one(found, _build_fields(found), key=found.id, as_json=as_json, quiet=quiet)


@app.command("update")
def update_source(
    source: SourceName,
    name: Annotated[
        str | None, typer.Option(help="Its new name. Old snapshots keep theirs.")
    ] = None,
    path: Paths = None,
    exclude: Excludes = None,
    tag: Tags = None,
    one_file_system: OneFileSystem = None,
    exclude_file: ExcludeFiles = None,
    exclude_caches: ExcludeCaches = None,
    exclude_larger_than: LargerThan = None,
    limit_upload: LimitUpload = None,
    limit_download: LimitDownload = None,
    compression: CompressionOption = None,
    nice: Nice = None,
    ionice: IoNice = None,
    dump: DumpName = None,
    keep_last: KeepCount = None,
    keep_hourly: KeepCount = None,
    keep_daily: KeepCount = None,
    keep_weekly: KeepCount = None,
    keep_monthly: KeepCount = None,
    keep_yearly: KeepCount = None,
    keep_within: KeepWithin = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD", help="Empty this, like excludes, tags or retention. Repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Change a source. What is left out stays; a list is replaced, keep rules are as a set."""
    retention = Retention(
        keep_last=keep_last,
        keep_hourly=keep_hourly,
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_monthly=keep_monthly,
        keep_yearly=keep_yearly,
        keep_within=keep_within,
    )
    change = UpdateSource(
        name=UNSET if name is None else name,
        # A source has either: what is named takes the place of the other.
        paths=tuple(path) if path else UNSET if dump is None else (),
        excludes=tuple(exclude) if exclude else UNSET,
        tags=tuple(tag) if tag else UNSET,
        one_file_system=UNSET if one_file_system is None else one_file_system,
        retention=UNSET if retention == Retention() else retention,
        exclude_files=tuple(exclude_file) if exclude_file else UNSET,
        exclude_caches=UNSET if exclude_caches is None else exclude_caches,
        exclude_larger_than=UNSET if exclude_larger_than is None else exclude_larger_than,
        limit_upload=UNSET if limit_upload is None else limit_upload,
        limit_download=UNSET if limit_download is None else limit_download,
        compression=UNSET if compression is None else compression.value,
        nice=UNSET if nice is None else nice,
        ionice=UNSET if ionice is None else ionice.value,
        dump=dump if dump is not None or path else UNSET,
    )
    change = _clear(change, clear or [])
    if change == UpdateSource():
        raise BadInputError("Nothing to change: name at least one option.")
    with open_client() as client:
        changed = client.update_source(source, change)
    text = f"Source {changed.name} is changed."
    print_changed(changed, text, key=changed.name, as_json=as_json, quiet=quiet)


@app.command("remove")
def remove_source(
    source: SourceName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove a source. Its snapshots stay."""
    confirm_removal(f"Remove source {source}?", is_sure=yes)
    with open_client() as client:
        client.remove_source(source)
    print_removed(f"Source {source} is removed.", as_json=as_json, quiet=quiet)


_EMPTIES: dict[str, tuple[()] | None] = {
    "excludes": (),
    "tags": (),
    "retention": None,
    "exclude_files": (),
    "exclude_larger_than": None,
    "limit_upload": None,
    "limit_download": None,
    "compression": None,
    "nice": None,
    "ionice": None,
}
"""What `--clear` takes, and what it leaves."""


def _clear(change: UpdateSource, names: list[str]) -> UpdateSource:
    emptied: dict[str, object] = {}
    for name in names:
        if name not in _EMPTIES:
            raise BadInputError(f"--clear {name}: choose one of {', '.join(_EMPTIES)}.")
        if getattr(change, name) is not UNSET:
            raise BadInputError(f"--clear {name} contradicts the values that are given for it.")
        emptied[name] = _EMPTIES[name]
    return msgspec.structs.replace(change, **emptied)


def _build_columns(at: datetime) -> list[Column[Source]]:
    return [
        Column("NAME", lambda source: source.name, lambda _: "bold"),
        Column("PATHS", lambda source: _render_content(source)),
        Column("EXCLUDES", lambda source: ", ".join(source.excludes)),
        Column("CHANGED", lambda source: display.render_age(source.updated_at, at)),
        Column("TAGS", lambda source: ", ".join(source.tags), is_wide=True),
        Column("ID", lambda source: str(source.id), is_whole=True, is_wide=True),
    ]


def _build_fields(source: Source) -> list[tuple[str, str]]:
    return [
        ("name", source.name),
        ("id", str(source.id)),
        ("paths", ", ".join(source.paths)),
        ("dump", source.dump or ""),
        ("excludes", ", ".join(source.excludes)),
        ("exclude files", ", ".join(source.exclude_files)),
        ("exclude caches", "yes" if source.exclude_caches else "no"),
        ("exclude larger than", source.exclude_larger_than or ""),
        ("tags", ", ".join(source.tags)),
        ("one file system", "yes" if source.one_file_system else "no"),
        ("limit upload", _render_rate(source.limit_upload)),
        ("limit download", _render_rate(source.limit_download)),
        ("compression", source.compression or "auto"),
        ("nice", "" if source.nice is None else str(source.nice)),
        ("ionice", source.ionice or ""),
        ("retention", _render_retention(source.retention)),
        ("created", display.render_moment(source.created_at)),
        ("changed", display.render_moment(source.updated_at)),
    ]


def _render_content(source: Source) -> str:
    return f"dump {source.dump}" if source.dump else ", ".join(source.paths)


def _render_rate(kib: int | None) -> str:
    return "" if kib is None else f"{kib} KiB/s"


def _render_retention(retention: Retention | None) -> str:
    if retention is None:
        return "keep all"
    rules = msgspec.structs.asdict(retention).items()
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in rules if value)
