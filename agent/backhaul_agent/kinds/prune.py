"""Delete the data that no snapshot refers to."""

from __future__ import annotations

from backhaul.wire.kinds import JobKind, PruneArguments, PruneResult
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending
from backhaul_agent.restic import prune


async def work(bench: Bench, _: PruneArguments) -> Ending:
    return await bench.run_text(prune.build_arguments(), JobKind.PRUNE, PruneResult())
