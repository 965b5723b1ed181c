"""Schedules on the agent: applied in one step, fired once each, through everything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from backhaul import cron as cron_module
from backhaul.wire.reports import JobStarted
from backhaul.wire.schedules import ScheduleAck, ScheduleEntry, ScheduleFire
from backhaul_agent.cron_loop import TICK_S
from backhaul_agent.schedule_entries import ReceivedSet
from tests.unit.agent.hosts import START
from tests.unit.agent.scheduled_host import ScheduledHost, build_entry, count_calls

MINUTE = timedelta(minutes=1)
HOURLY = "0 * * * *"


@pytest.fixture
def host(state_dir: Path) -> Iterator[ScheduledHost]:
    host = ScheduledHost(state_dir)
    yield host
    host.close()


def summary(fires: list[ScheduleFire]) -> list[tuple[int, int, int]]:
    """Give schedule, minute after the start, and missed, of each fire."""
    return [
        (fire.schedule_id.int, int((fire.scheduled_at - START) / MINUTE), fire.missed)
        for fire in fires
    ]


# Applying a set ----------------------------------------------------------------------------------


async def test_applied_set_is_acked_and_named_by_the_next_poll(host: ScheduledHost) -> None:
    host.api.set_schedules(build_entry())

    await host.poll()

    assert host.waiting == [ScheduleAck(schedule_version=1)]
    assert host.inbox.build_request(0.0).schedule_version == 1


async def test_set_that_was_applied_before_changes_nothing(host: ScheduledHost) -> None:
    first = ReceivedSet(schedule_version=1, schedules=())
    await host.apply(build_entry())
    await host.apply(build_entry(2))

    assert not await host.cron.apply(first)

    assert host.cron.applied_version == 2
    assert host.waiting == [ScheduleAck(schedule_version=2)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "0 2 30 2 *"}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"kind": "defragment"}, "defragment"),
        ({"jitter": 1e300}, "jitter"),
        ({"catch_up": "thrice"}, "catch_up"),
        ({"jitter": -1.0}, "jitter"),
    ],
    ids=[
        "minute 61",
        "six fields",
        "never fires",
        "zone",
        "kind",
        "endless jitter",
        "policy of a later version",
        "negative jitter",
    ],
)
async def test_bad_entry_is_reported_and_the_others_run(
    host: ScheduledHost, changes: dict[str, Any], named: str
) -> None:
    await host.apply(build_entry(1, **changes), build_entry(2))

    await host.live(60)

    ack, fire = host.waiting
    assert isinstance(ack, ScheduleAck)
    assert [error.schedule_id for error in ack.errors] == [UUID(int=1)]
    assert named in ack.errors[0].message
    assert isinstance(fire, ScheduleFire)
    assert fire.schedule_id == UUID(int=2)


async def test_entries_that_an_upgraded_agent_can_run_are_acked_again(
    host: ScheduledHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = build_entry(1, "30 1 * * *", timezone="Mars/Olympus")
    await host.apply(entry)
    await host.send_all()
    host.restart()
    assert host.waiting == []  # it says the same as before

    monkeypatch.setattr(cron_module, "_load_zone", lambda _: ZoneInfo("UTC"))
    host.restart()

    assert host.waiting == [ScheduleAck(schedule_version=1)]
    await host.send_all()
    host.restart()
    assert host.waiting == []


async def test_entries_of_one_schedule_spoil_only_each_other(host: ScheduledHost) -> None:
    await host.apply(build_entry(1), build_entry(1, "0 0 * * *"), build_entry(2))

    ack = host.waiting[0]
    assert isinstance(ack, ScheduleAck)
    assert [error.message for error in ack.errors] == ["the set names this schedule twice"]
    await host.live(60)
    assert [fire.schedule_id.int for fire in host.fires] == [2]


async def test_entry_without_a_name_spoils_no_other(host: ScheduledHost) -> None:
    schedules = (msgspec.Raw(b"{}"), msgspec.Raw(msgspec.json.encode(build_entry())))

    assert await host.cron.apply(ReceivedSet(schedule_version=1, schedules=schedules))

    await host.live(60)
    assert len(host.fires) == 1


async def test_disabled_entry_is_silent(host: ScheduledHost) -> None:
    await host.apply(build_entry(enabled=False))

    await host.live(180)

    assert host.waiting == [ScheduleAck(schedule_version=1)]


async def test_deleted_entry_fires_no_more(host: ScheduledHost) -> None:
    await host.apply(build_entry(1), build_entry(2))

    await host.apply(build_entry(2))
    await host.live(60)

    assert [fire.schedule_id.int for fire in host.fires] == [2]


async def test_unchanged_entry_keeps_its_place_and_a_changed_one_starts_now(
    host: ScheduledHost,
) -> None:
    await host.apply(build_entry(1, HOURLY), build_entry(2, HOURLY), build_entry(3, HOURLY))
    host.clock.advance(2 * 3600 + 300)
    host.restart()  # Both slots of each were missed, and wait for the settle time.

    await host.apply(
        build_entry(1, HOURLY, jitter=5.0, max_duration=60.0),
        build_entry(2, "30 * * * *"),
        build_entry(3, HOURLY, enabled=False),
    )
    await host.live(30)
    await host.apply(build_entry(1, HOURLY), build_entry(2, "30 * * * *"), build_entry(3, HOURLY))
    await host.live(30)

    # An edit starts the second anew, but what it had missed before is not lost for that.
    assert summary(host.fires) == [(2, 120, 1), (1, 120, 1)]


async def test_no_slot_is_fired_again_by_a_changed_entry(host: ScheduledHost) -> None:
    await host.apply(build_entry())
    await host.live(60)
    await host.send_all()

    host.clock.step(-30)
    await host.apply(build_entry(enabled=False))
    host.restart()
    await host.apply(build_entry(cron="*/1 * * * *"))
    await host.live(60)

    assert host.fires == []


async def test_slot_that_is_due_fires_before_another_set_is_followed(host: ScheduledHost) -> None:
    await host.apply(build_entry(1, "1 12 * * *"), build_entry(2))
    await host.live(59)
    host.clock.advance(1)

    await host.apply(build_entry(1, "2 12 * * *"))
    await host.live(60)

    assert sorted(summary(host.fires)) == [(1, 2, 1), (2, 1, 0)]


async def test_apply_waits_for_the_tick_in_flight(host: ScheduledHost) -> None:
    await host.apply(*(build_entry(number) for number in range(1, 51)))
    host.clock.advance(60)

    tick = asyncio.create_task(host.cron.tick())
    await asyncio.sleep(0)
    apply = asyncio.create_task(host.apply())
    await asyncio.sleep(0)
    fires_before_apply = len(host.fires)
    await asyncio.gather(tick, apply)

    assert fires_before_apply < 50
    assert len(host.fires) == 50
    assert isinstance(host.waiting[-1], ScheduleAck)


async def test_schedules_survive_a_restart_and_a_server_that_stays_away(
    host: ScheduledHost,
) -> None:
    await host.apply(build_entry(1, HOURLY), build_entry(2, "bad"), build_entry(3, enabled=False))
    host.weather = "down"

    host.restart()

    assert host.inbox.build_request(0.0).schedule_version == 1
    await host.live(3600, every=60)
    assert summary(host.fires) == [(1, 60, 0)]


# Firing ------------------------------------------------------------------------------------------


async def test_fire_names_its_slot_and_gets_its_job(host: ScheduledHost) -> None:
    await host.apply(build_entry(cron="5 12 * * *"))

    await host.live(299)
    assert host.fires == []
    await host.live(1)

    fire = host.fires[0]
    assert (fire.scheduled_at, fire.fired_at) == (START + 5 * MINUTE, START + 5 * MINUTE)
    await host.send_all()
    await host.live(3600, every=60)
    assert host.fires == []
    assert list(host.api.jobs_of_fires) == [(UUID(int=1), START + 5 * MINUTE)]


async def test_fired_job_comes_back_as_a_command_and_runs_once(host: ScheduledHost) -> None:
    await host.apply(build_entry())
    await host.live(60)
    await host.send_all()

    for _ in range(3):
        await host.poll()
        await host.send_all()
        host.work()

    assert host.begun == list(host.api.jobs_of_fires.values())
    assert len(host.received(JobStarted)) == 1


async def test_refused_fire_is_dropped_with_its_reason(
    host: ScheduledHost, caplog: pytest.LogCaptureFixture
) -> None:
    await host.apply(build_entry())
    await host.live(60)
    host.api.set_schedules()

    await host.send_all()

    assert host.fires == []
    refusal = next(one for one in caplog.records if one.message == "envelope.refused")
    assert vars(refusal)["fields"]["type"] == "schedule.fire"
    assert vars(refusal)["fields"]["schedule_id"] == UUID(int=1)


async def test_missed_window_fires_once_after_the_settle_time(host: ScheduledHost) -> None:
    await host.apply(build_entry(1, HOURLY))
    host.clock.advance(5 * 3600 + 600)
    host.restart()

    await host.live(9)
    early = host.fires
    await host.live(3)

    assert early == []
    assert summary(host.fires) == [(1, 300, 4)]
    await host.live(600)
    assert len(host.fires) == 1


async def test_slot_that_comes_within_the_settle_time_is_not_held_up(host: ScheduledHost) -> None:
    await host.apply(build_entry(1, "*/5 * * * *"), build_entry(2, "6 * * * *"))
    host.clock.advance(15 * 60 - 5)
    host.restart()

    await host.live(5)

    assert summary(host.fires) == [(1, 15, 2)]
    await host.live(10)
    assert summary(host.fires) == [(1, 15, 2), (2, 6, 0)]


async def test_settle_time_counts_from_the_end_of_a_suspend(host: ScheduledHost) -> None:
    await host.apply(build_entry(1, HOURLY))
    await host.live(60)
    host.clock.step(3600)

    await host.live(9)
    early = host.fires
    await host.live(3)

    assert early == []
    assert summary(host.fires) == [(1, 60, 0)]


async def test_catch_up_skip_and_a_window_that_is_over_fire_nothing(host: ScheduledHost) -> None:
    await host.apply(
        build_entry(1, HOURLY, catch_up="skip"),
        build_entry(2, HOURLY, catch_up_window=600.0),
        build_entry(3, HOURLY, catch_up_window=3600.0),
    )
    host.clock.advance(3600 + 1800)
    host.restart()

    await host.live(30)
    assert summary(host.fires) == [(3, 60, 0)]
    await host.live(1800, every=30)

    assert {fire.schedule_id.int for fire in host.fires} == {1, 2, 3}
    assert all(fire.scheduled_at == START + 120 * MINUTE for fire in host.fires)


async def test_clock_that_was_ahead_silences_nothing_even_over_a_restart(
    host: ScheduledHost,
) -> None:
    await host.apply(build_entry(1, HOURLY))
    host.clock.step(365 * 86400)
    await host.live(60)
    await host.send_all()
    host.clock.step(-365 * 86400)
    await host.cron.tick()
    host.clock.advance(2 * 3600)
    host.restart()

    await host.live(30)

    assert summary(host.fires) == [(1, 120, 1)]


@pytest.mark.parametrize("restarts", [0, 1, 2])
async def test_machine_that_forgets_the_time_fires_nothing_for_that(
    host: ScheduledHost, restarts: int
) -> None:
    """It boots in the year 2000, and its clock is set while the agent runs, or before it starts."""
    years_s = 26 * 365 * 86400
    await host.apply(build_entry(1, HOURLY))
    await host.live(2 * 3600, every=20)
    await host.send_all()
    before = summary(host.fires)
    host.clock.step(-years_s)
    if restarts:
        host.restart()
    await host.live(60)
    host.clock.step(years_s)
    if restarts > 1:
        host.restart()
    await host.live(600, every=20)

    assert summary(host.fires) == before


async def test_schedule_that_is_held_back_is_not_lost_when_the_clock_steps_back(
    host: ScheduledHost,
) -> None:
    await host.apply(build_entry(1, HOURLY))
    host.clock.step(365 * 86400 + 300)
    await host.cron.tick()
    host.clock.step(-365 * 86400 - 300)

    await host.live(3600, every=20)

    assert summary(host.fires) == [(1, 60, 0)]


# Fires that wait for the server ------------------------------------------------------------------


async def test_later_fire_stands_for_those_that_wait(host: ScheduledHost) -> None:
    await host.apply(build_entry(1), build_entry(2, HOURLY))
    await host.send_all()
    host.weather = "down"

    for _ in range(60):
        await host.live(60, every=60)
        await host.send()

    assert sorted(summary(host.fires)) == [(1, 60, 59), (2, 60, 0)]


async def test_fire_in_flight_is_left_alone_until_it_lands(host: ScheduledHost) -> None:
    await host.apply(build_entry())
    await host.send_all()
    await host.live(60)
    batch = await host.spool.next_batch()

    await host.live(60)

    assert summary(host.fires) == [(1, 1, 0), (1, 2, 0)]
    await host.fly(batch)
    assert summary(host.fires) == [(1, 2, 0)]
    assert len(host.api.jobs_of_fires) == 1


async def test_fire_that_comes_back_without_a_receipt_is_stood_for(host: ScheduledHost) -> None:
    await host.apply(build_entry())
    await host.send_all()
    await host.live(60)
    batch = await host.spool.next_batch()
    await host.live(60)
    host.weather = "down"

    await host.fly(batch)

    assert summary(host.fires) == [(1, 2, 1)]


# Crashes -----------------------------------------------------------------------------------------


async def test_crash_between_any_two_steps_loses_and_doubles_nothing(host: ScheduledHost) -> None:
    await host.apply(build_entry(), build_entry(2, "bad"))
    host.restart()
    assert isinstance(host.waiting[0], ScheduleAck)
    assert host.cron.applied_version == 1
    await host.send_all()
    host.restart()
    await host.live(60)
    host.restart()
    assert summary(host.fires) == [(1, 1, 0)]
    await host.live(30)
    assert summary(host.fires) == [(1, 1, 0)]
    host.weather = "mute"
    await host.send()
    host.restart()
    host.weather = "up"
    await host.send_all()
    host.restart()

    assert host.fires == []
    assert len(host.api.jobs_of_fires) == 1


async def test_set_and_its_ack_are_written_together_or_not_at_all(
    host: ScheduledHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.apply(build_entry())
    await host.send_all()
    with monkeypatch.context() as patch:
        patch.setattr("backhaul_agent.spool_table.put_ack", _die)
        with pytest.raises(KeyboardInterrupt):
            await host.apply()
    host.restart()

    assert host.cron.applied_version == 1
    await host.live(60)
    assert len(host.fires) == 1


async def test_fire_and_the_place_of_its_timer_are_written_together_or_not_at_all(
    host: ScheduledHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.apply(build_entry(1, HOURLY))
    host.clock.advance(3600)
    with monkeypatch.context() as patch:
        patch.setattr("backhaul_agent.spool_table.put_fire", _die)
        with pytest.raises(KeyboardInterrupt):
            await host.cron.tick()
    host.restart()

    await host.cron.tick()

    assert summary(host.fires) == [(1, 60, 0)]


# Cost --------------------------------------------------------------------------------------------


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often a cron expression is asked for a slot."""
    counts = [0]
    find = cron_module.Cron._find
    monkeypatch.setattr(cron_module.Cron, "_find", count_calls(find, counts))
    return counts


