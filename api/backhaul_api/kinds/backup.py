"""`backup`: of a source, or of paths that are named."""

from __future__ import annotations

from collections.abc import Iterable

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import BackupArguments, BackupRequest
from backhaul_api.errors import InvalidError
from backhaul_api.kinds.order import Fired, Order
from backhaul_api.sources.rules import check_paths, require_source

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
    )


def build(request: BackupRequest, source: Source | None) -> BackupArguments:
    """Build the backup that is asked for; `source` is the one that it names.

    Raises:
        InvalidError: it names both a source and paths, or neither, or a path that is none.
    """
    if source is None:
        _check_paths(request)
        return BackupArguments(
            paths=_unique(request.paths),
            excludes=_unique(request.excludes),
            tags=_unique(request.tags),
            one_file_system=request.one_file_system,
        )
    if request.paths:
        raise InvalidError.of("paths", "leave out the paths, or the source: a backup takes one")
    base = build_of_source(source)
    return BackupArguments(
        paths=base.paths,
        excludes=_unique([*base.excludes, *request.excludes]),
        tags=_unique([*base.tags, *request.tags]),
        one_file_system=base.one_file_system or request.one_file_system,
    )


def _check_paths(request: BackupRequest) -> None:
    if not request.paths:
        raise InvalidError.of("paths", "name the paths to back up, or a source")
    if len(request.paths) > MAX_PATHS:
        raise InvalidError.of("paths", f"name at most {MAX_PATHS} paths")
    check_paths(request.paths)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
