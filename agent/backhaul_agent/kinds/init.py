"""Create the repository."""

from __future__ import annotations

from backhaul.wire.kinds import InitArguments, JobKind
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending
from backhaul_agent.restic import init


async def work(bench: Bench, _: InitArguments) -> Ending:
    done, lines = await bench.run(init.build_arguments(), kind=JobKind.INIT)
    for line in lines:
        bench.write_stdout(line)
    return build_ending(done, init.read_result(lines))
