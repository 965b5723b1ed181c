"""What a backup may be asked for, with the real restic: options, dry runs, priority, dumps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from backhaul.wire.commands import CommandCancel
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import BackupArguments, BackupResult
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.snapshots import SnapshotsReport
from backhaul_agent.settings import DumpSettings, Settings
from tests.fakes.fake_api import FakeApi
from tests.fakes.light_repository import make_light_repository
from tests.integration.test_agent_restic import RunningHost, run_agent
from tests.integration.test_agent_run import Machine
from tests.unit.agent.hosts import PASSWORD, build_credentials

pytestmark = pytest.mark.timeout(120)

CONTENT = bytes(range(256)) * 40_000


class DumpingHost(RunningHost):
    """A host whose settings define dumps, and its repository."""

    repository: Path

    def restic(self, *arguments: str) -> bytes:
        return run_restic(self.repository, *arguments)

    def snapshots(self) -> list[dict[str, object]]:
        return list_snapshots(self.repository)

    def stored(self) -> int:
        """How many bytes of data it holds."""
        data = self.repository / "data"
        return sum(file.stat().st_size for file in data.rglob("*") if file.is_file())

    def locks(self) -> list[Path]:
        # One that restic was still about to write when it was ended has another name, and locks
        # nothing.
        return [one for one in (self.repository / "locks").iterdir() if "-tmp-" not in one.name]


def run_restic(repository: Path, *arguments: str) -> bytes:
    environment = {
        "PATH": os.environ["PATH"],
        "RESTIC_REPOSITORY": str(repository),
        "RESTIC_PASSWORD": PASSWORD,
    }
    command = ["restic", "--no-cache", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True).stdout


def list_snapshots(repository: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run_restic(repository, "snapshots", "--json"))
    return found


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@pytest.fixture
async def host(tmp_path: Path, restic: str) -> AsyncIterator[DumpingHost]:
    (tmp_path / "content").write_bytes(CONTENT)
    ready = tmp_path / "ready"
    # `ready` appears when restic has taken more than any buffer between holds.
    endless = f"cat {tmp_path}/content; touch {ready}; exec sleep 600"
    settings = Settings(
        state_dir=tmp_path / "state",
        restic=restic,
        dumps={
            "whole": DumpSettings(command=("cat", f"{tmp_path}/content"), file_name="all.sql"),
            "half": DumpSettings(
                command=shell(f"cat {tmp_path}/content; echo 'lost {PASSWORD}' >&2; exit 4")
            ),
            "empty": DumpSettings(command=("true",)),
            "endless": DumpSettings(command=shell(endless)),
            "slow": DumpSettings(command=shell(endless), timeout=1.0),
            "missing": DumpSettings(command=("no-such-program-here",)),
        },
    )
    async with run_agent(settings) as api:
        running = DumpingHost(api, build_credentials(location=str(tmp_path / "repo")))
        running.repository = tmp_path / "repo"
        make_light_repository(tmp_path / "repo")
        yield running


def is_there(path: Path) -> bool:
    return path.exists()


def is_running(pid: int) -> bool:
    """Tell whether a process lives. One that is over is listed until its parent has read that."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "\nState:\tZ" not in status


async def wait_until_exists(path: Path) -> None:
    while not is_there(path):
        await asyncio.sleep(0.02)


