"""Statements in parts: a database takes only so many parameters at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give the items in lists of at most so many."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some
