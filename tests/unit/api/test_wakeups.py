"""Bells: rung by topic, never missed between a look and the wait, ended when nobody is to wait."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from backhaul_api.polling.parking import Wait, look_until
from backhaul_api.polling.wakeups import Wakeups

TOPIC, OTHER = uuid4(), uuid4()


def later(seconds: float = 20.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_ring_before_the_wait_is_not_lost() -> None:
    wakeups = Wakeups()

    with wakeups.listen(TOPIC) as bell:
        wakeups.wake(TOPIC)

        assert await bell.wait_until(later())
        assert not await bell.wait_until(later(0))


async def test_ring_during_the_wait_ends_it() -> None:
    wakeups = Wakeups()

    with wakeups.listen(TOPIC) as bell:
        waiting = asyncio.create_task(bell.wait_until(later()))
        await asyncio.sleep(0)
        wakeups.wake(TOPIC)

        assert await waiting


async def test_other_topics_do_not_ring() -> None:
    wakeups = Wakeups()

    with wakeups.listen(TOPIC) as bell:
        wakeups.wake(OTHER)

        assert not await bell.wait_until(later(0))


async def test_everybody_who_listens_to_a_topic_is_rung() -> None:
    wakeups = Wakeups()

    with wakeups.listen(TOPIC) as first, wakeups.listen(TOPIC) as second:
        wakeups.wake(TOPIC)

        assert await first.wait_until(later(0))
        assert await second.wait_until(later(0))


async def test_wait_can_end_those_that_are_older() -> None:
    wakeups = Wakeups()

    older, newer = wakeups.enter(TOPIC), wakeups.enter(TOPIC)
    # A wait that was rung, and goes on, is as old as it was.
    wakeups.leave(TOPIC, older)
    again = wakeups.enter(TOPIC, older.number)

    wakeups.end_older(TOPIC)

    assert [one.has_ended() for one in (older, newer, again)] == [False, False, True]


async def test_drain_ends_waits_that_are_and_those_that_come() -> None:
    wakeups = Wakeups()

    with wakeups.listen(TOPIC) as before:
        wakeups.drain()
        with wakeups.listen(OTHER) as after:
            assert before.has_ended()
            assert after.has_ended()
            assert await after.wait_until(later())


@pytest.mark.parametrize(("parked", "most_s"), [(0, 5.0), (1_000, 5.0), (10_000, 40.0)])
async def test_drain_spreads_many_further_than_few(parked: int, most_s: float) -> None:
    wakeups = Wakeups()
    for _ in range(parked):
        wakeups.enter(uuid4())

    wakeups.drain()

    assert wakeups.drain_pause_s == (1.0, most_s)


async def test_only_looks_that_are_under_way_are_cut() -> None:
    wakeups = Wakeups()
    cut = []

    async def look() -> None:
        with wakeups.cuttable() as one:
            await asyncio.sleep(0)
        with wakeups.cuttable() as other:
            await asyncio.Event().wait()
        cut.extend([one.is_cut, other.is_cut])
        await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    while not wakeups._looking:
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)

    wakeups.cut_looks()
    await looking

    assert cut == [False, True]
    assert not wakeups._looking


async def test_whoever_is_cancelled_for_another_reason_stays_so() -> None:
    wakeups = Wakeups()

    async def look() -> None:
        with wakeups.cuttable():
            await asyncio.Event().wait()

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    looking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await looking


async def test_nothing_is_kept_of_those_who_left() -> None:
    wakeups = Wakeups()

    with wakeups.listen(TOPIC), wakeups.listen(TOPIC):
        assert wakeups.waiting == 2

    assert wakeups.waiting == 0
    assert not wakeups._bells


# Parking -----------------------------------------------------------------------------------------


class Looks:
    """Answers look by look from a list, the last for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.count = 0

    async def look(self) -> str:
        self.count += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Client:
    """Stands in for `receive`: hangs up when told to."""

    def __init__(self) -> None:
        self.has_hung_up = asyncio.Event()
        self.has_sent_body = False

    async def receive(self) -> Any:
        if not self.has_sent_body:
            self.has_sent_body = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.has_hung_up.wait()
        return {"type": "http.disconnect"}


def build_wait(wakeups: Wakeups, client: Client, seconds: float = 20.0) -> Wait:
    return Wait(wakeups=wakeups, topic=TOPIC, seconds=seconds, client=client.receive)


async def until_parked(wakeups: Wakeups) -> None:
    while not wakeups.waiting:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_first_look_that_is_enough_parks_nobody() -> None:
    looks, client = Looks("due"), Client()

    assert await look_until(looks.look, bool, build_wait(Wakeups(), client)) == "due"

    assert looks.count == 1
    assert not client.has_sent_body


async def test_wait_looks_again_after_it_registered() -> None:
    looks = Looks("", "due")

    assert await look_until(looks.look, bool, build_wait(Wakeups(), Client())) == "due"


async def test_end_of_the_wait_looks_once_more() -> None:
    looks = Looks("", "due")

    assert await look_until(looks.look, bool, build_wait(Wakeups(), Client(), 0.01)) == "due"


async def test_without_a_wait_there_is_one_look() -> None:
    looks = Looks("", "due")

    assert await look_until(looks.look, bool, build_wait(Wakeups(), Client(), 0)) == ""


async def test_client_that_hangs_up_ends_the_wait_and_asks_nothing_more_of_the_database() -> None:
    looks, client, wakeups = Looks(""), Client(), Wakeups()
    parked = asyncio.create_task(look_until(looks.look, bool, build_wait(wakeups, client)))
    await until_parked(wakeups)
    seen = looks.count

    client.has_hung_up.set()
    await parked

    assert looks.count == seen
    assert wakeups.waiting == 0


async def test_request_that_is_cancelled_leaves_nothing_behind() -> None:
    client, wakeups = Client(), Wakeups()
    before = asyncio.all_tasks()
    parked = asyncio.create_task(look_until(Looks("").look, bool, build_wait(wakeups, client)))
    await until_parked(wakeups)

    parked.cancel()
    await asyncio.wait([parked])

    assert parked.cancelled()
    assert wakeups.waiting == 0
    assert asyncio.all_tasks() == before
