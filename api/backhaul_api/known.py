"""What this process knows of the database's rows, so that most requests need no query for them.

Whoever looks something up begins before the query, so that what it finds is not kept if it was
changed meanwhile: nobody is remembered whose token was revoked.

    with known.introduce() as remember:
        who = await fetch(token_hash)
        remember(token_hash, who, topic)      # nothing, if the topic was woken since
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from uuid import UUID

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")

Remember = Callable[[KeyT, ValueT, UUID], None]
"""Takes a key, what was found under it, and the topic that is woken when that changes."""


class _Introduction:
    """A look under way."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken: set[UUID] = set()
        """The topics that were woken since it began."""


class Known(Generic[KeyT, ValueT]):
    """What is known of one kind, by its keys."""

    def __init__(self) -> None:
        self._known: dict[KeyT, ValueT] = {}
        self._keys_of: dict[UUID, tuple[KeyT, ...]] = {}
        self._introductions: set[_Introduction] = set()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: KeyT) -> ValueT | None:
        """Find what is known under a key."""
        return self._known.get(key)

    @contextmanager
    def introduce(self) -> Iterator[Remember[KeyT, ValueT]]:
        """Begin a look; gives what remembers what was found, unless its topic was woken since."""
        look = _Introduction()
        self._introductions.add(look)

        def remember(key: KeyT, value: ValueT, topic: UUID) -> None:
            if look not in self._introductions or topic in look.woken:
                return
            if key not in self._known:
                self._keys_of[topic] = (*self._keys_of.get(topic, ()), key)
            self._known[key] = value

        try:
            yield remember
        finally:
            self._introductions.discard(look)

    @property
    def introducing(self) -> int:
        """How many looks are under way."""
        return len(self._introductions)

    def wake(self, topic: UUID) -> None:
        """Something changed for whatever has this topic."""
        for key in self._keys_of.pop(topic, ()):
            self._known.pop(key, None)
        for look in self._introductions:
            look.woken.add(topic)

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._known.clear()
        self._keys_of.clear()
        self._introductions.clear()
