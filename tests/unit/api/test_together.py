"""Who asks at about the same time is answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from backhaul_api.polling.together import Together


class Rounds:
    """Notes what was asked together, and answers each with its double when it is let go."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def do(self, asked: list[int]) -> Sequence[int]:
        self.seen.append(asked)
        await self.may_go.wait()
        if 13 in asked:
            raise LookupError
        return [2 * one for one in asked]


async def test_who_asks_during_a_round_goes_into_the_next_one() -> None:
    rounds = Rounds()
    together = Together(rounds.do, weigh=lambda _: 1, most=3)
    rounds.may_go.clear()

    asking = [asyncio.create_task(together.ask(number)) for number in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = asyncio.create_task(together.ask(6))
    rounds.may_go.set()

    assert await asyncio.gather(*asking, later) == [0, 2, 4, 6, 8, 10, 12]
    assert rounds.seen == [[0, 1, 2], [3, 4, 5], [6]]


async def test_round_ends_with_whoever_makes_it_heavy_enough() -> None:
    rounds = Rounds()
    together = Together(rounds.do, weigh=lambda number: number, most=10)

    answers = await asyncio.gather(*(together.ask(number) for number in (4, 100, 1, 2)))

    assert answers == [8, 200, 2, 4]
    assert rounds.seen == [[4, 100], [1, 2]]


async def test_error_is_told_to_all_of_a_round_and_to_nobody_else() -> None:
    rounds = Rounds()
    together = Together(rounds.do, weigh=lambda _: 1, most=2)

    answers = await asyncio.gather(
        *(together.ask(number) for number in (1, 13, 2, 3)), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [LookupError, LookupError, int, int]


async def test_who_has_gone_is_left_out_and_keeps_nobody_waiting() -> None:
    rounds = Rounds()
    together = Together(rounds.do, weigh=lambda _: 1, most=1)
    rounds.may_go.clear()
    first, gone, last = [asyncio.create_task(together.ask(number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    gone.cancel()
    first.cancel()
    await asyncio.sleep(0)
    rounds.may_go.set()

    assert await last == 6
    assert rounds.seen == [[1], [3]]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_several_rounds_run_at_once_if_they_may() -> None:
    rounds = Rounds()
    together = Together(rounds.do, weigh=lambda _: 1, most=1, rounds_at_once=2)
    rounds.may_go.clear()

    asking = [asyncio.create_task(together.ask(number)) for number in (1, 2, 3)]
    for _ in range(3):
        await asyncio.sleep(0)
    under_way = list(rounds.seen)
    rounds.may_go.set()

    assert await asyncio.gather(*asking) == [2, 4, 6]
    assert under_way == [[1], [2]]
