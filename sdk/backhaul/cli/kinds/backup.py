"""backhaul jobs run HOST backup."""

from __future__ import annotations

from typing import Annotated

import typer

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
from backhaul.cli.kinds.running import RepositoryOption, Texts, Wait, run
from backhaul.cli.output import AsJson, Quiet
from backhaul.wire.kinds import BackupRequest


def backup(
    context: typer.Context,
    repository: RepositoryOption = None,
    source: Annotated[str | None, typer.Option(help="Its name or id.")] = None,
    path: Annotated[Texts, typer.Option(metavar="DIR", help="Absolute. Repeatable.")] = None,
    exclude: Annotated[Texts, typer.Option(metavar="PATTERN", help="Repeatable.")] = None,
    tag: Annotated[Texts, typer.Option(metavar="TAG", help="For the snapshot. Repeatable.")] = None,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", help="Stay on one disk.")
    ] = False,
    exclude_file: ExcludeFiles = None,
    exclude_caches: Annotated[
        bool, typer.Option("--exclude-caches", help="Leave out folders with a CACHEDIR.TAG.")
    ] = False,
    exclude_larger_than: LargerThan = None,
    limit_upload: LimitUpload = None,
    limit_download: LimitDownload = None,
    compression: CompressionOption = None,
    nice: Nice = None,
    ionice: IoNice = None,
    dump: DumpName = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what it would do; make no snapshot.")
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Back up a source, paths that are named, or a dump of the host."""
    if not (source or path or dump):
        raise BadInputError(
            "What is to be backed up? Give --source, or --path once or more, or --dump."
        )
    run(
        context,
        lambda host, repository: BackupRequest(
            host=host,
            repository=repository,
            source=source,
            paths=tuple(path or ()),
            excludes=tuple(exclude or ()),
            tags=tuple(tag or ()),
            one_file_system=one_file_system,
            exclude_files=tuple(exclude_file or ()),
            exclude_caches=exclude_caches,
            exclude_larger_than=exclude_larger_than,
            limit_upload=limit_upload,
            limit_download=limit_download,
            compression=None if compression is None else compression.value,
            nice=nice,
            ionice=None if ionice is None else ionice.value,
            dump=dump,
            dry_run=dry_run,
        ),
        repository=repository,
        wait=wait,
        as_json=as_json,
        quiet=quiet,
    )
