"""What makes a source acceptable beyond the form of its fields. Touches neither HTTP nor SQL."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

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
