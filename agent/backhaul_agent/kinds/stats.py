"""Measure the repository, and the newest snapshot that this host has in it."""

from __future__ import annotations

import msgspec

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import JobKind, StatsArguments, StatsResult
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.choice import LATEST, find
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.restic import stats


async def work(bench: Bench, _: StatsArguments) -> Ending:
    done, lines = await bench.run(stats.build_size_arguments(), kind=JobKind.STATS)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    figures = stats.read_figures(lines)
    if figures is None:
        return build_failure("restic printed no figures", exit_code=done.code)
    result = StatsResult(
        total_size=figures.total_size,
        snapshots_count=figures.snapshots,
        blobs_count=figures.blobs,
        uncompressed_size=figures.uncompressed_size,
    )
    newest = await _measure_newest(bench)
    if newest is not None:
        result = msgspec.structs.replace(
            result, restore_size=newest.total_size, restore_files=newest.files
        )
    size = render_count(result.total_size, "byte")
    bench.log.write("agent", f"{size} in {render_count(result.snapshots_count, 'snapshot')}")
    return build_ending(done, result)


async def _measure_newest(bench: Bench) -> stats.Figures | None:
    """Measure one snapshot, for what all of them would restore to says little and takes hours.

    None when this host has no snapshot there, or restic could not tell: the log says why.
    """
    newest = await find(bench, LATEST, host=bench.host)
    if newest is None or isinstance(newest, Ending):
        return None
    _, lines = await bench.run(stats.build_restore_arguments(newest.id), kind=JobKind.STATS)
    return stats.read_figures(lines)
