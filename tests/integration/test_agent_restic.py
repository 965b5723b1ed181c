"""The agent with the real restic: a tree goes into a repository and comes back the same."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

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
    CopyArguments,
    CopyResult,
    DrillArguments,
    ForgetArguments,
    ForgetResult,
    InitArguments,
    InitResult,
    PasswdArguments,
    PasswdResult,
    PasswdStep,
    PruneArguments,
    PruneResult,
    RestoreArguments,
    RestoreResult,
    Retention,
    SnapshotsArguments,
    SnapshotsResult,
    StatsArguments,
    StatsResult,
    UnlockArguments,
    UnlockResult,
)
from backhaul.wire.reports import JobFinished
from backhaul.wire.snapshots import ReportedSnapshot, SnapshotsReport
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
from backhaul_agent.lock_removal import remove_lock
from backhaul_agent.policy import Policy
from backhaul_agent.poll_loop import poll_forever
from backhaul_agent.process import ChildProcess
from backhaul_agent.query_loop import QueryLoop
from backhaul_agent.run import build_cron
from backhaul_agent.secret_file import hold_secret
from backhaul_agent.settings import Settings
from backhaul_agent.spool import Spool
from backhaul_agent.spool_loop import send_forever
from backhaul_api.repositories.coverage import choose_part
from tests.fakes.fake_api import FakeApi
from tests.fakes.light_repository import make_light_repository
from tests.unit.agent.hosts import FACTS, PASSWORD, build_credentials, build_identity

pytestmark = pytest.mark.timeout(120)


class RunningHost:
    """An agent's loops in this process, and the API that they talk to."""

    def __init__(self, api: FakeApi, credentials: Credentials) -> None:
        self.api = api
        self.credentials = credentials

    async def run(self, arguments: Arguments, *, second: Credentials | None = None) -> JobFinished:
        command = self.api.order(arguments, self.credentials, second=second)
        finished = await self.api.wait_for(JobFinished, command.job_id)
        assert isinstance(finished, JobFinished)
        return finished


@pytest.fixture
async def host(tmp_path: Path, restic: str) -> AsyncIterator[RunningHost]:
    settings = Settings(state_dir=tmp_path / "state", restic=restic)
    async with run_agent(settings) as api:
        yield RunningHost(api, build_credentials(location=str(tmp_path / "repo")))


@asynccontextmanager
async def run_agent(settings: Settings) -> AsyncIterator[FakeApi]:
    """Run the loops of an agent that is enrolled with an API of its own."""
    async with FakeApi() as api:
        identity = await enroll(api)
        file = open_journal_file(settings.state_dir)
        link = Link(build_client(settings, server_url=api.url, ca_file=None), identity)
        tasks = start_loops(link, identity, settings, file)
        yield api
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
        policy=Policy(settings.policy, own_folders=settings.own_folders, dumps=settings.dumps),
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


def add_key(credentials: Credentials, password: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "RESTIC_REPOSITORY": credentials.location,
        "RESTIC_PASSWORD": credentials.password,
    }
    with hold_secret(password) as file:
        line = ["restic", "--no-cache", "key", "add", "--new-password-file", file]
        subprocess.run(line, env=environment, check=True, capture_output=True)


def leave_lock(credentials: Credentials) -> list[Path]:
    """Kill a restic in the midst of a backup. Gives the locks that are left."""
    process = begin_backup(credentials)
    process.kill()
    process.wait()
    return list((Path(credentials.location) / "locks").iterdir())


def begin_backup(credentials: Credentials) -> subprocess.Popen[bytes]:
    """Start a backup that takes a while, and wait for its lock."""
    locks = Path(credentials.location) / "locks"
    command = ["restic", "backup", "--no-cache", "--quiet", "/usr"]
    process = subprocess.Popen(command, env=build_restic_environment(credentials))
    # Under another name while it is written.
    while not any(len(one.name) == 64 for one in locks.iterdir()) and process.poll() is None:
        time.sleep(0.02)
    return process


def build_restic_environment(credentials: Credentials) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "RESTIC_REPOSITORY": credentials.location,
        "RESTIC_PASSWORD": credentials.password,
    }


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
    make_light_repository(Path(host.credentials.location))
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
    make_light_repository(Path(host.credentials.location))
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


async def test_lock_counts_as_removed_only_when_none_of_the_job_is_left(
    host: RunningHost, restic: str
) -> None:
    make_light_repository(Path(host.credentials.location))
    locks = Path(host.credentials.location) / "locks"
    environment = build_restic_environment(host.credentials)
    stopped = await asyncio.to_thread(begin_backup, host.credentials)
    # As if a process that is none of ours had got the number of the dead restic.
    stopped.send_signal(signal.SIGSTOP)
    remove = partial(remove_lock, restic, environment, ChildProcess.start)
    try:
        # restic says "successfully removed locks", with exit code 0, each time.
        of_this_job = await remove(pids={stopped.pid})
        of_another_job_here = await remove(pids={2**22 + 1})
        of_another_host = await remove(hostname="elsewhere")
    finally:
        stopped.kill()
        stopped.wait()
    still_there = list(locks.iterdir())
    of_the_dead = await remove(pids={stopped.pid})

    assert not of_this_job
    assert of_another_job_here
    assert of_another_host
    assert len(still_there) == 1
    assert of_the_dead
    assert list(locks.iterdir()) == []


