"""List every snapshot of the repository, and report the list."""

from __future__ import annotations

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import SnapshotsArguments, SnapshotsResult
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.listing import list_snapshots, report


async def work(bench: Bench, _: SnapshotsArguments) -> Ending:
    done, found = await list_snapshots(bench)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    if found is None:
        return build_failure("restic printed no list of snapshots", exit_code=done.code)
    report(bench, found.snapshots, is_complete=found.is_whole)
    count = len(found.snapshots)
    bench.log.write("agent", f"the repository holds {render_count(count, 'snapshot')}")
    return build_ending(done, SnapshotsResult(snapshots_count=count))
