# Written by tools/write_sync.py from backhaul/aio/collections.py: change that.
"""What all collections have in common: they fetch pages as they are iterated, and keep none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from backhaul._displays import Display, KeyedDisplay
from backhaul.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from backhaul.frames import DataFrame

T = TypeVar("T")


class Collection(Display[T], Generic[T]):
    """Things of one kind. Each iteration asks the server anew, page by page."""

    def __init__(
        self,
        fetch: Callable[[int | None], Iterator[Any]],
        wrap: Callable[[Any], T],
        *,
        noun: str,
        filters: dict[str, Any] | None = None,
    ) -> None:
        self._fetch = fetch
        self._wrap = wrap
        self._noun = noun
        self._filters = {name: value for name, value in (filters or {}).items() if value}

    def __iter__(self) -> Iterator[T]:
        for data in self._fetch(None):
            yield self._wrap(data)

    def first(self) -> T | None:
        """Give the first one; None when there is none."""
        found = self.to_list(1)
        return found[0] if found else None

    def to_list(self, limit: int | None = None) -> list[T]:
        """Give all of them, or the first `limit`, at once."""
        return [self._wrap(data) for data in self._fetch(limit)]

    def to_pandas(self, limit: int | None = None) -> DataFrame:
        """Give all of them, or the first `limit`, as a table of pandas.

        Times are in UTC, durations timedeltas, sizes whole bytes. A table without rows has the same
        columns.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        from backhaul import frames

        frames.require_pandas()
        return frames.build(self._noun, [data for data in self._fetch(limit)])


class Keyed(Collection[T], KeyedDisplay[T], Generic[T]):
    """Things that have a name or at least an id: `collection["name"]` gives one."""

    def get(self, key: UUID | str, /) -> T:
        """Get one by its name or id.

        Raises:
            NotFoundError: there is none.
        """
        raise NotImplementedError

    def __getitem__(self, key: UUID | str) -> T:
        return self.get(key)

    def exists(self, key: UUID | str) -> bool:
        """Tell whether there is one of this name or id."""
        try:
            self.get(key)
        except (NotFoundError, InvalidRequestError):  # what can be no name is none
            return False
        return True
