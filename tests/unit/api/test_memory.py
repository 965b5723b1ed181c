"""What a process remembers of quiet hosts, and when it must not."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from backhaul.wire.agents import HeldJob, PollRequest
from backhaul_api.polling.memory import Memory, Quiet
from backhaul_api.polling.wakeups import Wakeups
from tests.fakes.clock import START

HOST, OTHER = uuid4(), uuid4()
BOOT = uuid4()
TOKEN = b"\x01" * 32
POLL = PollRequest(
    boot_id=BOOT, schedule_version=3, settings_version=0, jobs=(), clock=START, hold=25.0
)


def build_quiet(host_id: UUID = HOST, token_hash: bytes = TOKEN) -> Quiet:
    return Quiet(
        host_id=host_id,
        name="web1",
        token_hash=token_hash,
        boot_id=BOOT,
        schedule_version=3,
        jobs=(),
    )


def test_host_is_found_by_its_token_after_a_look_that_found_nothing() -> None:
    memory = Memory()

    memory.remember(memory.begin(HOST), build_quiet())

    assert memory.find(TOKEN) == build_quiet()
    assert memory.find(b"\x02" * 32) is None


def test_wake_up_takes_away_what_was_known_of_the_host_alone() -> None:
    wakeups = Wakeups()
    memory = wakeups.memory
    memory.remember(memory.begin(HOST), build_quiet())
    memory.remember(memory.begin(OTHER), build_quiet(OTHER, b"\x02" * 32))

    wakeups.wake(HOST)

    assert memory.find(TOKEN) is None
    assert memory.find(b"\x02" * 32) is not None


def test_look_during_which_the_host_was_woken_is_worth_nothing() -> None:
    memory = Memory()
    look = memory.begin(HOST)

    memory.wake(HOST)
    memory.remember(look, build_quiet())

    assert memory.find(TOKEN) is None


def test_of_two_looks_the_one_that_began_last_is_believed() -> None:
    memory = Memory()
    first, second = memory.begin(HOST), memory.begin(HOST)

    memory.remember(second, None)
    memory.remember(first, build_quiet())

    assert memory.find(TOKEN) is None


def test_news_take_the_place_of_quiet() -> None:
    memory = Memory()
    memory.remember(memory.begin(HOST), build_quiet())

    memory.remember(memory.begin(HOST), None)

    assert memory.find(TOKEN) is None
    assert memory.quiet_count == 0


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"hold": 5.0, "clock": START + timedelta(hours=1)}, True),
        ({"boot_id": uuid4()}, False),
        ({"schedule_version": 4}, False),
        ({"jobs": (HeldJob(job_id=uuid4(), state="running"),)}, False),
    ],
    ids=["same", "hold and clock", "other process", "other schedules", "other jobs"],
)
def test_poll_is_answered_from_memory_only_when_it_says_the_same(
    changes: dict[str, object], is_same: bool
) -> None:
    assert build_quiet().is_same(msgspec.structs.replace(POLL, **changes)) is is_same


def test_who_was_heard_of_is_told_once() -> None:
    memory = Memory()
    memory.hear(HOST, START)
    memory.hear(HOST, START + timedelta(seconds=25))

    assert memory.take_heard() == {HOST: START + timedelta(seconds=25)}
    assert memory.take_heard() == {}
