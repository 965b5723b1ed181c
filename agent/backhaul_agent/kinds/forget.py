"""Remove what no keep rule keeps, after a dry run has shown that something is kept."""

from __future__ import annotations

from collections.abc import Sequence

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import ForgetArguments, ForgetResult, JobKind
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.listing import report_what_is_left
from backhaul_agent.restic import forget
from backhaul_agent.restic_runner import Exit


async def work(bench: Bench, arguments: ForgetArguments) -> Ending:
    ending = await _forget(bench, arguments)
    if isinstance(ending.result, ForgetResult) and ending.result.removed:
        bench.keep(ending)
        await report_what_is_left(bench)
    return ending


async def _forget(bench: Bench, arguments: ForgetArguments) -> Ending:
    """Two processes: what the second removes is what the first one named, or newer."""
    fault = forget.find_fault(arguments)
    if fault is not None:
        return build_failure(fault)
    done, groups = await _ask(bench, arguments, is_dry_run=True)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    if groups is None:
        return build_failure("restic printed no groups of snapshots, so nothing was removed")
    danger = forget.find_danger(groups)
    if danger is not None:
        return build_failure(danger, exit_code=done.code)
    if not any(group.removed for group in groups):
        bench.log.write("agent", "every snapshot is kept")
        return build_ending(done, forget.build_result(groups))
    done, groups = await _ask(bench, arguments, is_dry_run=False)
    return _judge(bench, done, groups)


async def _ask(
    bench: Bench, arguments: ForgetArguments, *, is_dry_run: bool
) -> tuple[Exit, list[forget.Group] | None]:
    done, lines = await bench.run(
        forget.build_arguments(arguments, is_dry_run=is_dry_run), kind=JobKind.FORGET
    )
    return done, forget.read_groups(lines)


def _judge(bench: Bench, done: Exit, groups: Sequence[forget.Group] | None) -> Ending:
    refusal = forget.find_refusal(done.stderr)
    if refusal is not None:
        return build_failure(refusal, exit_code=done.code)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    if groups is None:
        return build_failure("restic printed no groups of snapshots", exit_code=done.code)
    result = forget.build_result(groups)
    bench.log.write("agent", f"{result.kept} snapshots kept, {result.removed} removed")
    for snapshot in result.removed_snapshots:
        bench.log.write("agent", f"removed {snapshot}")
    return build_ending(done, result)
