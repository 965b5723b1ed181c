"""Make the repository open to its new password, or not to its old one any more.

Either may be done again after any interruption. The old one goes only when the new one was tried.
"""

from __future__ import annotations

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import JobKind, PasswdArguments, PasswdResult, PasswdStep
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.restic import key
from backhaul_agent.restic_runner import Exit
from backhaul_agent.secret_file import hold_secret

MAX_KEYS = 20
"""Of one password: each attempt that died at the wrong moment has left one."""


async def work(bench: Bench, arguments: PasswdArguments) -> Ending:
    new, old = bench.credentials.new_password, bench.credentials.old_password
    if arguments.step is PasswdStep.ADD and new is not None:
        return await _add(bench, new)
    if arguments.step is PasswdStep.REMOVE and new is not None and old is not None and new != old:
        return await _remove(bench, new=new, old=old)
    return build_failure("the job came without the passwords that it is about")


async def _add(bench: Bench, new: str) -> Ending:
    result = PasswdResult(step=PasswdStep.ADD)
    tried = await _try(bench, new)
    if _works(tried):
        bench.log.write("agent", "the new password opens the repository already")
        return build_ending(tried, result)
    if tried.verdict.failure_class is not FailureClass.WRONG_PASSWORD:
        return build_ending(tried, None)
    with hold_secret(new) as file:
        done, lines = await bench.run(key.build_add_arguments(file), kind=JobKind.PASSWD)
    for line in lines:
        bench.write_stdout(line)
    if not _works(done):
        return build_ending(done, None)
    tried = await _try(bench, new)
    if _works(tried):
        bench.log.write("agent", "the new password opens the repository")
    return build_ending(tried, PasswdResult(step=PasswdStep.ADD, keys_added=1))


async def _remove(bench: Bench, *, new: str, old: str) -> Ending:
    tried = await _try(bench, new)
    if not _works(tried):
        bench.log.write("agent", "the new password does not open the repository: no key is removed")
        return build_ending(tried, None)
    for removed in range(MAX_KEYS):
        done, lines = await _run(bench, key.build_list_arguments(), password=old)
        if done.verdict.failure_class is FailureClass.WRONG_PASSWORD:
            bench.log.write("agent", f"removed {render_count(removed, 'key')} of the old password")
            return build_ending(tried, PasswdResult(step=PasswdStep.REMOVE, keys_removed=removed))
        if not _works(done):
            return build_ending(done, None)
        current = key.read_current(lines)
        if current is None:
            return build_failure("restic did not tell which key the old password opens")
        done, lines = await _run(bench, key.build_remove_arguments(current), password=new)
        if not _works(done):
            return build_ending(done, None)
    return build_failure(f"the old password opens more than {MAX_KEYS} keys; run the job again")


async def _try(bench: Bench, password: str) -> Exit:
    done, _ = await _run(bench, key.build_try_arguments(), password=password)
    return done


async def _run(bench: Bench, arguments: list[str], *, password: str) -> tuple[Exit, list[str]]:
    return await bench.run(
        arguments, kind=JobKind.PASSWD, environment={"RESTIC_PASSWORD": password}
    )


def _works(done: Exit) -> bool:
    return done.verdict.outcome is Outcome.SUCCEEDED
