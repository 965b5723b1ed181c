"""A host with schedules through random lives: nothing fires twice, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backhaul.wire.schedules import ScheduleEntry, ScheduleFire, build_scheduled_job_id
from tests.unit.agent.scheduled_host import ScheduledHost, Weather, build_entry

pytestmark = pytest.mark.timeout(300)

MEMORY = Path("/dev/shm")
"""Where a write costs no turn of a disk, on systems that have it."""

NUMBERS = (1, 2, 3)
CRONS = st.sampled_from(["* * * * *", "*/7 * * * *", "0 * * * *", "30 12 * * *", "nonsense"])
ENTRIES = st.tuples(
    *(
        st.builds(
            build_entry,
            st.just(number),
            CRONS,
            enabled=st.sampled_from([True, True, False]),
            jitter=st.sampled_from([0.0, 0.0, 90.0]),
            catch_up=st.sampled_from(["once", "once", "skip"]),
            when_unreachable=st.sampled_from(["run", "wait"]),
        )
        for number in NUMBERS
    )
)
STEPS = st.one_of(
    st.tuples(st.just("live"), st.sampled_from([60, 600, 3600])),
    st.tuples(st.just("live"), st.sampled_from([60, 600, 3600])),
    st.tuples(st.just("sleep"), st.sampled_from([30, 1800, 86_400])),
    st.tuples(st.just("step"), st.sampled_from([-7200, -90, -1, 90, 7200])),
    st.tuples(st.just("weather"), st.sampled_from(get_args(Weather))),
    st.tuples(st.just("weather"), st.just("down")),
    st.tuples(st.just("send"), st.none()),
    st.tuples(st.just("poll"), st.none()),
    st.tuples(st.just("work"), st.none()),
    st.tuples(st.just("begin"), st.none()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("set"), ENTRIES),
)


_ENOUGH = 1000


class Life:
    """Does what a list of steps says, and looks after each whether all is well."""

    def __init__(self, host: ScheduledHost) -> None:
        self.host = host
        self.versions = [0]

    async def run(self, steps: list[tuple[str, object]]) -> None:
        for name, value in steps:
            await self._do(name, value)
            self._check()
        await self._calm_down()
        self._check()

    async def _do(self, name: str, value: object) -> None:  # noqa: C901 (a table of steps)
        host = self.host
        match name, value:
            case "live", int(seconds):
                for _ in range(5):
                    await host.live(seconds / 5, every=seconds / 5)
                    await host.send()
            case "sleep", int(seconds):
                host.clock.step(seconds)
            case "step", int(seconds):
                host.clock.step(seconds)
                await host.live(20, every=20)
            case "weather", ("up" | "down" | "mute") as weather:
                host.weather = weather
            case "send", _:
                await host.send()
            case "poll", _:
                await host.poll()
            case "work", _:
                host.work()
            case "begin", _:
                if not host.journal.left_running():
                    host.begin_job()
            case "restart", _:
                host.restart()
            case "set", tuple(entries):
                host.api.set_schedules(*entries)
                await host.poll()

    async def _calm_down(self) -> None:
        host = self.host
        host.weather = "up"
        host.restart()
        await host.poll()  # A set that comes now is another moment to fire.
        for _ in range(_ENOUGH):
            await host.send_all()
            await host.poll()
            await host.send_all()
            if host.work() is None:
                return

    def _check(self) -> None:
        slots = [(fire.schedule_id, fire.scheduled_at) for fire in self.host.fired]
        assert len(slots) == len(set(slots)), "a slot fired twice"
        waiting = Counter(fire.schedule_id for fire in self.host.fires if not fire.ran_offline)
        assert not waiting or max(waiting.values()) == 1, "a schedule has two fires that wait"
        assert len(self.host.begun) == len(set(self.host.begun)), "a job began twice"
        self.versions.append(self.host.cron.applied_version)
        assert self.versions == sorted(self.versions), "the applied version went back"


async def live(folder: Path, entries: tuple[ScheduleEntry, ...], steps: list[object]) -> None:
    host = ScheduledHost(folder)
    try:
        life = Life(host)
        await life.run([("set", entries), *steps])  # type: ignore[list-item]  # drawn from STEPS
        check_delivery(host)
    finally:
        host.close()


def check_delivery(host: ScheduledHost) -> None:
    """Every slot that fired has reached the server, by itself or by a later one."""
    assert host.spool.is_empty
    assert host.journal.held() == ()
    told = [*host.received(ScheduleFire), *host.api.refused_fires]
    for schedule_id in map(UUID, (f"{number:032x}" for number in NUMBERS)):
        fired = [fire for fire in host.fired if fire.schedule_id == schedule_id]
        arrived = {fire.scheduled_at: fire for fire in told if fire.schedule_id == schedule_id}
        assert set(arrived) <= {fire.scheduled_at for fire in fired}
        assert count_slots(arrived.values()) >= count_slots(fired)
        assert not fired or fired[-1].scheduled_at in arrived
    refused = {
        build_scheduled_job_id(fire.schedule_id, fire.scheduled_at)
        for fire in host.api.refused_fires
    }
    created = set(host.api.jobs_of_fires.values())
    assert created <= set(host.begun) <= created | refused


def count_slots(fires: Iterable[ScheduleFire]) -> int:
    return sum(1 + fire.missed for fire in fires)


@settings(max_examples=60, deadline=None)
@given(entries=ENTRIES, steps=st.lists(STEPS, max_size=25))
def test_no_slot_fires_twice_and_each_reaches_the_server(
    entries: tuple[ScheduleEntry, ...], steps: list[object]
) -> None:
    with TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        asyncio.run(live(Path(folder) / "state", entries, steps))
