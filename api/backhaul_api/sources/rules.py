"""What makes a source acceptable beyond the form of its fields. Touches neither HTTP nor SQL."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from backhaul.wire.fleet import CreateSource, Source
from backhaul.wire.kinds import BackupArguments, Retention
from backhaul.wire.problems import FieldError
from backhaul_api.errors import InvalidError


def check_paths(paths: Iterable[str], *, field: str = "paths") -> None:
    """Refuse paths that restic would read differently from how they look.

    Raises:
        InvalidError: names each path that is not absolute and normal.
    """
    errors = [
        FieldError(field=f"{field}[{index}]", message=f"write {posixpath.normpath(path)} instead")
        for index, path in enumerate(paths)
        if posixpath.normpath(path) != path
    ]
    if errors:
        raise InvalidError(*errors)


_OF_FILES = (
    "excludes",
    "exclude_files",
    "exclude_caches",
    "exclude_larger_than",
    "one_file_system",
)
"""What says which files of the paths are left out."""


def check_choice(chosen: CreateSource | Source | BackupArguments) -> None:
    """Refuse what is not either paths or a dump.

    Raises:
        InvalidError: there is neither, or both, or a dump of which files are to be left out.
    """
    if chosen.dump is None:
        if not chosen.paths:
            raise InvalidError.of("paths", "name at least one path, or a dump")
        return
    if chosen.paths:
        raise InvalidError.of("paths", "leave out the paths, or the dump: a backup takes one")
    errors = [
        FieldError(field=field, message="leave this out: a dump has no files to choose from")
        for field in _OF_FILES
        if getattr(chosen, field)
    ]
    if errors:
        raise InvalidError(*errors)


def has_keep_rule(retention: Retention | None) -> bool:
    """Tell whether a retention keeps anything. Within `0d` nothing is kept."""
    if retention is None:
        return False
    within = retention.keep_within or ""
    counts = (
        retention.keep_last,
        retention.keep_hourly,
        retention.keep_daily,
        retention.keep_weekly,
        retention.keep_monthly,
        retention.keep_yearly,
    )
    return any(counts) or any(int(count) for count in re.findall(r"\d+", within))


def require_keep_rule(source: Source) -> Retention:
    """Give the retention of a source, for a forget.

    Raises:
        InvalidError: it keeps nothing, so a forget would remove everything.
    """
    if source.retention is None or not has_keep_rule(source.retention):
        raise InvalidError.of(
            "source",
            f"source {source.name!r} has no keep rule, and forget would remove all its snapshots: "
            "give it a retention first, like keep_daily",
        )
    return source.retention


def require_source(source: Source | None, kind: str) -> Source:
    """Give the source.

    Raises:
        InvalidError: there is none, and the kind of job needs one.
    """
    if source is None:
        raise InvalidError.of("source", f"name the source to {kind}")
    return source
