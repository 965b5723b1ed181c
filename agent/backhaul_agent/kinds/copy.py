"""Copy snapshots to a second repository, and tell what that holds then."""

from __future__ import annotations

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import CopyArguments, JobKind
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.listing import report_what_is_there
from backhaul_agent.restic import copy
from backhaul_agent.restic.exit_codes import classify_words


async def work(bench: Bench, arguments: CopyArguments) -> Ending:
    second = bench.require_second(arguments.destination_id)
    told: list[str] = []

    def take(line: str) -> None:
        if copy.tells(line):
            told.append(line)
        bench.take_text(line)

    done = await bench.restic.run(
        copy.build_arguments(arguments),
        kind=JobKind.COPY,
        on_stdout=take,
        environment=copy.build_environment(bench.credentials, second.environment),
    )
    bench.progress.flush()
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    if missing := copy.find_ignored(done.stderr):
        return build_failure(
            f"the repository has no snapshot {', '.join(missing)}; the others were copied",
            exit_code=done.code,
            failure_class=classify_words(done.stderr),
        )
    result = copy.read_result(told)
    bench.log.write(
        "agent", f"{render_count(result.copied, 'snapshot')} copied, {result.skipped} there already"
    )
    ending = build_ending(done, result)
    bench.keep(ending)
    await report_what_is_there(bench, second)
    return ending