async def test_lock_of_a_repository_that_cannot_be_asked_is_not_called_removed(
    restic: str, tmp_path: Path
) -> None:
    environment = build_restic_environment(build_credentials(location=str(tmp_path / "none")))

    assert not await remove_lock(restic, environment, ChildProcess.start)


async def test_snapshots_are_copied_once_to_a_second_repository(
    host: RunningHost, tmp_path: Path
) -> None:
    source = host.credentials
    destination = Credentials(
        repository_id=uuid4(), location=str(tmp_path / "second"), password="of the second"
    )
    make_tree(tmp_path / "tree")
    make_light_repository(Path(source.location))
    host.credentials = destination
    await host.run(InitArguments())
    host.credentials = source
    for tag in ("nightly", "other", "nightly"):
        await host.run(BackupArguments(paths=(str(tmp_path / "tree"),), tags=(tag,)))
    arguments = CopyArguments(destination_id=destination.repository_id, tags=("nightly",))

    first = await host.run(arguments, second=destination)
    again = await host.run(arguments, second=destination)
    absent = CopyArguments(destination_id=destination.repository_id, snapshots=("01234567",))
    missing = await host.run(absent, second=destination)
    mismatched = await host.run(CopyArguments(destination_id=uuid4()), second=destination)
    await host.run(SnapshotsArguments())

    assert first.result == CopyResult(copied=2, skipped=0)
    assert again.result == CopyResult(copied=0, skipped=2)
    assert "no snapshot 01234567" in (missing.message or "")
    assert missing.failure_class is FailureClass.SNAPSHOT_MISSING
    assert (missing.outcome, mismatched.outcome) == (Outcome.FAILED, Outcome.FAILED)
    *_, after_copy, listed = host.api.of(SnapshotsReport)
    assert (after_copy.repository_id, after_copy.is_complete) == (destination.repository_id, True)
    originals = [one for one in listed.snapshots if one.tags == ("nightly",)]
    assert [describe(one) for one in after_copy.snapshots] == [describe(one) for one in originals]
    assert [one.original for one in after_copy.snapshots] == [one.id for one in originals]


async def test_equal_files_are_stored_once_where_a_copy_goes_by_the_same_chunker(
    host: RunningHost, tmp_path: Path
) -> None:
    source = host.credentials
    same, other = (
        Credentials(repository_id=uuid4(), location=str(tmp_path / name), password=name)
        for name in ("same", "other")
    )
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "random").write_bytes(os.urandom(12_000_000))  # in several pieces
    backup = BackupArguments(paths=(str(tree),))
    await host.run(InitArguments())
    await host.run(backup)

    host.credentials = same
    by_source = InitArguments(chunker_of_id=source.repository_id, chunker_of="nas")
    unopened = await host.run(by_source)
    created = await host.run(by_source, second=source)
    host.credentials = other
    await host.run(InitArguments())
    added = []
    for name, destination in (("same", same), ("other", other)):
        host.credentials = source
        await host.run(CopyArguments(destination_id=destination.repository_id), second=destination)
        host.credentials = destination
        # Under another name it is read anew, as it is on another host.
        next(tree.iterdir()).rename(tree / name)
        backed_up = await host.run(backup)
        assert isinstance(backed_up.result, BackupResult)
        added.append(backed_up.result.data_added)

    assert unopened.failure_class is FailureClass.REFUSED
    assert isinstance(created.result, InitResult)
    assert added[0] < 1_000_000 < 12_000_000 <= added[1]
    state = read_state(tmp_path / "state")
    assert PASSWORD.encode() not in state


def describe(one: ReportedSnapshot) -> object:
    """What a copy has in common with its original, and the server knows it by."""
    return one.time, one.hostname, one.tree, one.paths, one.tags


def flip_a_byte(pack: Path) -> None:
    pack.chmod(0o600)
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 0xFF
    pack.write_bytes(content)


async def test_password_is_changed_however_often_each_step_is_done(
    host: RunningHost, tmp_path: Path
) -> None:
    everyday = host.credentials
    make_light_repository(Path(everyday.location))
    add, remove = PasswdArguments(step=PasswdStep.ADD), PasswdArguments(step=PasswdStep.REMOVE)

    # The agent may die after any of restic's commands: each step is then done from its beginning.
    host.credentials = msgspec.structs.replace(everyday, new_password="new secret")
    added = [await host.run(add) for _ in range(2)]
    await asyncio.to_thread(add_key, everyday, "a password that Backhaul never had")
    await asyncio.to_thread(add_key, everyday, PASSWORD)  # an attempt of the change before
    both = [await host.run(CheckArguments())]
    host.credentials = msgspec.structs.replace(everyday, password="new secret")
    both.append(await host.run(CheckArguments()))
    host.credentials = msgspec.structs.replace(
        everyday, password="new secret", new_password="new secret", old_password=PASSWORD
    )
    removed = [await host.run(remove) for _ in range(2)]
    host.credentials = everyday
    refused = await host.run(CheckArguments())

    counts = [one.result.keys_added for one in added if isinstance(one.result, PasswdResult)]
    assert counts == [1, 0]
    assert [one.outcome for one in both] == [Outcome.SUCCEEDED] * 2
    counts = [one.result.keys_removed for one in removed if isinstance(one.result, PasswdResult)]
    assert counts == [2, 0]
    assert refused.failure_class is FailureClass.WRONG_PASSWORD
    assert len(list((tmp_path / "repo" / "keys").iterdir())) == 2
    state = read_state(tmp_path / "state")
    assert b"new secret" not in state
    assert PASSWORD.encode() not in state


