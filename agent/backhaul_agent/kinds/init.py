"""Create the repository, once restic has said for certain that there is none."""

from __future__ import annotations

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import InitArguments, JobKind
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending
from backhaul_agent.restic import init


async def work(bench: Bench, arguments: InitArguments) -> Ending:
    environment: dict[str, str] = {}
    if arguments.chunker_of_id is not None:
        second = bench.require_second(arguments.chunker_of_id)
        environment = init.build_environment(second.credentials)
    errors: list[str] = []
    asked, found = await bench.run(
        init.build_question(), kind=JobKind.INIT, on_stderr=errors.append
    )
    if asked.verdict.outcome is Outcome.SUCCEEDED or found:
        return Ending(
            outcome=Outcome.FAILED,
            failure_class=FailureClass.REPOSITORY_EXISTS,
            message="There is a repository already: `backhaul repositories adopt` takes it over.",
        )
    if not init.is_certainly_absent(asked.verdict.failure_class, errors):
        for line in errors:
            bench.log.write("stderr", line)
        bench.log.write("agent", "it is not certain that there is no repository: none was created")
        return build_ending(asked, None)
    bench.log.write("agent", "there is no repository yet")
    done, lines = await bench.run(
        init.build_arguments(arguments), kind=JobKind.INIT, environment=environment
    )
    for line in lines:
        bench.write_stdout(line)
    return build_ending(done, init.read_result(lines))
