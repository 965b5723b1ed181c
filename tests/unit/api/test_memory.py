"""What a process remembers of quiet hosts, and when it must not."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from backhaul.wire.agents import HeldJob, PollRequest
from backhaul.wire.jobs import ActorKind
from backhaul_api.identity import Actor
from backhaul_api.polling.memory import OPERATOR_KEPT_FOR, KnownOperator, Memory, Quiet
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


ADA = Actor(kind=ActorKind.USER, id=uuid4(), name="ada")
SOON = START + OPERATOR_KEPT_FOR / 2


@pytest.mark.parametrize(
    ("expires_at", "now", "mark", "is_believed"),
    [
        (None, SOON, 7, True),
        (None, START + OPERATOR_KEPT_FOR, 7, False),
        (SOON, SOON, 7, False),
        (None, START - timedelta(seconds=1), 7, False),
        (None, SOON, 8, False),
        (None, SOON, None, False),
    ],
    ids=["soon", "late", "expired", "clock set back", "other mark", "no mark"],
)
def test_operator_is_believed_only_while_nothing_can_have_changed(
    expires_at: datetime | None, now: datetime, mark: int | None, *, is_believed: bool
) -> None:
    memory = Memory()
    memory.is_trusted = True
    actor = dataclasses.replace(ADA, expires_at=expires_at)

    with memory.introduce_operator() as remember:
        remember(TOKEN, KnownOperator.build(actor, START, 7), HOST)

    assert (memory.find_operator(TOKEN, now, mark) == actor) is is_believed


def test_tokens_that_are_used_once_do_not_fill_the_memory() -> None:
    memory = Memory()
    known = KnownOperator.build(ADA, START, 0)

    for number in range(2500):
        with memory.introduce_operator() as remember:
            remember(number.to_bytes(32), known, HOST)

    assert len(memory.operators) == 500


def test_who_was_heard_of_is_told_once() -> None:
    memory = Memory()
    memory.hear(HOST, START)
    memory.hear(HOST, START + timedelta(seconds=25))

    assert memory.take_heard() == {HOST: START + timedelta(seconds=25)}
    assert memory.take_heard() == {}
