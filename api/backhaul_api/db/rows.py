"""Rows as the wire's structs."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def build_struct(row: Any, type_: type[T]) -> T:
    """Build a struct out of the columns that are called like its fields. To ask the row for one
    after the other takes several times as long."""
    return msgspec.convert(dict(zip(_build_names(row._fields), row, strict=True)), type_)


@cache
def _build_names(fields: tuple[str, ...]) -> tuple[str, ...]:
    """Build the names out of SQLAlchemy's, which are of a type of their own. There are few of
    them."""
    return tuple(map(str, fields))
