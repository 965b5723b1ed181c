"""`backup`: of a source, or of paths or a dump that are named."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import BackupArguments, BackupRequest
from backhaul_api.errors import InvalidError
from backhaul_api.kinds.order import Fired, Order
from backhaul_api.sources.rules import check_choice, check_paths, require_source

MAX_PATHS = 1000
"""As many as a source may have."""


async def plan(order: Order, request: BackupRequest) -> BackupArguments:
    source = None if request.source is None else await order.fetch_source(request.source)
    return build(request, source)


async def plan_fired(fired: Fired) -> BackupArguments:
    return build_of_source(require_source(await fired.fetch_source(), "backup"))


def build_of_source(source: Source) -> BackupArguments:
    """Build the backup of a source. Its name is the first tag: by it the snapshots are found."""
    return BackupArguments(
        paths=source.paths,
        excludes=source.excludes,
        tags=_unique([source.name, *source.tags]),
        one_file_system=source.one_file_system,
        exclude_files=source.exclude_files,
        exclude_caches=source.exclude_caches,
        exclude_larger_than=source.exclude_larger_than,
        limit_upload=source.limit_upload,
        limit_download=source.limit_download,
        compression=source.compression,
        nice=source.nice,
        ionice=source.ionice,
        dump=source.dump,
    )


def build(request: BackupRequest, source: Source | None) -> BackupArguments:
    """Build the backup that is asked for; `source` is the one that it names.

    Raises:
        InvalidError: it names several of a source, paths and a dump, or none, or a path that is
            none, or what leaves out files of a dump.
    """
    check_paths(request.exclude_files, field="exclude_files")
    if source is None:
        _check_paths(request)
        arguments = _add(BackupArguments(paths=_unique(request.paths), dump=request.dump), request)
    else:
        _refuse_both(request)
        arguments = _add(build_of_source(source), request)
    check_choice(arguments)
    return arguments


def _add(base: BackupArguments, request: BackupRequest) -> BackupArguments:
    """Add what is asked: to the lists, and in the place of single values."""
    return msgspec.structs.replace(
        base,
        excludes=_unique([*base.excludes, *request.excludes]),
        tags=_unique([*base.tags, *request.tags]),
        one_file_system=base.one_file_system or request.one_file_system,
        exclude_files=_unique([*base.exclude_files, *request.exclude_files]),
        exclude_caches=base.exclude_caches or request.exclude_caches,
        exclude_larger_than=request.exclude_larger_than or base.exclude_larger_than,
        limit_upload=request.limit_upload or base.limit_upload,
        limit_download=request.limit_download or base.limit_download,
        compression=request.compression or base.compression,
        nice=base.nice if request.nice is None else request.nice,
        ionice=request.ionice or base.ionice,
        dry_run=request.dry_run,
    )


def _refuse_both(request: BackupRequest) -> None:
    if request.paths:
        raise InvalidError.of("paths", "leave out the paths, or the source: a backup takes one")
    if request.dump is not None:
        raise InvalidError.of("dump", "leave out the dump, or the source: a backup takes one")


def _check_paths(request: BackupRequest) -> None:
    if not request.paths and request.dump is None:
        raise InvalidError.of("paths", "name the paths to back up, or a source, or a dump")
    if len(request.paths) > MAX_PATHS:
        raise InvalidError.of("paths", f"name at most {MAX_PATHS} paths")
    check_paths(request.paths)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
