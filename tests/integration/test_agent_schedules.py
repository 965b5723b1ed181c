"""The agent as a process with schedules: applied over a held poll, kept, caught up, run alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import nacl.public
import pytest

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import BackupArguments
from backhaul.wire.reports import JobFinished
from backhaul.wire.schedules import (
    RunTemplate,
    ScheduleAck,
    ScheduleEntry,
    ScheduleFire,
    build_scheduled_job_id,
)
from tests.fakes.fake_api import FakeApi, Reply
from tests.fakes.fake_restic import FakeRestic, install_fake_restic
from tests.unit.agent.hosts import PASSWORD, build_credentials

pytestmark = pytest.mark.timeout(90)

PROGRAM = "from backhaul_agent.cli import agent; agent(prog_name='backhaul agent')"
SCHEDULE = UUID(int=1)


class Machine:
    """A machine with an enrolled agent that is started and killed at will."""

    def __init__(self, folder: Path, api: FakeApi) -> None:
        self.api = api
        self.state_dir = folder / "state"
        self.fake: FakeRestic = install_fake_restic(folder / "bin")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "BACKHAUL_AGENT_RESTIC": self.fake.path,
            "BACKHAUL_AGENT_STATE_DIR": str(self.state_dir),
            "BACKHAUL_AGENT_SETTLE": "0.2",
            "BACKHAUL_AGENT_OFFLINE_AFTER": "0.5",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def enroll(self) -> None:
        process = await self._launch("enroll", "--server", self.api.url)
        _, stderr = await process.communicate(self.api.enrollment_token.encode())
        assert process.returncode == 0, stderr

    async def start(self) -> None:
        self._process = await self._launch("run")

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> str:
        return await self._end(signal.SIGTERM)

    async def _launch(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            *arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def _end(self, number: signal.Signals) -> str:
        process, self._process = self._process, None
        if process is None:
            return ""
        process.send_signal(number)
        _, stderr = await process.communicate()
        return stderr.decode()

    def sleep_for(self, passed: timedelta) -> None:
        """Put the places of all timers back, as if that time had passed with the agent stopped."""
        with closing(sqlite3.connect(self.state_dir / "journal.sqlite3")) as connection:
            connection.execute(
                "UPDATE schedules SET settled_until = settled_until - ?",
                (passed // timedelta(microseconds=1),),
            )
            connection.commit()


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as server:
        server.hold_s = 20.0
        yield server


@pytest.fixture
async def machine(tmp_path: Path, api: FakeApi) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path, api)
    await machine.enroll()
    yield machine
    await machine.kill()


def build_entry(api: FakeApi, cron: str, **changes: object) -> ScheduleEntry:
    credentials = build_credentials()
    box = nacl.public.SealedBox(nacl.public.PublicKey(api.public_key))
    entry = ScheduleEntry(
        schedule_id=SCHEDULE,
        kind="backup",
        cron=cron,
        timezone="UTC",
        template=RunTemplate(
            arguments=BackupArguments(paths=("/data",)),
            repository_id=credentials.repository_id,
            credentials=box.encrypt(msgspec.json.encode(credentials)),
        ),
    )
    return msgspec.structs.replace(entry, **changes)


def far_from_now() -> str:
    """Give a daily cron expression whose next slot is twelve hours away."""
    slot = datetime.now(UTC) + timedelta(hours=12)
    return f"{slot.minute} {slot.hour} * * *"


async def test_each_change_is_applied_and_acked_within_a_second(
    machine: Machine, api: FakeApi
) -> None:
    cron = far_from_now()
    await machine.start()
    await api.wait_for_polls(1)
    entry = build_entry(api, cron)
    sets = [
        (entry,),
        (msgspec.structs.replace(entry, enabled=False),),
        (entry, msgspec.structs.replace(entry, schedule_id=UUID(int=2), cron="no cron")),
        (),
    ]

    delays = []
    for entries in sets:
        version = api.set_schedules(*entries)
        started = time.monotonic()
        await wait_for_ack(api, version)
        delays.append(time.monotonic() - started)
        await wait_for_poll(api, version)

    assert max(delays) < 1.0
    acks = api.of(ScheduleAck)
    assert [(ack.schedule_version, len(ack.errors)) for ack in acks] == [
        (1, 0),
        (2, 0),
        (3, 1),
        (4, 0),
    ]
    assert api.polls[-1].schedule_version == 4


async def test_killed_agent_catches_up_with_one_fire_and_one_job(
    machine: Machine, api: FakeApi
) -> None:
    machine.fake.on("backup", case="wrong-password-backup")
    await machine.start()
    version = api.set_schedules(build_entry(api, far_from_now()))
    await wait_for_ack(api, version)
    await machine.kill()
    machine.sleep_for(timedelta(days=3))

    await machine.start()
    await api.wait_for(JobFinished)
    log = await machine.stop()

    (fire,) = api.of(ScheduleFire)
    assert fire.missed == 2
    assert [one.job_id for one in api.of(JobFinished)] == [
        build_scheduled_job_id(SCHEDULE, fire.scheduled_at)
    ]
    assert api.polls[-1].schedule_version == version
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events.count("schedule.fired") == events.count("schedule.delivered") == 1


async def test_backup_runs_before_the_server_is_back_and_is_one_job_afterwards(
    machine: Machine, api: FakeApi
) -> None:
    machine.fake.on("backup", case="backup-first")
    machine.fake.on("snapshots", case="snapshots-tz-offset")
    await machine.start()
    entry = build_entry(api, far_from_now(), when_unreachable="run")
    await wait_for_ack(api, api.set_schedules(entry))
    await machine.kill()
    machine.sleep_for(timedelta(days=1))
    api.answers["poll"].extend([Reply(status=None)] * 1000)
    api.answers["envelopes"].extend([Reply(status=None)] * 1000)

    await machine.start()
    await wait_for_note(machine.fake, '"snapshots"')
    received_before = list(api.of(ScheduleFire))
    stored = b"".join(file.read_bytes() for file in machine.state_dir.glob("journal*"))
    for waiting in api.answers.values():
        waiting.clear()
    finished = await api.wait_for(JobFinished)
    await machine.stop()

    assert received_before == []
    (fire,) = api.of(ScheduleFire)
    assert fire.ran_offline
    assert fire.arguments == BackupArguments(paths=("/data",))
    assert finished.outcome is Outcome.SUCCEEDED
    assert finished.job_id == build_scheduled_job_id(SCHEDULE, fire.scheduled_at)
    backups = [call for call in machine.fake.calls if call["argv"][1] == "backup"]
    assert len(backups) == 1
    assert PASSWORD.encode() not in stored


async def wait_for_ack(api: FakeApi, version: int) -> None:
    async with asyncio.timeout(20), api.changed:
        await api.changed.wait_for(
            lambda: any(ack.schedule_version == version for ack in api.of(ScheduleAck))
        )


async def wait_for_poll(api: FakeApi, version: int) -> None:
    async with asyncio.timeout(20), api.changed:
        await api.changed.wait_for(lambda: api.polls[-1].schedule_version == version)


async def wait_for_note(fake: FakeRestic, text: str) -> None:
    file = fake.folder / "calls.jsonl"
    async with asyncio.timeout(60):
        # Another process writes it, so there is no event to wait for.
        while not (file.exists() and text in file.read_text()):
            await asyncio.sleep(0.02)
