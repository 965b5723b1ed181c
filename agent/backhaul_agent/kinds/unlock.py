"""Remove stale locks, then count what is left: restic's own words do not tell."""

from __future__ import annotations

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import JobKind, UnlockArguments, UnlockResult
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending
from backhaul_agent.restic import unlock


async def work(bench: Bench, arguments: UnlockArguments) -> Ending:
    ending = await bench.run_text(unlock.build_arguments(arguments), JobKind.UNLOCK, None)
    if ending.outcome is not Outcome.SUCCEEDED:
        return ending
    done, lines = await bench.run(unlock.build_list_arguments(), kind=JobKind.UNLOCK)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    left = len(unlock.list_locks(lines))
    if left:
        bench.log.write(
            "agent", f"{render_count(left, 'lock')} left, perhaps of processes that live"
        )
    return build_ending(done, UnlockResult(locks_left=left))
