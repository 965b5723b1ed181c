"""Back paths up into one snapshot, and look that snapshot up."""

from __future__ import annotations

import msgspec

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import BackupArguments, BackupResult, JobKind
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending
from backhaul_agent.errors import AgentError
from backhaul_agent.listing import list_snapshots, report_if_possible
from backhaul_agent.restic import backup
from backhaul_agent.restic.output import JsonObject
from backhaul_agent.restic_runner import Exit, RunEndedError


async def work(bench: Bench, arguments: BackupArguments) -> Ending:
    unreadable = backup.UnreadableItems()
    summaries: list[JsonObject] = []

    def take_error(line: str) -> None:
        text = unreadable.read(line)
        if text:
            bench.log.write("stderr", text)

    done = await bench.restic.run(
        backup.build_arguments(arguments, host=bench.host),
        kind=JobKind.BACKUP,
        on_stdout=lambda line: bench.take_status(line, summaries),
        on_stderr=take_error,
    )
    bench.progress.flush()
    result = None
    if summaries:
        result = backup.read_summary(summaries[-1], unreadable=unreadable.count)
    ending = _judge(done, result)
    if ending.outcome in {Outcome.SUCCEEDED, Outcome.INCOMPLETE} and result:
        bench.log.write("agent", _describe(result))
        bench.keep(ending)
        await _report_new(bench, result.snapshot_id)
    return ending


async def _report_new(bench: Bench, snapshot_id: str | None) -> None:
    """Look up the snapshot that was made. It exists, whatever becomes of the look."""
    if snapshot_id is None:
        return
    try:
        done, found = await list_snapshots(bench, snapshot_id)
    except (RunEndedError, AgentError):
        bench.log.write("agent", "the new snapshot was not looked up")
        return
    if found is None or not found.snapshots:
        bench.log.write("agent", f"the new snapshot was not listed (exit code {done.code})")
        return
    report_if_possible(bench, found, is_complete=False)


def _judge(done: Exit, result: BackupResult | None) -> Ending:
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


def _describe(result: BackupResult) -> str:
    return (
        f"snapshot {result.snapshot_id}: {result.total_files_processed} files,"
        f" {result.total_bytes_processed} bytes; {result.files_new} new,"
        f" {result.files_changed} changed, {result.unreadable} unreadable"
    )
