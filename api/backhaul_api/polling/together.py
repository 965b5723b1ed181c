"""What many ask for at about the same time, done for all of them at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

AskedT = TypeVar("AskedT")
AnswerT = TypeVar("AnswerT")


class Together(Generic[AskedT, AnswerT]):
    """Whoever asks while a round is under way goes into the next one.

    `do` answers a round, in its order. A round is over when it weighs `most`, or nobody waits.
    """

    def __init__(
        self,
        do: Callable[[list[AskedT]], Awaitable[Sequence[AnswerT]]],
        *,
        weigh: Callable[[AskedT], int],
        most: int,
        rounds_at_once: int = 1,
    ) -> None:
        self._do = do
        self._weigh = weigh
        self._most = most
        self._rounds_at_once = rounds_at_once
        self._waiting: deque[tuple[AskedT, asyncio.Future[AnswerT]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, asked: AskedT) -> AnswerT:
        """Wait for the answer. Raises what `do` does."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[AnswerT] = loop.create_future()
        self._waiting.append((asked, answer))
        if len(self._running) < self._rounds_at_once:
            self._running.add(loop.create_task(self._run()))
        return await answer

    async def _run(self) -> None:
        try:
            while together := self._take_some():
                try:
                    answers = await self._do([asked for asked, _ in together])
                except Exception as error:  # noqa: BLE001 (it is told to whoever asked)
                    for _, answer in together:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for (_, answer), given in zip(together, answers, strict=True):
                    if not answer.done():
                        answer.set_result(given)
        finally:
            # At once: whoever asks from here on begins a round again.
            current = asyncio.current_task()
            assert current is not None  # noqa: S101 (a coroutine of ours runs in a task)
            self._running.discard(current)

    def _take_some(self) -> list[tuple[AskedT, asyncio.Future[AnswerT]]]:
        taken: list[tuple[AskedT, asyncio.Future[AnswerT]]] = []
        weight = 0
        while self._waiting and weight < self._most:
            asked, answer = self._waiting.popleft()
            if not answer.done():  # else it has gone meanwhile
                weight += self._weigh(asked)
                taken.append((asked, answer))
        return taken
