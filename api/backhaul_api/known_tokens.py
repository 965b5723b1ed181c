"""Whose tokens this process knows, so that most requests need no query to tell who is asking.

Whoever looks a token up begins before the query, so that what it finds is not kept if it was
changed meanwhile: nobody is remembered whose token was revoked.

    with known.introduce() as remember:
        who = await fetch(token_hash)
        remember(token_hash, who, topic)      # nothing, if the topic was woken since
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from uuid import UUID

WhoT = TypeVar("WhoT")

Remember = Callable[[bytes, WhoT, UUID], None]
"""Takes the hash of a token, who has it, and the topic of their identity."""


class _Introduction:
    """A look under way for whose token it is."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken: set[UUID] = set()
        """The topics that were woken since it began."""


class KnownTokens(Generic[WhoT]):
    """Who has the tokens of one kind, by their hashes."""

    def __init__(self) -> None:
        self._known: dict[bytes, WhoT] = {}
        self._hashes_of: dict[UUID, tuple[bytes, ...]] = {}
        self._introductions: set[_Introduction] = set()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, token_hash: bytes) -> WhoT | None:
        """Find whose token this is, if that is known."""
        return self._known.get(token_hash)

    @contextmanager
    def introduce(self) -> Iterator[Remember[WhoT]]:
        """Begin a look for whose token it is; gives what remembers who was found, unless the topic
        of their identity was woken since."""
        look = _Introduction()
        self._introductions.add(look)

        def remember(token_hash: bytes, who: WhoT, topic: UUID) -> None:
            if look not in self._introductions or topic in look.woken:
                return
            if token_hash not in self._known:
                self._hashes_of[topic] = (*self._hashes_of.get(topic, ()), token_hash)
            self._known[token_hash] = who

        try:
            yield remember
        finally:
            self._introductions.discard(look)

    @property
    def introducing(self) -> int:
        """How many tokens are being looked up."""
        return len(self._introductions)

    def wake(self, topic: UUID) -> None:
        """Something changed for whoever has this topic."""
        for token_hash in self._hashes_of.pop(topic, ()):
            self._known.pop(token_hash, None)
        for look in self._introductions:
            look.woken.add(topic)

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._known.clear()
        self._hashes_of.clear()
        self._introductions.clear()
