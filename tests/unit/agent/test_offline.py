"""Backups while the server is away: by template, at most once, and told afterwards in order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from backhaul.wire.kinds import BackupArguments, PruneArguments
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import RunTemplate, ScheduleFire, build_scheduled_job_id
from tests.fakes.fake_api import build_run
from tests.unit.agent.hosts import START
from tests.unit.agent.scheduled_host import TEMPLATE, ScheduledHost, build_entry

SLOT = START + timedelta(hours=1)
JOB = build_scheduled_job_id(UUID(int=1), SLOT)
ENTRY = build_entry(cron="0 * * * *", when_unreachable="run", max_duration=3600.0)


@pytest.fixture
def host(state_dir: Path) -> Iterator[ScheduledHost]:
    host = ScheduledHost(state_dir)
    yield host
    host.close()


async def fire_without_server(host: ScheduledHost, *entries: object) -> None:
    """Let a slot come while nothing gets through."""
    await host.apply(*(entries or (ENTRY,)))  # type: ignore[arg-type]  # entries are entries
    await host.send_all()
    host.weather = "down"
    await host.live(3600, every=60)
    await host.send()


async def test_backup_runs_by_its_template_when_the_server_stays_away(
    host: ScheduledHost,
) -> None:
    await fire_without_server(host)

    await host.live(29)
    early = host.journal.next_claimed()
    await host.live(1)

    assert early is None
    job = host.journal.next_claimed()
    assert job is not None
    assert job.id == JOB
    assert (job.command.kind, job.command.attempt) == ("backup", 1)
    assert msgspec.json.decode(job.command.arguments, type=BackupArguments) == TEMPLATE.arguments
    assert job.command.repository_id == TEMPLATE.repository_id
    assert job.command.credentials == b"sealed"
    assert job.command.max_duration == 3600.0
    assert host.spool.job_claimed.is_set()


async def test_server_is_told_of_fire_and_job_afterwards_in_order(host: ScheduledHost) -> None:
    await fire_without_server(host)
    await host.live(30)
    host.work()
    host.weather = "up"

    await host.send_all()
    await host.poll()

    fire, started, finished = host.api.received[-3:]
    assert isinstance(fire, ScheduleFire)
    assert (fire.scheduled_at, fire.ran_offline, fire.arguments, fire.repository_id) == (
        SLOT,
        True,
        TEMPLATE.arguments,
        TEMPLATE.repository_id,
    )
    assert (type(started), started.job_id) == (JobStarted, JOB)
    assert (type(finished), finished.job_id) == (JobFinished, JOB)
    assert host.journal.held() == ()
    assert host.begun == [JOB]


@pytest.mark.parametrize(
    "changes",
    [
        {"when_unreachable": "wait"},
        {"template": None},
        {
            "kind": "prune",
            "template": RunTemplate(arguments=PruneArguments(), repository_id=UUID(int=9)),
        },
        {"template": RunTemplate(arguments=BackupArguments(paths=("/root",)))},
    ],
    ids=["wait", "no template", "no backup", "against the policy"],
)
async def test_what_must_not_run_alone_waits_for_the_server(
    host: ScheduledHost, changes: dict[str, object]
) -> None:
    await fire_without_server(host, msgspec.structs.replace(ENTRY, **changes))

    await host.live(600)

    assert host.journal.held() == ()
    assert [fire.ran_offline for fire in host.fires] == [False]


async def test_nothing_runs_alone_while_the_server_answers(host: ScheduledHost) -> None:
    await host.apply(ENTRY)
    await host.live(3600, every=60)

    await host.live(600)  # The fire waits in the spool, and no attempt to send it has failed.

    assert host.journal.held() == ()


async def test_short_blip_runs_nothing(host: ScheduledHost) -> None:
    await fire_without_server(host)
    await host.live(20)
    host.weather = "up"
    await host.send_all()
    host.weather = "down"

    await host.live(600)

    assert host.journal.held() == ()
    assert list(host.api.jobs_of_fires.values()) == [JOB]


async def test_fire_in_flight_is_not_begun(host: ScheduledHost) -> None:
    await fire_without_server(host)
    batch = await host.spool.next_batch()

    await host.live(60)
    in_flight = host.journal.held()
    host.weather = "up"
    await host.fly(batch)
    await host.live(60)

    assert in_flight == host.journal.held() == ()
    assert host.fires == []


async def test_later_fire_waits_while_the_job_of_an_earlier_one_is_at_work(
    host: ScheduledHost,
) -> None:
    await fire_without_server(host)
    await host.live(30)
    begun = host.begin_job()
    assert begun == JOB

    await host.live(2 * 3600, every=60)
    at_work = [job.job_id for job in host.journal.held()]
    fires = host.fires
    host.end_job(JOB)
    await host.live(1)

    assert at_work == [JOB]
    assert [(fire.ran_offline, fire.missed) for fire in fires] == [(True, 0), (False, 1)]
    assert [fire.ran_offline for fire in host.fires] == [True, True]
    second = host.journal.next_claimed()
    assert second is not None
    assert second.id == build_scheduled_job_id(UUID(int=1), START + timedelta(hours=3))


async def test_frequent_fires_do_not_put_the_run_off(state_dir: Path) -> None:
    host = ScheduledHost(state_dir, offline_after=150.0)
    await host.apply(build_entry(when_unreachable="run"))
    await host.send_all()
    host.weather = "down"

    for _ in range(4):
        await host.live(60, every=10)
        await host.send()

    job = host.journal.next_claimed()
    assert job is not None
    assert job.id == build_scheduled_job_id(UUID(int=1), START + timedelta(minutes=3))
    host.close()


async def test_restart_does_not_forget_what_waits(host: ScheduledHost) -> None:
    await fire_without_server(host)
    host.restart()

    await host.live(40)
    before_an_attempt = host.journal.held()
    await host.send()
    await host.live(1)

    assert before_an_attempt == ()
    assert [job.job_id for job in host.journal.held()] == [JOB]


# At most once ------------------------------------------------------------------------------------


async def test_job_that_the_server_had_created_is_not_run_again(host: ScheduledHost) -> None:
    await fire_without_server(host)
    host.weather = "mute"
    await host.send()  # The server creates the job, and its receipt gets lost.
    await host.live(30)
    host.restart()
    host.weather = "up"
    await host.poll()
    host.begin_job()
    host.restart()
    await host.poll()
    await host.send_all()
    await host.poll()
    await host.send_all()

    assert host.work() is None
    assert host.begun == [JOB]
    assert host.journal.held() == ()


async def test_job_that_came_as_a_command_is_not_begun_alone(host: ScheduledHost) -> None:
    await fire_without_server(host)
    host.weather = "mute"
    await host.send()
    host.weather = "up"
    await host.poll()  # Polls get through again, posts not yet.
    host.weather = "down"
    await host.send()

    await host.live(60)
    host.restart()
    await host.send()
    await host.live(60)

    assert host.work() is None
    host.weather = "up"
    await host.send_all()
    assert host.work() == JOB
    await host.send_all()
    await host.poll()
    assert host.begun == [JOB]


async def test_command_that_comes_long_after_the_job_is_ignored(host: ScheduledHost) -> None:
    await fire_without_server(host)
    await host.live(30)
    host.work()
    host.weather = "up"
    await host.send_all()
    host.api.ran_offline.clear()
    entry = host.api.schedules.schedules[0]
    assert entry.template is not None
    host.api.tell(build_run(JOB, entry))
    host.restart()

    await host.poll()
    await host.send_all()

    assert host.work() is None
    assert host.begun == [JOB]


async def test_fire_and_job_are_written_together_or_not_at_all(
    host: ScheduledHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fire_without_server(host)
    with monkeypatch.context() as patch:
        patch.setattr("backhaul_agent.spool_table.keep_fire", _die)
        with pytest.raises(KeyboardInterrupt):
            await host.live(30)
    host.restart()

    assert host.journal.held() == ()
    assert [fire.ran_offline for fire in host.fires] == [False]
    await host.send()
    await host.live(30)
    assert host.work() == JOB
    host.restart()
    assert [fire.ran_offline for fire in host.fires] == [True]
    assert host.work() is None


async def test_fire_that_the_server_refuses_afterwards_leaves_nothing_behind(
    host: ScheduledHost,
) -> None:
    await fire_without_server(host)
    await host.live(30)
    host.work()
    host.api.set_schedules()
    host.weather = "up"

    await host.send_all()

    assert host.journal.held() == ()
    assert host.spool.is_empty


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


async def test_job_begun_without_the_server_goes_on_after_a_restart(host: ScheduledHost) -> None:
    await fire_without_server(host)
    await host.live(30)

    assert host.journal.claim_again() == 0
    job = host.journal.next_claimed()
    assert job is not None
    assert job.id == JOB
