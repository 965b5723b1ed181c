"""Tell what differs between two snapshots."""

from __future__ import annotations

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import DiffArguments, DiffResult, JobKind
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.restic import diff


async def work(bench: Bench, arguments: DiffArguments) -> Ending:
    reader = diff.DiffReader()
    done = await bench.restic.run(
        diff.build_arguments(arguments), kind=JobKind.DIFF, on_stdout=reader.read
    )
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    result = reader.build_result(arguments)
    if result is None:
        return build_failure("restic printed no statistics", exit_code=done.code)
    bench.log.write("agent", _describe(result))
    return build_ending(done, result)


def _describe(result: DiffResult) -> str:
    return (
        f"{render_count(result.added.files, 'file')} added, {result.removed.files} removed,"
        f" {result.changed_files} changed"
    )
