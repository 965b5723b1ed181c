"""One job from first line to last, with a restic that plays recordings."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backhaul.wire.agents import UpEnvelope
from backhaul.wire.commands import CommandRun
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import (
    Arguments,
    BackupArguments,
    BackupResult,
    InitArguments,
    InitResult,
    RestoreArguments,
    RestoreResult,
    SnapshotsArguments,
    SnapshotsResult,
)
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul.wire.snapshots import SnapshotsReport
from backhaul_agent.clock import SystemClock
from backhaul_agent.ending import Ending
from backhaul_agent.identity import Identity
from backhaul_agent.job import JOB_MARK, EndReason, JobRun, Workshop, build_finished
from backhaul_agent.job_loop import JobLoop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import JournalFile
from backhaul_agent.policy import Policy
from backhaul_agent.process import Child, Graces
from backhaul_agent.settings import PolicySettings, Settings
from backhaul_agent.spool import Spool
from tests.fakes.fake_restic import FakeRestic, install_fake_restic
from tests.unit.agent.hosts import (
    OK,
    PASSWORD,
    START,
    build_command,
    build_credentials,
    build_identity,
    seal,
)

pytestmark = pytest.mark.timeout(20)

BACKUP = BackupArguments(paths=("/data",), tags=("nightly",))


class Host:
    """A host whose jobs are claimed as soon as they are accepted."""

    def __init__(self, file: JournalFile, fake: FakeRestic, state_dir: Path) -> None:
        self.fake = fake
        self.identity: Identity = build_identity()
        self.credentials = build_credentials(environment={"AWS_SECRET_ACCESS_KEY": "aws-secret"})
        self.journal = Journal(file)
        self.spool = Spool(file, now=SystemClock().now)
        self.workshop = Workshop(
            settings=Settings(state_dir=state_dir, restic=fake.path),
            identity=self.identity,
            policy=Policy(PolicySettings()),
            journal=self.journal,
            spool=self.spool,
            clock=SystemClock(),
            inherited={"HOME": "/root", "RESTIC_PASSWORD_COMMAND": "inherited"},
            graces=Graces(interrupt=5.0, terminate=0.1),
        )

    def claim(self, arguments: Arguments, **changes: Any) -> CommandRun:
        command = build_command(
            arguments,
            repository_id=self.credentials.repository_id,
            credentials=seal(self.identity, self.credentials),
            **changes,
        )
        self.journal.accept(command)
        batch = self.spool._build_batch()
        self.spool.settle(batch, [OK] * len(batch.envelopes))
        return command

    def prepare(self, arguments: Arguments, **changes: Any) -> JobRun:
        self.claim(arguments, **changes)
        job = self.journal.next_claimed()
        assert job is not None
        return JobRun(job, self.workshop)

    async def run(self, arguments: Arguments, **changes: Any) -> JobFinished:
        await self.prepare(arguments, **changes).run()
        return self.finished

    @property
    def envelopes(self) -> list[UpEnvelope]:
        unsent = self.spool._list_unsent()
        return [msgspec.json.decode(spooled.body, type=UpEnvelope) for spooled in unsent]

    @property
    def finished(self) -> JobFinished:
        return next(one for one in self.envelopes if isinstance(one, JobFinished))

    @property
    def log(self) -> list[str]:
        logs = [one for one in self.envelopes if isinstance(one, JobLog)]
        return [line.text for log in logs for line in log.lines]

    @property
    def reports(self) -> list[SnapshotsReport]:
        return [one for one in self.envelopes if isinstance(one, SnapshotsReport)]


@pytest.fixture
def host(journal_file: JournalFile, state_dir: Path, tmp_path: Path) -> Host:
    return Host(journal_file, install_fake_restic(tmp_path / "bin"), state_dir)


def read_all(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())


async def wait_until_ready(fake: FakeRestic) -> None:
    file = fake.folder / "calls.jsonl"
    async with asyncio.timeout(10):
        # Another process sets this, so there is no event to wait for.
        while not (file.exists() and '"ready"' in file.read_text()):
            await asyncio.sleep(0.01)


async def test_backup_reports_everything_in_order(host: Host) -> None:
    host.fake.on("backup", case="backup-first")
    host.fake.on("snapshots", case="snapshots-tz-offset")

    finished = await host.run(BACKUP)

    kinds = [type(one) for one in host.envelopes]
    assert kinds[0] is JobStarted
    assert kinds[-1] is JobFinished
    assert set(kinds[1:-1]) == {JobLog, SnapshotsReport}
    assert finished.outcome is Outcome.SUCCEEDED
    assert finished.exit_code == 0
    assert finished.log_lines == len(host.log)
    assert isinstance(finished.result, BackupResult)
    assert finished.result.total_files_processed == 34
    assert not host.reports[0].is_complete
    assert host.fake.calls[1]["argv"][1:] == [
        "snapshots",
        "--json",
        "--",
        finished.result.snapshot_id,
    ]


async def test_no_secret_on_the_command_line_nor_in_what_is_stored(
    host: Host, state_dir: Path
) -> None:
    host.fake.on("backup", case="backup-first", echo=["RESTIC_PASSWORD", "AWS_SECRET_ACCESS_KEY"])
    host.fake.on("snapshots", case="snapshots-tz-offset")

    await host.run(BACKUP)

    call = host.fake.calls[0]
    assert call["env"]["RESTIC_PASSWORD"] == PASSWORD
    assert "RESTIC_PASSWORD_COMMAND" not in call["env"]
    assert call["argv"][1:] == [
        "backup",
        "--json",
        "--cleanup-cache",
        "--host=web-1",
        "--tag=nightly",
        "--",
        "/data",
    ]
    assert host.log.count("***") == 2
    stored = read_all(state_dir)
    assert PASSWORD.encode() not in stored
    assert b"aws-secret" not in stored


async def test_unreadable_files_make_a_backup_incomplete(host: Host) -> None:
    host.fake.on("backup", case="backup-partial-exit3")
    host.fake.on("snapshots", case="snapshots-tz-offset")

    finished = await host.run(BACKUP)

    assert finished.outcome is Outcome.INCOMPLETE
    assert finished.exit_code == 3
    assert isinstance(finished.result, BackupResult)
    assert finished.result.unreadable == 2
    assert finished.message is not None
    assert "could not read /data/etc/private: restic gave no reason" in host.log
    assert len(host.reports) == 1


async def test_missing_source_path_makes_a_backup_incomplete(host: Host) -> None:
    host.fake.on("backup", case="backup-one-path-missing")
    host.fake.on("snapshots", case="snapshots-tz-offset")

    finished = await host.run(BACKUP)

    assert finished.exit_code == 0
    assert finished.outcome is Outcome.INCOMPLETE


@pytest.mark.parametrize(
    ("case", "failure_class"),
    [
        ("wrong-password-backup", FailureClass.WRONG_PASSWORD),
        ("missing-repo-backup", FailureClass.REPOSITORY_MISSING),
        ("locked-exclusive-backup", FailureClass.LOCKED),
        ("backup-repo-disk-full", FailureClass.NO_SPACE),
        ("signal-sigterm-backup", FailureClass.INTERRUPTED),
    ],
)
async def test_failed_backup_says_why(host: Host, case: str, failure_class: FailureClass) -> None:
    host.fake.on("backup", case=case)

    finished = await host.run(BACKUP)

    assert finished.outcome is Outcome.FAILED
    assert finished.failure_class is failure_class
    assert finished.message
    assert len(host.fake.calls) == 1
    assert host.reports == []


async def test_backup_whose_snapshot_cannot_be_listed_stays_a_success(host: Host) -> None:
    host.fake.on("backup", case="backup-first")
    host.fake.on("snapshots", case="locked-exclusive-backup")

    finished = await host.run(BACKUP)

    assert finished.outcome is Outcome.SUCCEEDED
    assert host.reports == []
    assert "the new snapshot was not listed (exit code 1)" in host.log


async def test_success_without_a_snapshot_is_a_failure(host: Host) -> None:
    host.fake.on("backup", stdout="", exit=0)

    finished = await host.run(BACKUP)

    assert finished.outcome is Outcome.FAILED
    assert finished.message == "restic named no snapshot"


async def test_init_gives_the_repositorys_id(host: Host) -> None:
    host.fake.on("cat", case="missing-repo-backup")
    host.fake.on("init", case="init-json-ignored")

    finished = await host.run(InitArguments())

    assert finished.result == InitResult(repository_id="7b3eecabd1")


async def test_init_of_an_existing_repository_fails(host: Host) -> None:
    host.fake.on("cat", stdout='{\n  "version": 2\n}\n')

    finished = await host.run(InitArguments())

    assert finished.failure_class is FailureClass.REPOSITORY_EXISTS
    assert len(host.fake.calls) == 1


async def test_init_that_another_host_was_quicker_with_fails(host: Host) -> None:
    host.fake.on("cat", case="rest-missing-repo")
    host.fake.on("init", case="init-already-existing")

    finished = await host.run(InitArguments())

    assert finished.failure_class is FailureClass.REPOSITORY_EXISTS


@pytest.mark.parametrize(
    "case",
    ["s3-server-down", "rest-wrong-credentials", "rest-host-unknown", "wrong-password-backup"],
)
async def test_repository_that_may_exist_is_not_created(host: Host, case: str) -> None:
    host.fake.on("cat", case=case)

    finished = await host.run(InitArguments())

    assert finished.outcome is Outcome.FAILED
    assert len(host.fake.calls) == 1
    assert "it is not certain that there is no repository: none was created" in host.log


async def test_snapshots_reports_all_and_says_that_it_is_all(host: Host) -> None:
    host.fake.on("snapshots", case="snapshots-several")

    finished = await host.run(SnapshotsArguments())

    assert isinstance(finished.result, SnapshotsResult)
    assert finished.result.snapshots_count == len(host.reports[0].snapshots)
    assert host.reports[0].is_complete


async def test_large_list_goes_in_parts_and_only_the_last_is_complete(host: Host) -> None:
    one = {"time": "2026-01-01T00:00:00Z", "paths": ["/x" * 500], "hostname": "web-1"}
    many = [{**one, "id": f"{number:064x}"} for number in range(1000)]
    host.fake.on("snapshots", stdout=json.dumps(many) + "\n")

    await host.run(SnapshotsArguments())

    assert len(host.reports) > 2
    assert [report.is_complete for report in host.reports[:-1]] == [False] * (len(host.reports) - 1)
    assert host.reports[-1].is_complete
    assert sum(len(report.snapshots) for report in host.reports) == 1000


async def test_list_with_a_damaged_snapshot_is_not_called_complete(host: Host) -> None:
    host.fake.on("snapshots", case="snapshots-damaged-snapshot-file")

    await host.run(SnapshotsArguments())

    assert not host.reports[-1].is_complete


async def test_restore_counts_what_lies_in_the_target(host: Host, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    files = {str(target / "a"): "12345", str(target / "sub" / "b"): "67"}
    host.fake.on("restore", case="restore-json-ignored", files=files)

    finished = await host.run(RestoreArguments(snapshot="d9c8cbca", target=str(target)))

    assert finished.result == RestoreResult(
        snapshot_id="d9c8cbca", target=str(target), files_restored=2, bytes_restored=7
    )


async def test_latest_is_looked_up_before_it_is_restored(host: Host, tmp_path: Path) -> None:
    host.fake.on("snapshots", case="snapshots-several")
    host.fake.on("restore", case="restore-json-ignored")

    finished = await host.run(RestoreArguments(snapshot="latest", target=str(tmp_path / "new")))

    assert isinstance(finished.result, RestoreResult)
    assert len(finished.result.snapshot_id) == 64
    assert host.fake.calls[1]["argv"][-1] == finished.result.snapshot_id


async def test_latest_is_none_whose_time_is_still_to_come(host: Host, tmp_path: Path) -> None:
    times = {"a": "2026-11-22T02:00:00Z", "b": "2027-11-23T02:00:00Z", "c": "2026-11-23T02:00:00Z"}
    listed = [
        {"id": letter * 64, "time": time, "hostname": "web-1", "paths": ["/data"]}
        for letter, time in times.items()
    ]
    host.fake.on("snapshots", stdout=json.dumps(listed[1:2]))  # what restic calls the latest
    host.fake.on("snapshots", stdout=json.dumps(listed))
    host.fake.on("restore", case="restore-json-ignored")

    finished = await host.run(RestoreArguments(snapshot="latest", target=str(tmp_path / "new")))

    assert isinstance(finished.result, RestoreResult), finished.message
    assert finished.result.snapshot_id == "c" * 64


async def test_latest_of_an_empty_repository_fails(host: Host, tmp_path: Path) -> None:
    host.fake.on("snapshots", case="snapshots-empty-repo")

    finished = await host.run(RestoreArguments(snapshot="latest", target=str(tmp_path / "new")))

    assert finished.outcome is Outcome.FAILED
    assert finished.message == "the repository has no snapshot of web-1; name one by its id"


async def test_target_that_filled_up_meanwhile_is_left_alone(host: Host, tmp_path: Path) -> None:
    run = host.prepare(RestoreArguments(snapshot="d9c8cbca", target=str(tmp_path / "target")))
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "precious").touch()

    await run.run()

    assert host.finished.failure_class is FailureClass.REFUSED
    assert host.fake.calls == []
    assert not any(isinstance(one, JobStarted) for one in host.envelopes)


async def test_missing_restic_fails_the_job(host: Host) -> None:
    (host.fake.folder / "restic").unlink()

    finished = await host.run(BACKUP)

    assert finished.failure_class is FailureClass.RESTIC_MISSING
    assert host.fake.path in (finished.message or "")


async def test_command_line_that_is_too_long_fails_the_job(host: Host) -> None:
    arguments = BackupArguments(paths=("/data",), excludes=("x" * 4000,) * 1000)

    finished = await host.run(arguments)

    assert finished.failure_class is FailureClass.OTHER
    assert "too long" in (finished.message or "")


async def test_variable_that_is_not_allowed_fails_the_job(host: Host) -> None:
    host.credentials = build_credentials(environment={"LD_PRELOAD": "/evil.so"})

    finished = await host.run(BACKUP)

    assert finished.failure_class is FailureClass.REFUSED
    assert "LD_PRELOAD" in (finished.message or "")
    assert host.fake.calls == []


@pytest.mark.parametrize(
    ("reason", "outcome", "failure_class"),
    [
        (EndReason.CANCELLED, Outcome.CANCELLED, None),
        (EndReason.AGENT_STOPPED, Outcome.FAILED, FailureClass.INTERRUPTED),
    ],
)
async def test_ended_job_says_who_ended_it(
    host: Host, reason: EndReason, outcome: Outcome, failure_class: FailureClass | None
) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)
    run = host.prepare(BACKUP)

    running = asyncio.create_task(run.run())
    await wait_until_ready(host.fake)
    assert run.end(reason)
    assert not run.end(EndReason.CANCELLED)
    await running

    assert host.finished.outcome is outcome
    assert host.finished.failure_class is failure_class
    assert host.finished.exit_code == 130
    assert "signal interrupt received, cleaning up" in host.log


async def test_job_that_takes_too_long_is_ended(host: Host) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)

    finished = await host.run(BACKUP, max_duration=0.3)

    assert finished.outcome is Outcome.CANCELLED
    assert "longer than the job may take (its max_duration)" in (finished.message or "")


async def test_killed_restic_is_mentioned_with_its_lock(host: Host) -> None:
    host.fake.on("backup", hang=True, ignore_signals=["SIGINT", "SIGTERM"])
    graces = Graces(interrupt=0.1, terminate=0.1)
    host.workshop = msgspec.structs.replace(host.workshop, graces=graces)
    run = host.prepare(BACKUP)

    running = asyncio.create_task(run.run())
    await wait_until_ready(host.fake)
    run.end(EndReason.CANCELLED)
    await running

    assert host.finished.exit_code == -9
    assert "restic had to be killed; the lock that it left was removed" in host.log
    assert "the lock that it left was removed" in (host.finished.message or "")
    assert [call["argv"][1] for call in host.fake.calls[-2:]] == ["unlock", "list"]


async def test_lock_that_cannot_be_removed_is_told_of(host: Host) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)
    host.fake.on("unlock", exit=1)
    run = host.prepare(BACKUP)

    running = asyncio.create_task(run.run())
    await wait_until_ready(host.fake)
    run.end(EndReason.CANCELLED)
    await running

    assert host.finished.outcome is Outcome.CANCELLED
    assert "a job of the kind unlock does that" in (host.finished.message or "")


async def test_lock_of_a_number_that_is_in_use_again_is_told_of(host: Host) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)
    # restic takes the stranger for the owner, leaves the lock, and says that it removed it.
    host.fake.on("unlock", stdout="successfully removed locks\n")
    host.fake.on("list", stdout=f"{'ab' * 32}\n")
    run = host.prepare(BACKUP)

    running = asyncio.create_task(run.run())
    await wait_until_ready(host.fake)
    child = host.journal.left_running()[0].child
    assert child is not None
    lock = {"hostname": "web-1", "pid": child.pid}
    host.fake.on("cat", stdout=json.dumps(lock, indent=2))
    run.end(EndReason.CANCELLED)
    await running

    assert "may have left a lock" in (host.finished.message or "")
    assert host.fake.calls[-1]["argv"][1:] == ["cat", "lock", "ab" * 32, "--no-lock"]


async def test_child_is_on_record_while_it_runs(host: Host) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)
    run = host.prepare(BACKUP)

    running = asyncio.create_task(run.run())
    await wait_until_ready(host.fake)
    recorded = host.journal.left_running()[0].child
    run.end(EndReason.CANCELLED)
    await running

    assert recorded is not None
    assert recorded.started > 0


async def test_jobs_run_one_at_a_time_in_order(host: Host) -> None:
    host.fake.on("backup", case="wrong-password-backup")
    host.fake.on("cat", case="missing-repo-backup")
    host.fake.on("init", case="init-json-ignored")
    first, second = host.claim(BACKUP), host.claim(InitArguments())
    loop = JobLoop(host.workshop)

    running = asyncio.create_task(loop.run_until_stopped())
    async with asyncio.timeout(10):
        while host.journal.next_claimed() or host.journal.left_running():
            await asyncio.sleep(0.01)
    loop.stop_accepting()
    await running

    reports = [one for one in host.envelopes if isinstance(one, JobStarted | JobFinished)]
    assert [(type(one), one.job_id) for one in reports] == [
        (JobStarted, first.job_id),
        (JobFinished, first.job_id),
        (JobStarted, second.job_id),
        (JobFinished, second.job_id),
    ]


async def test_as_many_jobs_run_at_once_as_the_settings_allow(host: Host) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)
    settings = msgspec.structs.replace(host.workshop.settings, max_jobs=2)
    host.workshop = msgspec.structs.replace(host.workshop, settings=settings)
    jobs = [host.claim(BACKUP) for _ in range(3)]
    loop = JobLoop(host.workshop)

    running = asyncio.create_task(loop.run_until_stopped())
    async with asyncio.timeout(10):
        while len([job for job in host.journal.left_running() if job.child]) < 2:
            await asyncio.sleep(0.01)
        waiting = host.journal.next_claimed()
        assert waiting is not None
        assert waiting.id == jobs[2].job_id
        assert loop.cancel(jobs[0].job_id)
        while host.journal.next_claimed() is not None:
            await asyncio.sleep(0.01)
        loop.stop_accepting()
        assert loop.abort_jobs()
        await running

    reports = [one for one in host.envelopes if isinstance(one, JobFinished)]
    assert {one.job_id: one.outcome for one in reports} == {
        jobs[0].job_id: Outcome.CANCELLED,
        jobs[1].job_id: Outcome.FAILED,
        jobs[2].job_id: Outcome.FAILED,
    }


async def test_job_cancelled_before_its_turn_never_starts(host: Host) -> None:
    command = host.claim(BACKUP)
    loop = JobLoop(host.workshop)

    assert loop.cancel(command.job_id)
    assert not loop.cancel(command.job_id)
    assert not loop.cancel(build_command().job_id)

    assert host.finished.outcome is Outcome.CANCELLED
    assert host.journal.next_claimed() is None


async def test_job_that_was_running_before_a_restart_is_reported_as_interrupted(
    host: Host,
) -> None:
    command = host.claim(BACKUP)
    host.journal.start(JobStarted(job_id=command.job_id, attempt=1, at=START))
    host.journal.record_child(command.job_id, Child(pid=2**22 + 1, started=1))
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    await loop.run_until_stopped()

    assert host.finished.outcome is Outcome.FAILED
    assert host.finished.failure_class is FailureClass.INTERRUPTED
    assert "restarted while restic ran" in (host.finished.message or "")
    # Whatever became of the first one, no lock of it is left.
    assert [call["argv"][1] for call in host.fake.calls] == ["unlock", "list"]


async def test_lock_of_a_restic_that_was_never_noted_is_removed_too(host: Host) -> None:
    command = host.claim(BACKUP)
    # The agent died before it noted its restic, and then that one died as well.
    host.journal.start(JobStarted(job_id=command.job_id, attempt=1, at=START))
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    await loop.run_until_stopped()

    assert [call["argv"][1] for call in host.fake.calls] == ["unlock", "list"]


async def test_unlock_for_a_job_that_was_left_behind_carries_its_mark(host: Host) -> None:
    command = host.claim(BACKUP)
    host.journal.start(JobStarted(job_id=command.job_id, attempt=1, at=START))
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    await loop.run_until_stopped()

    # An agent that dies now leaves an unlock that the next one finds.
    assert {call["env"].get(JOB_MARK) for call in host.fake.calls} == {str(command.job_id)}


async def test_backup_that_was_done_before_a_restart_is_reported_as_done(host: Host) -> None:
    host.fake.on("backup", case="backup-first")
    host.fake.on("snapshots", hang=True, on_sigint=130)
    run = host.prepare(BACKUP)
    running = asyncio.create_task(run.run())
    # The agent dies while it looks the new snapshot up.
    await wait_until_ready(host.fake)
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    await loop.run_until_stopped()
    await running

    (end,) = (one for one in host.envelopes if isinstance(one, JobFinished))
    assert end.outcome is Outcome.SUCCEEDED
    assert isinstance(end.result, BackupResult)
    assert end.result.snapshot_id is not None


async def test_restic_that_outlived_the_agent_is_ended_first(host: Host) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)
    run = host.prepare(BACKUP)
    running = asyncio.create_task(run.run())
    await wait_until_ready(host.fake)
    # The loop of a second life finds the process of the first, which this test still reads from.
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    await loop.run_until_stopped()
    await running

    ends = [one for one in host.envelopes if isinstance(one, JobFinished)]
    assert [end.failure_class for end in ends] == [FailureClass.INTERRUPTED]
    calls = (host.fake.folder / "calls.jsonl").read_text()
    assert '{"signal": 2}' in calls


async def test_restic_that_nobody_noted_is_found_by_its_mark(host: Host) -> None:
    host.fake.on("backup", hang=True, on_sigint=130)
    run = host.prepare(BACKUP)
    running = asyncio.create_task(run.run())
    await wait_until_ready(host.fake)
    # The agent died after it had started restic and before it noted which process that is.
    host.journal.record_child(host.journal.left_running()[0].id, None)
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    await loop.run_until_stopped()
    await running

    assert '{"signal": 2}' in (host.fake.folder / "calls.jsonl").read_text()


def test_failure_always_has_a_class(host: Host) -> None:
    finished = build_finished(build_command(), Ending(outcome=Outcome.FAILED), SystemClock())

    assert finished.failure_class is FailureClass.OTHER


async def test_stricter_policy_holds_for_a_job_that_already_waits(host: Host) -> None:
    host.claim(BACKUP)
    job = host.journal.next_claimed()
    assert job is not None
    strict = Policy(PolicySettings(backup_paths=("/etc",)))

    await JobRun(job, msgspec.structs.replace(host.workshop, policy=strict)).run()

    assert host.finished.outcome is Outcome.FAILED
    assert host.finished.failure_class is FailureClass.REFUSED
    assert "does not allow backups of /data" in (host.finished.message or "")
    assert host.fake.calls == []


async def test_latest_of_another_host_and_a_source_is_looked_up_by_both(
    host: Host, tmp_path: Path
) -> None:
    host.fake.on("snapshots", case="snapshots-several")
    host.fake.on("restore", case="restore-json-ignored")

    await host.run(
        RestoreArguments(
            snapshot="latest",
            target=str(tmp_path / "new"),
            of_host="db-1",
            tag="etc",
            exclude=("*.iso",),
        )
    )

    looked, restored = (call["argv"][1:] for call in host.fake.calls)
    assert looked == ["snapshots", "--json", "--host=db-1", "--tag=etc", "--", "latest"]
    assert "--exclude=*.iso" in restored
