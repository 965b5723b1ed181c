"""Lists come in pages: `items` and the cursor of the page that follows."""

from __future__ import annotations

from typing import Generic, TypeVar

from backhaul.wire.base import Wire

T = TypeVar("T")


class Page(Wire, Generic[T], frozen=True, kw_only=True):
    """Part of a list, in a stable order."""

    items: tuple[T, ...]
    next_cursor: str | None = None
    """Ask for the next page with this; None at the end."""
