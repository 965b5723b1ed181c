"""The agent with the real restic: a tree goes into a repository and comes back the same."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import nacl.public
import pytest

from backhaul.wire.agents import EnrollRequest, Hello
from backhaul.wire.commands import Credentials
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import (
    Arguments,
    BackupArguments,
    BackupResult,
    CheckArguments,
    CheckResult,
    ForgetArguments,
    ForgetResult,
    InitArguments,
    InitResult,
    PruneArguments,
    PruneResult,
    RestoreArguments,
    RestoreResult,
    Retention,
    SnapshotsArguments,
    SnapshotsResult,
    UnlockArguments,
    UnlockResult,
)
from backhaul.wire.reports import JobFinished
from backhaul.wire.snapshots import SnapshotsReport
from backhaul_agent.backoff import Backoff
from backhaul_agent.clock import SystemClock
from backhaul_agent.hold import Hold
from backhaul_agent.identity import Identity
from backhaul_agent.inbox import Inbox
from backhaul_agent.job import Workshop
from backhaul_agent.job_loop import JobLoop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import JournalFile, open_journal_file
from backhaul_agent.link import Link, build_client
from backhaul_agent.policy import Policy
from backhaul_agent.poll_loop import poll_forever
from backhaul_agent.query_loop import QueryLoop
from backhaul_agent.run import build_cron
from backhaul_agent.settings import Settings
from backhaul_agent.spool import Spool
from backhaul_agent.spool_loop import send_forever
from tests.fakes.fake_api import FakeApi
from tests.unit.agent.hosts import FACTS, PASSWORD, build_credentials, build_identity

pytestmark = pytest.mark.timeout(120)


class RunningHost:
    """An agent's loops in this process, and the API that they talk to."""

    def __init__(self, api: FakeApi, credentials: Credentials) -> None:
        self.api = api
        self.credentials = credentials

    async def run(self, arguments: Arguments) -> JobFinished:
        command = self.api.order(arguments, self.credentials)
        finished = await self.api.wait_for(JobFinished, command.job_id)
        assert isinstance(finished, JobFinished)
        return finished


@pytest.fixture
async def host(tmp_path: Path, restic: str) -> AsyncIterator[RunningHost]:
    settings = Settings(state_dir=tmp_path / "state", restic=restic)
    async with FakeApi() as api:
        identity = await enroll(api)
        file = open_journal_file(settings.state_dir)
        link = Link(build_client(settings, server_url=api.url, ca_file=None), identity)
        tasks = start_loops(link, identity, settings, file)
        yield RunningHost(api, build_credentials(location=str(tmp_path / "repo")))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await link.close()
        file.close()


async def enroll(api: FakeApi) -> Identity:
    identity = build_identity(
        server_url=api.url, signing_key=api.signing_key, agent_token=api.agent_token
    )
    key = nacl.public.PrivateKey(identity.private_key)
    request = EnrollRequest(
        enrollment_token=api.enrollment_token, public_key=bytes(key.public_key), facts=FACTS
    )
    async with httpx.AsyncClient() as client:
        await client.post(f"{api.url}/v1/agents/enroll", content=msgspec.json.encode(request))
    return msgspec.structs.replace(identity, host_id=api.host_id)


def start_loops(
    link: Link, identity: Identity, settings: Settings, file: JournalFile
) -> list[asyncio.Task[None]]:
    clock = SystemClock()
    spool, journal = Spool(file, now=clock.now), Journal(file)
    workshop = Workshop(
        settings=settings,
        identity=identity,
        policy=Policy(settings.policy, own_folders=settings.own_folders),
        journal=journal,
        spool=spool,
        clock=clock,
        inherited={"PATH": os.environ["PATH"], "HOME": str(settings.state_dir)},
    )
    jobs = JobLoop(workshop)
    cron = build_cron(workshop, file)
    cron.load()
    queries = QueryLoop(workshop, link)
    inbox = Inbox(
        introduction=Hello(boot_id=identity.host_id, facts=FACTS),
        journal=journal,
        spool=spool,
        policy=workshop.policy,
        canceller=jobs,
        cron=cron,
        answerer=queries,
        now=clock.now,
    )
    inbox.say_hello()
    hold = Hold(5.0, now_s=clock.monotonic())
    return [
        asyncio.create_task(poll_forever(link, inbox, hold, backoff=Backoff(), clock=clock)),
        asyncio.create_task(send_forever(link, spool, backoff=Backoff(), clock=clock)),
        asyncio.create_task(jobs.run_until_stopped()),
        asyncio.create_task(queries.run_forever()),
    ]


def make_tree(folder: Path) -> dict[str, bytes]:
    """Make a small tree with awkward names."""
    files = {
        "plain": b"text\n",
        "empty": b"",
        "sub/deeper/binary": bytes(range(256)) * 300,
        "with space and ünïcode": b"x",
        "-dash": b"y",
        "new\nline": b"z",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "link").symlink_to("plain")
    (folder / "folder link").symlink_to("sub")
    return files


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.is_symlink()
    }


