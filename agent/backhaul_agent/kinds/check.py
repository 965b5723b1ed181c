"""Look for errors in the repository."""

from __future__ import annotations

from backhaul.wire.kinds import CheckArguments, CheckResult, JobKind
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending
from backhaul_agent.restic import check


async def work(bench: Bench, arguments: CheckArguments) -> Ending:
    result = CheckResult(read_data_subset=arguments.read_data_subset)
    return await bench.run_text(check.build_arguments(arguments), JobKind.CHECK, result)
