"""Schedules on real processes: followed at once, caught up after a crash, kept without the server.

Three stories of minutes each, told at the same time; every test reads one of them. `pytest -rP`
prints what was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from backhaul.wire.jobs import ActorKind, Job, JobState
from backhaul.wire.kinds import BackupArguments, BackupResult
from backhaul.wire.schedules import UpdateSchedule
from tests.system.scheduled_fleet import (
    MINUTE,
    Patience,
    ScheduledFleet,
    all_covered,
    covered,
    minutes,
    next_minute,
    slot_of,
)

# The first test waits for its whole story, and for processes that a busy machine starts slowly.
pytestmark = pytest.mark.timeout(480)

APPLY_LIMIT_S = 1.0
"""For most changes; one may come while the machine is busy with other tests."""
APPLY_PATIENCE_S = 8.0
"""For each: far less than the hold of a poll, so the held one brought it."""
OUTAGE_S = 180.0
"""How long an agent stays dead."""
SILENCE = timedelta(seconds=10)
"""After a slot: a schedule that did not fire by then does not fire."""
ROOM_S = 12.0
"""Before a slot: enough to prepare what is to happen at it."""


class Story(NamedTuple):
    """What is needed of a story once it was told."""

    jobs: dict[str, list[Job]]
    """By schedule."""
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def stories(
    restic: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Story]]]:
    """Tell all stories at once, on two control planes: one of them is killed."""
    folder = tmp_path_factory.mktemp("schedules")
    patience = Patience()
    steady = ScheduledFleet(folder / "steady", patience, settle="2")
    shaken = ScheduledFleet(folder / "shaken", patience, settle="2", offline_after="3")
    told: Mapping[str, tuple[Callable[[ScheduledFleet], Story], ScheduledFleet]] = {
        "changes": (tell_of_changes, steady),
        "crash": (tell_of_a_crash, steady),
        "outage": (tell_of_an_outage, shaken),
    }
    with ThreadPoolExecutor(len(told)) as pool:
        try:
            starts = [
                pool.submit(steady.start, "edited", "switched", "killed"),
                pool.submit(shaken.start, "waiting", "running"),
            ]
            for start in starts:
                start.result()
            yield {name: pool.submit(tell, fleet) for name, (tell, fleet) in told.items()}
        finally:
            patience.give_up()
            pool.shutdown()
            steady.stop()
            shaken.stop()


# Changes while the agent runs --------------------------------------------------------------------


def tell_of_changes(fleet: ScheduledFleet) -> Story:
    """Two hosts: on one a schedule is edited and deleted, on the other disabled and enabled."""
    client, patience = fleet.client, fleet.patience
    other = fleet.add_source("other")
    first = patience.leave_room(ROOM_S)
    took = {}
    took["create"] = fleet.measure_apply("edited", lambda: fleet.schedule("edited"))
    fleet.measure_apply("switched", lambda: fleet.schedule("switched"))
    (edited,) = client.list_schedules(host="edited")
    (switched,) = client.list_schedules(host="switched")

    def change(name: str, host: str, make: Callable[[], object]) -> None:
        took[name] = fleet.measure_apply(host, make)

    fleet.wait_for_end(edited.id, first)
    fleet.wait_for_end(switched.id, first)
    second = patience.leave_room(ROOM_S)
    to_other = UpdateSchedule(source="other")
    off, on = UpdateSchedule(enabled=False), UpdateSchedule(enabled=True)
    change("edit", "edited", lambda: client.update_schedule(edited.id, to_other))
    change("disable", "switched", lambda: client.update_schedule(switched.id, off))

    fleet.wait_for_end(edited.id, second)
    patience.pass_until(second + SILENCE)
    third = patience.leave_room(ROOM_S)
    change("enable", "switched", lambda: client.update_schedule(switched.id, on))
    change("delete", "edited", lambda: client.delete_schedule(edited.id))

    fleet.wait_for_end(switched.id, third)
    patience.pass_until(third + SILENCE)
    client.update_schedule(switched.id, off)
    jobs = {
        "edited": fleet.jobs_of(edited.id),
        "switched": fleet.jobs_of(switched.id),
    }
    slots = {"first": first, "second": second, "third": third}
    return Story(jobs, slots | {"took": took, "other": str(other)})


def test_each_change_is_applied_and_acked_within_a_second(
    stories: Mapping[str, Future[Story]],
) -> None:
    took: dict[str, float] = stories["changes"].result().facts["took"]

    for name, seconds in took.items():
        print(f"{name}: applied and acked after {seconds * 1000:.0f} ms")  # noqa: T201 (to be read)

    assert set(took) == {"create", "edit", "disable", "enable", "delete"}
    assert statistics.median(took.values()) < APPLY_LIMIT_S, took
    assert max(took.values()) < APPLY_PATIENCE_S, took


def test_each_slot_becomes_one_job_of_its_schedule(stories: Mapping[str, Future[Story]]) -> None:
    jobs, facts = stories["changes"].result()

    slots = [slot_of(job) for job in jobs["edited"]]
    assert slots == minutes(facts["first"], slots[-1])
    for job in [*jobs["edited"], *jobs["switched"]]:
        assert (job.actor_kind, job.actor_id) == (ActorKind.SCHEDULE, job.schedule_id)
        assert (job.state, job.missed, job.ran_offline) == (JobState.SUCCEEDED, 0, False)


def test_an_edited_schedule_fires_as_it_is_now_and_a_deleted_one_not_at_all(
    stories: Mapping[str, Future[Story]],
) -> None:
    jobs, facts = stories["changes"].result()

    by_slot = {slot_of(job): job.arguments for job in jobs["edited"]}
    arguments = by_slot[facts["second"]]
    assert isinstance(arguments, BackupArguments)
    assert arguments.paths == (facts["other"],)
    assert by_slot[facts["first"]] != arguments
    assert facts["third"] not in by_slot


def test_a_disabled_schedule_is_silent_until_it_is_enabled(
    stories: Mapping[str, Future[Story]],
) -> None:
    jobs, facts = stories["changes"].result()

    slots = [slot_of(job) for job in jobs["switched"]]
    assert facts["first"] in slots
    assert facts["second"] not in slots
    assert facts["third"] in slots
    assert len(set(slots)) == len(slots)


# An agent that was killed ------------------------------------------------------------------------


def tell_of_a_crash(fleet: ScheduledFleet) -> Story:
    """An agent gets a schedule, is killed, and comes back minutes later."""
    patience = fleet.patience
    first = patience.leave_room(ROOM_S)
    fleet.measure_apply("killed", lambda: fleet.schedule("killed"))
    (schedule,) = fleet.client.list_schedules(host="killed")
    fleet.kill_agent_of("killed")
    patience.pass_time(OUTAGE_S)
    fleet.start_agent_of("killed")
    back_at = datetime.now(UTC)

    caught_up = fleet.wait_for_end(schedule.id, first)
    after = max(next_minute(back_at), slot_of(caught_up) + MINUTE)
    fleet.wait_for_end(schedule.id, after)
    fleet.client.update_schedule(schedule.id, UpdateSchedule(enabled=False))
    jobs = {"killed": fleet.jobs_of(schedule.id)}
    return Story(jobs, {"first": first, "after": after})


def test_minutes_that_a_killed_agent_missed_are_caught_up_by_one_fire(
    stories: Mapping[str, Future[Story]],
) -> None:
    jobs, facts = stories["crash"].result()

    caught_up, *normal = jobs["killed"]
    print(f"one fire stands for {caught_up.missed + 1} slots")  # noqa: T201 (to be read)
    assert caught_up.missed >= OUTAGE_S // 60 - 1
    assert covered(caught_up)[0] == facts["first"]
    assert normal
    assert {job.missed for job in normal} == {0}
    slots = all_covered(jobs["killed"])
    assert slots == minutes(facts["first"], slots[-1])
    assert slots[-1] >= facts["after"]
    assert {job.state for job in jobs["killed"]} == {JobState.SUCCEEDED}


# A server that was killed ------------------------------------------------------------------------


def tell_of_an_outage(fleet: ScheduledFleet) -> Story:
    """The server dies before a slot and is back after it. One host waits, one runs alone."""
    patience = fleet.patience
    slot = patience.leave_room(ROOM_S)
    fleet.measure_apply("waiting", lambda: fleet.schedule("waiting"))
    fleet.measure_apply("running", lambda: fleet.schedule("running", "run"))
    found = {name: next(fleet.client.list_schedules(host=name)) for name in ("waiting", "running")}
    # Late, since the agents ask a server that is away less and less often.
    patience.pass_until(slot - timedelta(seconds=4))
    fleet.kill_api()

    snapshots = patience.wait_for(
        lambda: fleet.snapshots_of("running") or None,
        limit_s=90,
        what="a snapshot that was made without the server",
    )
    waited = fleet.snapshots_of("waiting")
    fleet.restart_api()

    ended = {name: fleet.wait_for_end(one.id, slot) for name, one in found.items()}
    log = [line.text for line in fleet.client.get_job_log(ended["running"].id)]
    later = next_minute(datetime.now(UTC))
    fleet.wait_for_end(found["waiting"].id, later)
    fleet.wait_for_end(found["running"].id, later)
    for one in found.values():
        fleet.client.update_schedule(one.id, UpdateSchedule(enabled=False))
    jobs = {name: fleet.jobs_of(one.id) for name, one in found.items()}
    files = fleet.look_for_leaks()
    facts = {"slot": slot, "later": later, "snapshots": snapshots, "waited": waited}
    return Story(jobs, facts | {"log": log, "files": files})


def test_a_slot_without_the_server_becomes_one_job_once_it_is_back(
    stories: Mapping[str, Future[Story]],
) -> None:
    jobs, facts = stories["outage"].result()

    assert facts["waited"] == []
    slots = all_covered(jobs["waiting"])
    assert slots == minutes(facts["slot"], slots[-1])
    assert slots[-1] >= facts["later"]
    for job in jobs["waiting"]:
        assert (job.state, job.ran_offline) == (JobState.SUCCEEDED, False)


def test_a_backup_that_ran_without_the_server_is_one_job_with_its_log(
    stories: Mapping[str, Future[Story]],
) -> None:
    jobs, facts = stories["outage"].result()

    (alone,) = [job for job in jobs["running"] if facts["slot"] in covered(job)]
    assert (alone.state, alone.ran_offline) == (JobState.SUCCEEDED, True)
    assert slot_of(alone) == facts["slot"]
    assert isinstance(alone.result, BackupResult)
    assert alone.result.snapshot_id is not None
    assert any(one.startswith(alone.result.snapshot_id) for one in facts["snapshots"])
    assert any(line.startswith("$ restic backup") for line in facts["log"])
    slots = all_covered(jobs["running"])
    assert slots == minutes(facts["slot"], slots[-1])
    assert slots[-1] >= facts["later"]
    assert {job.state for job in jobs["running"]} == {JobState.SUCCEEDED}


def test_nothing_secret_stands_in_the_state_of_hosts_with_schedules(
    stories: Mapping[str, Future[Story]],
) -> None:
    assert stories["outage"].result().facts["files"] > 3
