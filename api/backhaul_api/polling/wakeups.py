"""Waiting without holding anything: one bell per parked request, rung by topic.

A wake-up means "look again", and may be lost with the process. Whoever waits registers first and
looks at the database after that, so that a change between the look and the wait is not missed:

    with wakeups.listen(host_id) as bell:
        while not (due := await look()):
            if not await bell.wait_until(deadline):
                break

Only a quiet host's poll, which nothing else can be due for, may be spared the look: see `handover`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from backhaul_api.polling.memory import Memory

log = logging.getLogger(__name__)

TICK_S = 0.1

DRAIN_PAUSE_S = (1.0, 5.0)
"""Between these a stopping server spreads those whom it sends away."""

RETURNS_A_SECOND = 250
"""More of them than this is too much for the instance that takes them in, which knows none of them
yet: many are spread further."""


class Bell:
    """Rings when a topic that its owner listens to has changed, or when the wait is to end."""

    __slots__ = ("_has_ended", "_has_rung", "_wake", "_wheel", "news", "number", "takes_news")

    def __init__(self, wheel: Wheel, number: int) -> None:
        self._wheel = wheel
        self.number = number
        """Of the wait: the newest has the greatest."""
        self.takes_news = False
        """Its owner is the poll of a quiet host, and need not look if it is told what is new."""
        self.news: Sequence[msgspec.Raw] | None = None
        """The encoded envelopes that a look would find."""
        self._wake: Callable[[], None] | None = None
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
        self.time_out()

    def time_out(self) -> None:
        """End a wait in silence."""
        wake, self._wake = self._wake, None
        if wake is None:
            return
        try:
            wake()
        except Exception:
            # It must not keep the others from being woken.
            log.exception("poll.broke")

    async def wait_until(self, deadline: float) -> bool:
        """Wait for a ring; also tells of one that came before the call.

        Args:
            deadline: in the event loop's time, `loop.time()`.

        Returns:
            False when the deadline passed in silence.
        """
        if not self._has_rung:
            # A bare future: `wait_for` makes a task per call on Python 3.11, an Event a deque.
            future = asyncio.get_running_loop().create_future()
            tick = self.arm(deadline, partial(_resolve, future))
            try:
                await future
            finally:
                self.disarm(tick)
        rang, self._has_rung = self._has_rung, False
        return rang

    def arm(self, deadline: float, wake: Callable[[], None]) -> int:
        """Begin a wait without a coroutine: `wake` is called once, with the next ring or when the
        deadline has passed. Gives what `disarm` takes."""
        self._wake = wake
        return self._wheel.add(self, deadline, asyncio.get_running_loop())

    def disarm(self, tick: int) -> None:
        """End a wait that `arm` began."""
        self._wheel.discard(self, tick)
        self._wake = None

    def has_rung(self) -> bool:
        """Tell whether it rang since the last wait."""
        return self._has_rung


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Wheel:
    """One timer for the deadlines of all bells, in steps of `TICK_S`.

    A timer a poll costs memory and a heap of ten thousand; larger steps would end many polls in one
    burst.
    """

    def __init__(self) -> None:
        self._ticks: dict[int, set[Bell]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_tick = 0

    def add(self, bell: Bell, deadline: float, loop: asyncio.AbstractEventLoop) -> int:
        """Have the bell time out at the deadline or up to a tick later; gives which tick."""
        tick = math.ceil(deadline / TICK_S)
        self._ticks.setdefault(tick, set()).add(bell)
        if self._timer is None or tick < self._next_tick:
            self._set_timer(loop)
        return tick

    def discard(self, bell: Bell, tick: int) -> None:
        bells = self._ticks.get(tick)
        if bells is not None:
            bells.discard(bell)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_tick = min(self._ticks)
        self._timer = loop.call_at(self._next_tick * TICK_S, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for tick in sorted(tick for tick in self._ticks if tick * TICK_S <= now):
            for bell in self._ticks.pop(tick):
                bell.time_out()
        if self._ticks:
            self._set_timer(loop)


@dataclass(slots=True)
class Cut:
    """Whether a look was ended before it found anything."""

    is_cut: bool = False


class Wakeups:
    """The bells of one process, by topic: a host's id for its polls, a job's id for its readers."""

    def __init__(self) -> None:
        self._wheel = Wheel()
        self._bells: dict[UUID, Bell | dict[Bell, None]] = {}
        """Most topics have one: a host's poll. A dict for each would cost more than the bell."""
        self._last_number = 0
        self.memory = Memory()
        self.is_draining = False
        self.drain_pause_s = DRAIN_PAUSE_S
        """The shortest and the longest pause of those who are sent away."""
        self._looking: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()

    @contextmanager
    def listen(self, topic: UUID) -> Iterator[Bell]:
        """Register a bell for the length of the block."""
        bell = self.enter(topic)
        try:
            yield bell
        finally:
            self.leave(topic, bell)

    def count_wait(self) -> int:
        """Give the number of a new wait, which may have several bells one after the other."""
        self._last_number += 1
        return self._last_number

    def enter(self, topic: UUID, number: int | None = None) -> Bell:
        """Register a bell, which has to `leave`; `listen` sees to that."""
        bell = Bell(self._wheel, self.count_wait() if number is None else number)
        if self.is_draining:
            bell.end()
        present = self._bells.get(topic)
        if present is None:
            self._bells[topic] = bell
        elif isinstance(present, Bell):
            self._bells[topic] = {present: None, bell: None}
        else:
            present[bell] = None
        return bell

    def takes_news(self, topic: UUID) -> bool:
        """Tell whether one poll waits for a topic, and can be told what is new: see `bring`."""
        bell = self._bells.get(topic)
        return isinstance(bell, Bell) and bell.takes_news

    def bring(self, topic: UUID, news: Sequence[msgspec.Raw]) -> None:
        """Ring the bell of whoever `takes_news`, with what is new. Nobody else is woken."""
        bell = self._bells.get(topic)
        if isinstance(bell, Bell) and bell.takes_news:
            bell.news = news
            bell.ring()

    def end_older(self, topic: UUID) -> None:
        """End the waits on a topic, but for the newest."""
        bells = _each(self._bells.get(topic))
        newest = max((bell.number for bell in bells), default=0)
        for bell in bells:
            if bell.number < newest:
                bell.end()

    def leave(self, topic: UUID, bell: Bell) -> None:
        present = self._bells.get(topic)
        if present is bell:
            del self._bells[topic]
        elif isinstance(present, dict):
            present.pop(bell, None)
            if not present:
                del self._bells[topic]

    def wake(self, *topics: UUID) -> None:
        """Ring everybody who listens to a topic. Called after each commit: see `db.changes`."""
        for topic in topics:
            self.memory.wake(topic)
            for bell in _each(self._bells.get(topic)):
                bell.ring()

    def wake_all(self) -> None:
        """Ring everybody: nobody knows what has changed."""
        self.memory.forget_all()
        for present in list(self._bells.values()):
            for bell in _each(present):
                bell.ring()

    def drain(self) -> None:
        """End all waiting, now and from now on: the process is about to stop."""
        least_s, most_s = DRAIN_PAUSE_S
        self.drain_pause_s = (least_s, max(most_s, self.waiting / RETURNS_A_SECOND))
        self.is_draining = True
        for present in list(self._bells.values()):  # they leave as they end
            for bell in _each(present):
                bell.end()

    @contextmanager
    def cuttable(self) -> Iterator[Cut]:
        """Let `cut_looks` end the block, which asks the database for a poll. Afterwards `is_cut`
        tells."""
        cut, task = Cut(), asyncio.current_task()
        assert task is not None  # noqa: S101 (whoever waits for a database runs in one)
        self._looking.add(task)
        try:
            yield cut
        except asyncio.CancelledError:
            if task not in self._cut:
                raise
            task.uncancel()
            cut.is_cut = True
        finally:
            self._looking.discard(task)
            self._cut.discard(task)

    def cut_looks(self) -> None:
        """End the looks of polls that are not over yet: a server that stops does not wait for a
        database that is slow, or away."""
        for task in self._looking:
            self._cut.add(task)
            task.cancel()

    @property
    def waiting(self) -> int:
        """How many requests are parked."""
        return sum(len(_each(present)) for present in self._bells.values())


def _each(present: Bell | dict[Bell, None] | None) -> tuple[Bell, ...]:
    """List the bells of a topic; a copy, for some leave when they ring."""
    if present is None:
        return ()
    return (present,) if isinstance(present, Bell) else tuple(present)
