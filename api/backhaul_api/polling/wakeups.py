"""Waiting without holding anything: one future per parked request, woken by topic.

A wake-up only means "look again"; it carries nothing and may be lost with the process. Whoever
waits registers first and looks at the database after that, so that a change between the look and
the wait is not missed:

    with wakeups.listen(host_id) as bell:
        while not (due := await look()):
            if not await bell.wait_until(deadline):
                break
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID


class Bell:
    """Rings when a topic that its owner listens to has changed, or when the wait is to end."""

    __slots__ = ("_future", "_has_ended", "_has_rung")

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._has_rung = False
        self._has_ended = False

    def has_ended(self) -> bool:
        """Tell whether nobody should wait any more: answer with what there is."""
        return self._has_ended

    def end(self) -> None:
        """Ring for the last time: the server drains, or nobody wants the answer any more."""
        self._has_ended = True
        self.ring()

    def ring(self) -> None:
        self._has_rung = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait_until(self, deadline: float) -> bool:
        """Wait for a ring; also tells of one that came before the call.

        Args:
            deadline: in the event loop's time, `loop.time()`.

        Returns:
            False when the deadline passed in silence.
        """
        if not self._has_rung:
            loop = asyncio.get_running_loop()
            # A bare future and one timer: `wait_for` makes a task per call on Python 3.11.
            self._future = loop.create_future()
            timer = loop.call_at(deadline, _finish, self._future)
            try:
                await self._future
            finally:
                timer.cancel()
                self._future = None
        rang, self._has_rung = self._has_rung, False
        return rang


class Wakeups:
    """The bells of one process, by topic: a host's id for its polls, a job's id for its readers."""

    def __init__(self) -> None:
        self._bells: dict[UUID, set[Bell]] = {}
        self.is_draining = False

    @contextmanager
    def listen(self, topic: UUID, *, alone: bool = False) -> Iterator[Bell]:
        """Register a bell for the length of the block. `alone` ends the topic's older waits."""
        bell = Bell()
        bells = self._bells.setdefault(topic, set())
        if alone:
            for older in bells:
                older.end()
        if self.is_draining:
            bell.end()
        bells.add(bell)
        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells and self._bells.get(topic) is bells:
                del self._bells[topic]

    def wake(self, *topics: UUID) -> None:
        """Ring everybody who listens to a topic. Call it after the commit, never inside."""
        for topic in topics:
            for bell in self._bells.get(topic, ()):
                bell.ring()

    def drain(self) -> None:
        """End all waiting, now and from now on: the process is about to stop."""
        self.is_draining = True
        for bells in self._bells.values():
            for bell in bells:
                bell.end()

    @property
    def waiting(self) -> int:
        """How many requests are parked."""
        return sum(len(bells) for bells in self._bells.values())


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
