"""What collections can do only where they may ask the server without `await`: show their rows,
and answer `in`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Generic, TypeVar
from uuid import UUID

T = TypeVar("T")

SHOWN_ROWS = 20
"""What a collection shows of itself: a page for people, not the whole fleet."""


class _Described:
    _noun: str
    _filters: dict[str, Any]

    def _describe(self) -> str:
        filters = ", ".join(f"{name}={_show(value)}" for name, value in self._filters.items())
        return f"{self._noun}({filters})" if filters else self._noun

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._describe()}>"


class AsyncDisplay(_Described, Generic[T]):
    """Shows what it is; its content takes an `await`."""

    def __aiter__(self) -> AsyncIterator[T]:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from backhaul.html import render_note

        return render_note(
            f"{self._describe()}: iterate with `async for`, or `await …to_pandas()`."
        )


class Display(_Described, Generic[T]):
    """Shows the first of its rows."""

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from backhaul.errors import BackhaulError
        from backhaul.html import render_error, render_table

        try:
            rows: list[Any] = list(islice(self, SHOWN_ROWS + 1))
        except BackhaulError as error:
            return render_error(error)
        data = [row.data for row in rows[:SHOWN_ROWS]]
        return render_table(self._noun, data, has_more=len(rows) > SHOWN_ROWS)


class AsyncKeyedDisplay(AsyncDisplay[T], Generic[T]):
    """`in` and `for` cannot wait: see `exists` and `async for`."""

    # Without these, Python would try [0], [1], [2] … for ever, and await none of them.
    __contains__ = None
    __iter__ = None


class KeyedDisplay(Display[T], Generic[T]):
    """Answers `"web-1" in fleet.hosts`."""

    def exists(self, key: UUID | str) -> bool:
        raise NotImplementedError

    def __contains__(self, thing: object) -> bool:
        key = getattr(thing, "id", thing)
        return isinstance(key, UUID | str) and self.exists(key)


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(str(one) for one in value)
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