def leave_lock(credentials: Credentials) -> list[Path]:
    """Kill a restic in the midst of a backup. Gives the locks that are left."""
    locks = Path(credentials.location) / "locks"
    environment = {
        "PATH": os.environ["PATH"],
        "RESTIC_REPOSITORY": credentials.location,
        "RESTIC_PASSWORD": credentials.password,
    }
    command = ["restic", "backup", "--no-cache", "--quiet", "/usr"]
    process = subprocess.Popen(command, env=environment)
    while not list(locks.iterdir()) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    return list(locks.iterdir())


def read_state(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_tree_goes_in_and_comes_back_the_same(host: RunningHost, tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "restored"
    files = make_tree(tree)

    created = await host.run(InitArguments())
    backed_up = await host.run(BackupArguments(paths=(str(tree),), tags=("nightly",)))
    listed = await host.run(SnapshotsArguments())
    restored = await host.run(RestoreArguments(snapshot="latest", target=str(target), verify=True))

    outcomes = [one.outcome for one in (created, backed_up, listed, restored)]
    assert outcomes == [Outcome.SUCCEEDED] * 4
    assert isinstance(created.result, InitResult)
    assert isinstance(backed_up.result, BackupResult)
    assert backed_up.result.files_new == len(files)
    assert listed.result == SnapshotsResult(snapshots_count=1)
    report = host.api.of(SnapshotsReport)[0]
    snapshot = report.snapshots[0]
    assert snapshot.id.startswith(backed_up.result.snapshot_id or "?")
    assert (snapshot.hostname, snapshot.paths, snapshot.tags) == (
        "web-1",
        (str(tree),),
        ("nightly",),
    )
    assert isinstance(restored.result, RestoreResult)
    assert restored.result.snapshot_id == snapshot.id
    assert restored.result.files_restored == len(files) + 2
    assert restored.result.bytes_restored == sum(map(len, files.values()))
    assert read_tree(target / tree.relative_to("/")) == files
    assert PASSWORD.encode() not in read_state(tmp_path / "state")


async def test_upkeep_removes_what_no_rule_keeps_and_leaves_a_sound_repository(
    host: RunningHost, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    await host.run(InitArguments())
    for number in range(3):
        (tree / "plain").write_text(f"text {number}\n")
        await host.run(BackupArguments(paths=(str(tree),), tags=("nightly",)))
    await host.run(BackupArguments(paths=(str(tree),), tags=("other",)))

    forgotten = await host.run(ForgetArguments(tag="nightly", keep=Retention(keep_last=1)))
    again = await host.run(ForgetArguments(tag="nightly", keep=Retention(keep_last=1)))
    pruned = await host.run(PruneArguments())
    checked = await host.run(CheckArguments(read_data_subset="1/1"))

    assert isinstance(forgotten.result, ForgetResult)
    assert (forgotten.result.kept, forgotten.result.removed) == (1, 2)
    assert again.result == ForgetResult(kept=1, removed=0)
    assert pruned.result == PruneResult()
    assert checked.result == CheckResult(read_data_subset="1/1")
    left = [report for report in host.api.of(SnapshotsReport) if report.is_complete]
    assert [len(report.snapshots) for report in left] == [2]


async def test_lock_of_a_process_that_died_is_removed(host: RunningHost, tmp_path: Path) -> None:
    await host.run(InitArguments())
    # As restic leaves it when it is killed: of this host, of a process that is gone.
    left = await asyncio.to_thread(leave_lock, host.credentials)
    refused = await host.run(PruneArguments())

    unlocked = await host.run(UnlockArguments())
    pruned = await host.run(PruneArguments())

    assert len(left) == 1
    assert refused.failure_class is FailureClass.LOCKED
    assert "The lock is stale: process" in (refused.message or "")
    assert unlocked.result == UnlockResult(locks_left=0)
    assert pruned.outcome is Outcome.SUCCEEDED


async def test_damage_in_a_pack_is_found_by_reading_it(host: RunningHost, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    await host.run(InitArguments())
    await host.run(BackupArguments(paths=(str(tmp_path / "tree"),)))
    for pack in (tmp_path / "repo" / "data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            content = bytearray(pack.read_bytes())
            content[len(content) // 3] ^= 0xFF
            pack.write_bytes(content)

    checked = await host.run(CheckArguments(read_data_subset="1/1"))

    assert checked.outcome is Outcome.FAILED
    assert checked.failure_class is FailureClass.DAMAGED
    assert checked.result is None


async def test_failures_of_the_real_restic_have_their_class(
    host: RunningHost, tmp_path: Path
) -> None:
    backup = BackupArguments(paths=(str(tmp_path),))

    missing = await host.run(backup)
    await host.run(InitArguments())
    twice = await host.run(InitArguments())
    nowhere = await host.run(BackupArguments(paths=(str(tmp_path / "nowhere"),)))
    host.credentials = msgspec.structs.replace(host.credentials, password="another one")
    wrong = await host.run(backup)

    assert [one.failure_class for one in (missing, twice, nowhere, wrong)] == [
        FailureClass.REPOSITORY_MISSING,
        FailureClass.REPOSITORY_EXISTS,
        FailureClass.SOURCE_MISSING,
        FailureClass.WRONG_PASSWORD,
    ]
    assert all(one.message for one in (missing, twice, nowhere, wrong))