async def test_no_key_is_removed_while_the_new_password_opens_nothing(host: RunningHost) -> None:
    make_light_repository(Path(host.credentials.location))
    everyday = host.credentials
    host.credentials = msgspec.structs.replace(
        everyday, new_password="never added", old_password=PASSWORD
    )

    refused = await host.run(PasswdArguments(step=PasswdStep.REMOVE))
    host.credentials = everyday
    checked = await host.run(CheckArguments())

    assert refused.failure_class is FailureClass.WRONG_PASSWORD
    assert checked.outcome is Outcome.SUCCEEDED


async def test_repository_and_its_newest_snapshot_are_measured(
    host: RunningHost, tmp_path: Path
) -> None:
    files = make_tree(tmp_path / "tree")
    make_light_repository(Path(host.credentials.location))
    empty = await host.run(StatsArguments())
    await host.run(BackupArguments(paths=(str(tmp_path / "tree"),)))

    measured = await host.run(StatsArguments())

    assert empty.result == StatsResult(total_size=0, snapshots_count=0)
    assert isinstance(measured.result, StatsResult)
    assert measured.result.snapshots_count == 1
    assert measured.result.total_size > 0
    assert measured.result.restore_size == sum(map(len, files.values()))


async def test_damage_in_a_pack_is_found_by_reading_it(host: RunningHost, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    make_light_repository(Path(host.credentials.location))
    await host.run(BackupArguments(paths=(str(tmp_path / "tree"),)))
    for pack in (tmp_path / "repo" / "data").rglob("*"):
        if pack.is_file():
            flip_a_byte(pack)

    checked = await host.run(CheckArguments(read_data_subset="1/1"))

    assert checked.outcome is Outcome.FAILED
    assert checked.failure_class is FailureClass.DAMAGED
    assert checked.result is None


async def test_flipped_byte_is_found_within_one_round_of_parts(
    host: RunningHost, tmp_path: Path
) -> None:
    make_tree(tmp_path / "tree")
    (tmp_path / "tree" / "random").write_bytes(os.urandom(300_000))
    make_light_repository(Path(host.credentials.location))
    await host.run(BackupArguments(paths=(str(tmp_path / "tree"),)))
    packs = [pack for pack in (tmp_path / "repo" / "data").rglob("*") if pack.is_file()]
    # The folders are in a small one, which every check reads.
    damaged = max(packs, key=lambda pack: pack.stat().st_size)
    flip_a_byte(damaged)
    bucket = int(damaged.name[:2], 16) % 4 + 1

    structure = await host.run(CheckArguments())
    part, ends = None, []
    for _ in range(4):
        part = choose_part(part, 4)
        ends.append(await host.run(CheckArguments(read_data_subset=part)))

    assert structure.outcome is Outcome.SUCCEEDED
    found = [one.failure_class for one in ends]
    assert found == [FailureClass.DAMAGED if n == bucket else None for n in (1, 2, 3, 4)]
    message = ends[bucket - 1].message or ""
    assert "Pack ID does not match" in message or "repository contains errors" in message
    assert "Prune nothing now" in message


async def test_failures_of_the_real_restic_have_their_class(
    host: RunningHost, tmp_path: Path
) -> None:
    backup = BackupArguments(paths=(str(tmp_path),))

    missing = await host.run(backup)
    await host.run(InitArguments())
    twice = await host.run(InitArguments())
    nowhere = await host.run(BackupArguments(paths=(str(tmp_path / "nowhere"),)))
    none = await host.run(DrillArguments())
    unknown = await host.run(RestoreArguments(snapshot="01234567", target=str(tmp_path / "new")))
    host.credentials = msgspec.structs.replace(host.credentials, password="another one")
    wrong = await host.run(backup)

    ended = (missing, twice, none, unknown, nowhere, wrong)
    assert [one.failure_class for one in ended] == [
        FailureClass.REPOSITORY_MISSING,
        FailureClass.REPOSITORY_EXISTS,
        FailureClass.SNAPSHOT_MISSING,
        FailureClass.SNAPSHOT_MISSING,
        FailureClass.SOURCE_MISSING,
        FailureClass.WRONG_PASSWORD,
    ]
    assert all(one.message for one in ended)