def build_thousand(**fields: Any) -> list[ScheduleEntry]:
    return [
        build_entry(number, f"{number % 60} {number % 24} * * *", **fields)
        for number in range(1, 1001)
    ]


async def test_thousand_schedules_cost_one_evaluation_each_to_apply_and_none_to_tick(
    host: ScheduledHost, evaluations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parses = [0]
    parse = count_calls(cron_module.parse_cron, parses)
    monkeypatch.setattr("backhaul_agent.timers.parse_cron", parse)
    await host.apply(*build_thousand())
    applied = (evaluations[0], parses[0])

    await host.apply(*build_thousand(max_duration=60.0))
    again = (evaluations[0], parses[0])
    await host.live(50)

    assert applied == again == (1000, 1000)
    assert evaluations[0] == 1000


async def test_fire_costs_a_handful_of_evaluations(
    host: ScheduledHost, evaluations: list[int]
) -> None:
    await host.apply(build_entry(), *build_thousand()[1:])
    evaluations[0] = 0

    await host.live(60)

    assert len(host.fires) == 1
    assert evaluations[0] <= 5


async def test_thousand_fires_at_once_let_others_have_their_turn(host: ScheduledHost) -> None:
    await host.apply(*(build_entry(number) for number in range(1, 301)))
    host.clock.advance(60)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count_turns())
    await host.cron.tick()
    other.cancel()

    assert turns >= 300
    assert len(host.fires) == 300


async def test_loop_ticks_every_second(host: ScheduledHost) -> None:
    await host.apply(build_entry())

    loop = asyncio.create_task(host.cron.run_forever())
    while not host.fires:
        await asyncio.sleep(0)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)

    assert set(host.clock.sleeps) == {TICK_S}
    assert host.fires[0].fired_at == START + MINUTE


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


async def test_new_schedule_with_jitter_still_fires_the_slot_it_is_behind_of(
    host: ScheduledHost,
) -> None:
    host.clock.advance(60)

    await host.apply(build_entry(1, HOURLY, jitter=3000.0))
    await host.live(3000)

    assert len(host.fires) == 1
