"""Remove what no keep rule keeps, after a dry run has shown that something is kept.

What the server does not know to be honest is set aside before the rules are applied.
"""

from __future__ import annotations

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import ForgetArguments, JobKind
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.ending import APPEND_ONLY, Ending, build_ending, build_failure, build_refusal
from backhaul_agent.listing import report_what_is_there
from backhaul_agent.restic import forget
from backhaul_agent.restic.exit_codes import are_deletes_refused
from backhaul_agent.restic.keep_rules import does_keep_oldest
from backhaul_agent.restic_runner import Exit
from backhaul_agent.setting_aside import (
    MAX_NAMED,
    MAX_NAMED_ASIDE,
    Plan,
    build_plan,
    build_result,
    describe,
    describe_aside,
)


async def work(bench: Bench, arguments: ForgetArguments) -> Ending:
    fault = forget.find_fault(arguments)
    if fault is not None:
        return build_refusal(fault)
    done, lines = await bench.run(forget.build_dry_run(arguments), kind=JobKind.FORGET)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    groups = forget.read_groups(lines)
    if groups is None:
        return build_failure("restic printed no groups of snapshots, so nothing was removed")
    plan = build_plan(groups, arguments.guard, keeps_oldest=does_keep_oldest(bench.version))
    _log_aside(bench, plan)
    danger = forget.find_danger(plan.groups)
    if danger is not None:
        return build_refusal(danger, exit_code=done.code)
    if arguments.dry_run:
        return _tell(bench, done, plan)
    if not plan.removals:
        bench.log.write("agent", "every snapshot is kept")
        return _build_success(done, plan)
    return await _remove(bench, plan)


async def _remove(bench: Bench, plan: Plan) -> Ending:
    """Remove by ids: what restic was asked before cannot have changed meanwhile."""
    is_some_gone = False
    for line in forget.build_removals([one.id for one in plan.removals]):
        done, _ = await bench.run(line, kind=JobKind.FORGET)
        failure = _find_failure(done)
        if failure is not None:
            if is_some_gone:
                await report_what_is_there(bench)
            return failure
        is_some_gone = True
    ending = _build_success(done, plan)
    bench.log.write(
        "agent", f"{render_count(plan.kept, 'snapshot')} kept, {len(plan.removals)} removed"
    )
    for one in plan.removals[:MAX_NAMED]:
        bench.log.write("agent", f"removed {describe(one)}")
    bench.keep(ending)
    await report_what_is_there(bench)
    return ending


def _find_failure(done: Exit) -> Ending | None:
    """Say why snapshots stayed that should go; restic 0.18 exits with 0 even then."""
    ending = build_ending(done, None)
    message = forget.find_refusal(done.stderr)
    if message is None:
        return None if ending.outcome is Outcome.SUCCEEDED else ending
    if are_deletes_refused(done.stderr):
        return build_refusal(f"{message}\n{APPEND_ONLY}", exit_code=done.code)
    return build_failure(message, exit_code=done.code)


def _tell(bench: Bench, done: Exit, plan: Plan) -> Ending:
    """Tell what would go."""
    count = len(plan.removals)
    bench.log.write(
        "agent", f"dry run: {render_count(plan.kept, 'snapshot')} would be kept, {count} removed"
    )
    for one in plan.removals[:MAX_NAMED]:
        bench.log.write("agent", f"would remove {describe(one)}")
    return _build_success(done, plan, is_dry_run=True)


def _log_aside(bench: Bench, plan: Plan) -> None:
    for one, doubt in plan.aside[:MAX_NAMED_ASIDE]:
        bench.log.write("agent", f"set aside {describe(one)}: {doubt}")
    if len(plan.aside) > MAX_NAMED_ASIDE:
        bench.log.write("agent", f"… and {len(plan.aside) - MAX_NAMED_ASIDE} more set aside")


def _build_success(done: Exit, plan: Plan, *, is_dry_run: bool = False) -> Ending:
    return Ending(
        outcome=Outcome.SUCCEEDED,
        exit_code=done.code,
        message=describe_aside(plan),
        result=build_result(plan, is_dry_run=is_dry_run),
    )
