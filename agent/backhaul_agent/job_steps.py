"""What each kind of job does with restic: commands in, a typed ending out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

import msgspec

from backhaul.wire.jobs import (
    Arguments,
    BackupArguments,
    BackupResult,
    CheckArguments,
    FailureClass,
    ForgetArguments,
    ForgetResult,
    InitArguments,
    JobKind,
    Outcome,
    PruneArguments,
    RestoreArguments,
    SnapshotsArguments,
    SnapshotsResult,
    UnlockArguments,
)
from backhaul.wire.snapshots import ReportedSnapshot, SnapshotsReport
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.errors import AgentError, DiskFullError
from backhaul_agent.job_log import JobLog
from backhaul_agent.policy import Policy
from backhaul_agent.progress import ProgressGate
from backhaul_agent.restic import backup, init, restore, snapshots
from backhaul_agent.restic.output import JsonObject, parse_object, parse_progress
from backhaul_agent.restic_runner import Exit, ResticRunner, RunEndedError
from backhaul_agent.spool import Spool
from backhaul_agent.upkeep_steps import UpkeepSteps

MAX_REPORT_BYTES = 400 * 1024
"""Of snapshots in one envelope; a batch holds two of them."""


class JobSteps:
    """The work on one job."""

    def __init__(  # noqa: PLR0913 (what the work needs)
        self,
        *,
        job_id: UUID,
        repository_id: UUID,
        host: str,
        restic: ResticRunner,
        log: JobLog,
        progress: ProgressGate,
        spool: Spool,
        note_end: Callable[[Ending], None],
    ) -> None:
        self._job_id = job_id
        self._repository_id = repository_id
        self._host = host
        self._restic = restic
        self._log = log
        self._progress = progress
        self._spool = spool
        self._note_end = note_end
        self._upkeep = UpkeepSteps(restic=restic, log=log, progress=progress)

    async def work(self, arguments: Arguments, policy: Policy) -> Ending:
        """Do the job, which the policy allows.

        Raises:
            RunEndedError, ResticMissingError
        """
        match arguments:
            case InitArguments():
                return await self._init()
            case BackupArguments():
                return await self._backup(arguments)
            case SnapshotsArguments():
                return await self._snapshots()
            case RestoreArguments():
                return await self._restore(arguments, policy)
            case ForgetArguments():
                return await self._forget(arguments)
            case PruneArguments():
                return await self._upkeep.prune()
            case CheckArguments():
                return await self._upkeep.check(arguments)
            case UnlockArguments():
                return await self._upkeep.unlock(arguments)

    async def _init(self) -> Ending:
        lines: list[str] = []
        done = await self._restic.run(
            init.build_arguments(), kind=JobKind.INIT, on_stdout=lines.append
        )
        for line in lines:
            self._write_stdout(line)
        return build_ending(done, init.read_result(lines))

    async def _backup(self, arguments: BackupArguments) -> Ending:
        unreadable = backup.UnreadableItems()
        summaries: list[JsonObject] = []

        def take_error(line: str) -> None:
            text = unreadable.read(line)
            if text:
                self._log.write("stderr", text)

        done = await self._restic.run(
            backup.build_arguments(arguments, host=self._host),
            kind=JobKind.BACKUP,
            on_stdout=lambda line: self._take_status(line, summaries),
            on_stderr=take_error,
        )
        self._progress.flush()
        result = None
        if summaries:
            result = backup.read_summary(summaries[-1], unreadable=unreadable.count)
        ending = _end_backup(done, result)
        if ending.outcome in {Outcome.SUCCEEDED, Outcome.INCOMPLETE} and result:
            self._log.write("agent", _describe_backup(result))
            self._keep(ending)
            await self._report_new(result.snapshot_id)
        return ending

    def _keep(self, ending: Ending) -> None:
        """Keep how the work ended, and all that restic said of it, should the agent die now."""
        self._log.flush()
        self._note_end(ending)

    async def _report_new(self, snapshot_id: str | None) -> None:
        """Look up the snapshot that was made. It exists, whatever becomes of the look."""
        if snapshot_id is None:
            return
        try:
            done, found = await self._list(snapshot_id)
        except (RunEndedError, AgentError):
            self._log.write("agent", "the new snapshot was not looked up")
            return
        if found is None or not found.snapshots:
            self._log.write("agent", f"the new snapshot was not listed (exit code {done.code})")
            return
        self._report_if_possible(found, is_complete=False)

    async def _snapshots(self) -> Ending:
        done, found = await self._list(None)
        if done.verdict.outcome is not Outcome.SUCCEEDED:
            return build_ending(done, None)
        if found is None:
            return build_failure("restic printed no list of snapshots", exit_code=done.code)
        self._report(found.snapshots, is_complete=found.is_whole)
        count = len(found.snapshots)
        self._log.write("agent", f"the repository holds {count} snapshots")
        return build_ending(done, SnapshotsResult(snapshots_count=count))

    async def _forget(self, arguments: ForgetArguments) -> Ending:
        ending = await self._upkeep.forget(arguments)
        if isinstance(ending.result, ForgetResult) and ending.result.removed:
            self._keep(ending)
            await self._report_what_is_left()
        return ending

    async def _report_what_is_left(self) -> None:
        """List the repository, so that nobody is shown what was removed from it."""
        try:
            _, found = await self._list(None)
        except (RunEndedError, AgentError):
            found = None
        if found is None:
            self._log.write("agent", "the snapshots that are left were not listed")
            return
        self._report_if_possible(found, is_complete=found.is_whole)

    async def _restore(self, arguments: RestoreArguments, policy: Policy) -> Ending:
        snapshot_id = arguments.snapshot
        if snapshot_id == "latest":
            # Named once, so that what is restored is what the result says.
            # This host's own: another host's, or one dated ahead by whoever writes there, is not
            # what anybody means.
            done, found = await self._list(snapshot_id, host=self._host)
            if done.verdict.outcome is not Outcome.SUCCEEDED:
                return build_ending(done, None)
            if found is None or not found.snapshots:
                return build_failure(
                    f"the repository has no snapshot of {self._host} to restore;"
                    " name one by its id",
                    exit_code=done.code,
                )
            snapshot_id = max(found.snapshots, key=lambda one: one.time).id
        refusal = await asyncio.to_thread(policy.prepare_target, arguments.target)
        if refusal is not None:
            return Ending(outcome=Outcome.FAILED, message=refusal)
        done = await self._restic.run(
            restore.build_arguments(arguments, snapshot_id=snapshot_id),
            kind=JobKind.RESTORE,
            on_stdout=lambda line: self._take_status(line, []),
        )
        self._progress.flush()
        result = await asyncio.to_thread(
            restore.count_restored, arguments.target, snapshot_id=snapshot_id
        )
        self._log.write(
            "agent",
            f"{result.files_restored} files, {result.bytes_restored} bytes in {result.target}",
        )
        ending = build_ending(done, result)
        if arguments.include and not result.files_restored and ending.result is not None:
            # restic says nothing of it, and an operator would believe that the files are there.
            return msgspec.structs.replace(
                ending,
                outcome=Outcome.FAILED,
                message="no file of the snapshot matches the include patterns",
            )
        return ending

    async def _list(
        self, snapshot_id: str | None, *, host: str | None = None
    ) -> tuple[Exit, snapshots.SnapshotList | None]:
        lines: list[str] = []
        done = await self._restic.run(
            snapshots.build_arguments(snapshot_id, host=host),
            kind=JobKind.SNAPSHOTS,
            on_stdout=lines.append,
        )
        return done, snapshots.read_snapshots(lines, done.stderr)

    def _report_if_possible(self, found: snapshots.SnapshotList, *, is_complete: bool) -> None:
        """Report what a job has changed; that stands, whatever becomes of the report."""
        try:
            self._report(found.snapshots, is_complete=is_complete)
        except DiskFullError as error:
            self._log.write("agent", f"the list of snapshots was not kept: {error}")

    def _report(self, found: Sequence[ReportedSnapshot], *, is_complete: bool) -> None:
        parts = list(_split(found)) or [()]
        for number, part in enumerate(parts, start=1):
            report = SnapshotsReport(
                repository_id=self._repository_id,
                job_id=self._job_id,
                snapshots=part,
                is_complete=is_complete and number == len(parts),
            )
            self._spool.put(report, job_id=self._job_id)

    def _take_status(self, line: str, summaries: list[JsonObject]) -> None:
        found = parse_object(line)
        if found is None:
            self._write_stdout(line)
        elif found.get("message_type") == "summary":
            summaries.append(found)
        elif (progress := parse_progress(found)) is not None:
            self._progress.offer(progress)

    def _write_stdout(self, line: str) -> None:
        if line.strip():
            self._log.write("stdout", line)


def _end_backup(done: Exit, result: BackupResult | None) -> Ending:
    """Judge a backup: what it could not read makes it incomplete, whatever restic's exit code."""
    ending = build_ending(done, result)
    if ending.outcome is Outcome.FAILED:
        return ending
    if result is None or result.snapshot_id is None:
        return msgspec.structs.replace(
            ending,
            outcome=Outcome.FAILED,
            failure_class=FailureClass.OTHER,
            message="restic named no snapshot",
        )
    if result.unreadable == 0 and ending.outcome is Outcome.SUCCEEDED:
        return ending
    return msgspec.structs.replace(
        ending,
        outcome=Outcome.INCOMPLETE,
        message=f"restic could not read everything ({result.unreadable} items); see the log",
    )


def _describe_backup(result: BackupResult) -> str:
    return (
        f"snapshot {result.snapshot_id}: {result.total_files_processed} files,"
        f" {result.total_bytes_processed} bytes; {result.files_new} new,"
        f" {result.files_changed} changed, {result.unreadable} unreadable"
    )


def _split(found: Sequence[ReportedSnapshot]) -> Iterator[tuple[ReportedSnapshot, ...]]:
    part: list[ReportedSnapshot] = []
    size = 0
    for snapshot in found:
        size_of_one = len(msgspec.json.encode(snapshot)) + 1
        if part and size + size_of_one > MAX_REPORT_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(snapshot)
        size += size_of_one
    if part:
        yield tuple(part)