def find_processes(word: str) -> list[str]:
    """List the command lines that hold a word."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


async def test_excludes_limits_compression_and_priority_reach_restic(
    host: DumpingHost, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "cache").mkdir(parents=True)
    (tree / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (tree / "cache" / "inside").write_text("cached")
    (tree / "kept").write_text("a" * 100_000)
    (tree / "large").write_text("b" * 300_000)
    (tree / "left.tmp").write_text("left out")
    (tmp_path / "patterns").write_text("*.tmp\n")

    done = await host.run(
        BackupArguments(
            paths=(str(tree),),
            exclude_files=(str(tmp_path / "patterns"),),
            exclude_caches=True,
            exclude_larger_than="200K",
            limit_upload=50_000,
            limit_download=50_000,
            compression="max",
            nice=7,
            ionice="idle",
        )
    )

    assert done.outcome is Outcome.SUCCEEDED, done.message
    listed = host.restic("ls", "latest").decode()
    assert [name for name in ("kept", "large", "left.tmp", "inside") if name in listed] == ["kept"]
    assert host.stored() < 50_000, "what repeats itself was not compressed"


async def test_upload_keeps_to_its_limit(host: DumpingHost, tmp_path: Path) -> None:
    # The first half MiB goes at once: a second's worth is saved up.
    (tmp_path / "random").write_bytes(os.urandom(2**21))

    done = await host.run(BackupArguments(paths=(str(tmp_path / "random"),), limit_upload=512))

    assert isinstance(done.result, BackupResult)
    assert done.result.total_duration > 2.5


async def test_dry_run_makes_no_snapshot_and_looks_none_up(
    host: DumpingHost, tmp_path: Path
) -> None:
    done = await host.run(BackupArguments(paths=(str(tmp_path / "content"),), dry_run=True))

    assert done.outcome is Outcome.SUCCEEDED
    assert isinstance(done.result, BackupResult)
    assert (done.result.dry_run, done.result.snapshot_id) == (True, None)
    assert done.result.total_bytes_processed == len(CONTENT)
    assert host.snapshots() == []
    assert host.api.of(SnapshotsReport) == []


async def test_compression_in_a_repository_of_format_1_is_refused(
    host: DumpingHost, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    run_restic(old, "init", "--repository-version", "1")
    host.credentials = build_credentials(location=str(old))

    done = await host.run(BackupArguments(paths=(str(tmp_path / "content"),), compression="max"))

    assert (done.outcome, done.failure_class) == (Outcome.FAILED, FailureClass.NOT_SUPPORTED)
    assert "format 1" in (done.message or "")
    assert list_snapshots(old) == []


async def test_running_restic_has_the_priority_that_was_asked_for(
    host: DumpingHost, tmp_path: Path
) -> None:
    command = host.api.order(
        BackupArguments(paths=(), dump="endless", nice=7, ionice="best-effort"), host.credentials
    )
    await wait_until_exists(tmp_path / "ready")

    pid = find_restic(str(command.job_id))
    assert read_process(pid, "cmdline").split("\0")[1] == "backup"
    assert int(read_process(pid, "stat").rpartition(")")[2].split()[16]) == 7 + os.nice(0)
    assert ask_io_class(pid) == "best-effort: prio 7"
    assert os.getsid(pid) == pid, "signals and the mark of the job find it by its session"

    host.api.tell(CommandCancel(job_id=command.job_id))
    assert (await host.api.wait_for(JobFinished, command.job_id)).outcome is Outcome.CANCELLED


def read_process(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def ask_io_class(pid: int) -> str:
    command = ["ionice", "-p", str(pid)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def find_restic(job_id: str) -> int:
    """Find the restic of a job by its mark."""
    mark = f"BACKHAUL_JOB_ID={job_id}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in file.read_bytes().split(b"\0"):
                return int(file.parent.name)
        except OSError:
            continue
    raise AssertionError("no restic runs for the job")


async def test_dump_comes_back_byte_for_byte(host: DumpingHost) -> None:
    done = await host.run(BackupArguments(paths=(), dump="whole", tags=("db",)))

    assert done.outcome is Outcome.SUCCEEDED, done.message
    (snapshot,) = host.snapshots()
    assert (snapshot["paths"], snapshot["tags"]) == (["/all.sql"], ["db"])
    assert host.restic("dump", "latest", "/all.sql") == CONTENT
    (report,) = host.api.of(SnapshotsReport)
    assert report.snapshots[0].id == snapshot["id"]


async def test_dry_run_of_a_dump_makes_no_snapshot(host: DumpingHost) -> None:
    done = await host.run(BackupArguments(paths=(), dump="whole", dry_run=True))

    assert done.outcome is Outcome.SUCCEEDED, done.message
    assert isinstance(done.result, BackupResult)
    assert done.result.dry_run
    assert host.snapshots() == []


@pytest.mark.parametrize(
    ("dump", "reason"),
    [
        ("half", "the dump half ended with code 4; see the log"),
        ("empty", "the dump empty printed nothing"),
        ("slow", "the dump slow took longer than its timeout of 1 s"),
    ],
)
async def test_dump_that_fails_leaves_neither_snapshot_nor_lock(
    host: DumpingHost, dump: str, reason: str
) -> None:
    done = await host.run(BackupArguments(paths=(), dump=dump))

    assert (done.outcome, done.message) == (Outcome.FAILED, reason)
    assert host.snapshots() == []
    assert host.locks() == []
    log = host.api.log_of(done.job_id)
    assert not any(PASSWORD in line for line in log)
    assert ("half: lost ***" in log) == (dump == "half")


async def test_dump_that_cannot_be_run_fails_before_restic_starts(host: DumpingHost) -> None:
    done = await host.run(BackupArguments(paths=(), dump="missing"))

    assert (done.outcome, done.failure_class) == (Outcome.FAILED, FailureClass.NOT_SUPPORTED)
    assert "no-such-program-here" in (done.message or "")
    assert not any("$ restic backup" in line for line in host.api.log_of(done.job_id))


async def test_cancel_ends_the_dump_and_restic(host: DumpingHost, tmp_path: Path) -> None:
    command = host.api.order(BackupArguments(paths=(), dump="endless"), host.credentials)
    await wait_until_exists(tmp_path / "ready")

    host.api.tell(CommandCancel(job_id=command.job_id))
    done = await host.api.wait_for(JobFinished, command.job_id)

    assert done.outcome is Outcome.CANCELLED
    assert host.snapshots() == []
    assert host.locks() == []
    assert find_processes(str(tmp_path / "content")) == []


async def test_agent_that_is_killed_in_a_dump_leaves_no_snapshot(
    tmp_path: Path, restic: str
) -> None:
    repository, ready = tmp_path / "repo", tmp_path / "ready"
    (tmp_path / "content").write_bytes(CONTENT)
    make_light_repository(repository)
    machine = Machine(tmp_path)
    machine.environment["BACKHAUL_AGENT_RESTIC"] = restic
    script = f"cat {tmp_path}/content; touch {ready}; exec sleep 600"
    (tmp_path / "agent.toml").write_text(
        f"[dumps.endless]\ncommand = {json.dumps(shell(script))}\n"
    )
    options = ("run", "--config", str(tmp_path / "agent.toml"))
    async with FakeApi() as api:
        await machine.enroll(api)
        agent = await machine.start(*options)
        command = api.order(
            BackupArguments(paths=(), dump="endless"), build_credentials(location=str(repository))
        )
        await api.wait_for(JobStarted, command.job_id)
        await wait_until_exists(ready)
        orphan = find_restic(str(command.job_id))

        agent.kill()
        await agent.communicate()
        # Far longer than restic takes for a snapshot of the little that it has, if it saw an end.
        await wait_for_repeated(lambda: is_asleep(orphan), 100)
        left = list_files(repository / "snapshots")

        again = await machine.start(*options)
        done = await api.wait_for(JobFinished, command.job_id)
        again.send_signal(signal.SIGTERM)
        await again.communicate()

    assert left == []
    assert (done.outcome, done.failure_class) == (Outcome.FAILED, FailureClass.INTERRUPTED)
    assert list_snapshots(repository) == []
    assert list_files(repository / "locks") == []
    assert not is_running(orphan)
    assert find_processes(script) == []


def list_files(folder: Path) -> Sequence[str]:
    return [file.name for file in folder.iterdir()]


def is_asleep(pid: int) -> bool:
    return read_process(pid, "stat").rpartition(")")[2].split()[0] == "S"


async def wait_for_repeated(holds: Callable[[], bool], times: int) -> None:
    """Wait until something has held many times in a row, 20 ms apart."""
    row = 0
    while row < times:
        row = row + 1 if holds() else 0
        await asyncio.sleep(0.02)
