"""Back paths up into one snapshot, or a dump, and look that snapshot up."""

from __future__ import annotations

import asyncio

import msgspec

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import BackupArguments, BackupResult, JobKind
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.dump import Dump, build_environment
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.errors import AgentError, NotSupportedError
from backhaul_agent.feed import Feed
from backhaul_agent.listing import list_snapshots, report_if_possible
from backhaul_agent.priority import build_prefix
from backhaul_agent.restic import backup, config
from backhaul_agent.restic.capabilities import require
from backhaul_agent.restic.output import JsonObject
from backhaul_agent.restic_runner import Exit, Manner, RunEndedError

_DONE = frozenset({Outcome.SUCCEEDED, Outcome.INCOMPLETE})


async def work(bench: Bench, arguments: BackupArguments) -> Ending:
    require(bench.version, backup.list_features(arguments))
    prefix = tuple(build_prefix(arguments, path=bench.inherited.get("PATH")))
    refused = await _refuse_compression(bench, arguments)
    if refused is not None:
        return refused
    if arguments.dump is None:
        ending = await _run(bench, arguments, Manner(prefix=prefix))
    else:
        ending = await _run_dump(bench, arguments, arguments.dump, prefix)
    bench.progress.flush()
    result = ending.result
    if ending.outcome in _DONE and isinstance(result, BackupResult):
        bench.log.write("agent", _describe(result))
        bench.keep(ending)
        await _report_new(bench, result.snapshot_id)
    return ending


async def _refuse_compression(bench: Bench, arguments: BackupArguments) -> Ending | None:
    """Refuse to compress in a repository that cannot: restic itself says nothing of it (0.19.1).

    Raises:
        NotSupportedError: it is one of format 1.
    """
    if arguments.compression in {None, "off"}:
        return None
    done, lines = await bench.run(config.ARGUMENTS, kind=JobKind.BACKUP)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    if config.read_format(lines) == 1:
        raise NotSupportedError(
            "the repository has format 1, which cannot compress; `restic migrate upgrade_repo_v2` "
            "gives it format 2"
        )
    return None


async def _run(
    bench: Bench, arguments: BackupArguments, manner: Manner, *, stdin_name: str | None = None
) -> Ending:
    unreadable = backup.UnreadableItems()
    summaries: list[JsonObject] = []

    def take_error(line: str) -> None:
        text = unreadable.read(line)
        if text:
            bench.log.write("stderr", text)

    done = await bench.restic.run(
        backup.build_arguments(arguments, host=bench.host, stdin_name=stdin_name),
        kind=JobKind.BACKUP,
        on_stdout=lambda line: bench.take_status(line, summaries),
        on_stderr=take_error,
        manner=manner,
    )
    result = None
    if summaries:
        result = backup.read_summary(summaries[-1], unreadable=unreadable.count)
    return _judge(done, result)


async def _run_dump(
    bench: Bench, arguments: BackupArguments, name: str, prefix: tuple[str, ...]
) -> Ending:
    """Run restic and the dump that feeds it; each ends when the other fails.

    Raises:
        NotSupportedError: the dump cannot be run; restic was not started.
    """
    settings = bench.dumps[name]
    with Feed() as feed:
        dump = await Dump.start(
            name,
            settings,
            prefix=prefix,
            environment=build_environment(bench.inherited, job_id=bench.job_id),
            log=bench.log,
        )
        relaying = asyncio.create_task(_relay(bench, dump, feed))
        try:
            ending = await _run(
                bench,
                arguments,
                Manner(prefix=prefix, feed=feed),
                stdin_name=settings.file_name or name,
            )
        except RunEndedError:
            if dump.failure is None:
                raise
            ending = build_failure(dump.failure)
        finally:
            feed.give_up()
            feed.hand_over()  # Also where restic was never started: the flood is to find an end.
            await relaying
    if dump.failure is not None:
        return build_failure(dump.failure, exit_code=ending.exit_code)
    if ending.outcome in _DONE and not dump.is_whole:
        return build_failure("restic made a snapshot before the dump had ended; do not rely on it")
    return ending


async def _relay(bench: Bench, dump: Dump, feed: Feed) -> None:
    """Feed restic; end it where the dump is not whole, before it can see an end of its input."""
    try:
        await dump.relay(feed)
    finally:
        if not dump.is_whole:
            bench.restic.end()
            await feed.flood()


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
    if result is None or (result.snapshot_id is None and not result.dry_run):
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
        message=(
            f"restic could not read everything ({render_count(result.unreadable, 'item')}); see "
            "the log"
        ),
    )


def _describe(result: BackupResult) -> str:
    what = "dry run, no snapshot" if result.dry_run else f"snapshot {result.snapshot_id}"
    return (
        f"{what}: {render_count(result.total_files_processed, 'file')},"
        f" {render_count(result.total_bytes_processed, 'byte')}; {result.files_new} new,"
        f" {result.files_changed} changed, {result.unreadable} unreadable"
    )
