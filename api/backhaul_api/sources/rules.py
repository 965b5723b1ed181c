"""What makes a source acceptable beyond the form of its fields. Touches neither HTTP nor SQL."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import Retention
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
