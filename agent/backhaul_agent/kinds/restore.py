"""Restore a snapshot into a folder, or put files back to where they were."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import JobKind, RestoreArguments, RestoreResult
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.choice import LATEST, choose_latest
from backhaul_agent.ending import Ending, build_ending, build_failure, build_refusal
from backhaul_agent.in_place import InPlaceRules, Survey, list_above
from backhaul_agent.restic import ls, restore
from backhaul_agent.restic.exit_codes import classify_words
from backhaul_agent.restic_runner import Exit

_NOTHING_MATCHES = "no file of the snapshot matches the patterns"


async def work(bench: Bench, arguments: RestoreArguments) -> Ending:
    snapshot_id = arguments.snapshot
    if snapshot_id == LATEST:
        # Named once, so that what is restored is what the result says.
        found = await choose_latest(bench, of_host=arguments.of_host, tag=arguments.tag)
        if isinstance(found, Ending):
            return found
        snapshot_id = found.id
    if arguments.in_place:
        return await _put_back(bench, arguments, snapshot_id)
    return await _restore_into_folder(bench, arguments, snapshot_id)


async def _restore_into_folder(
    bench: Bench, arguments: RestoreArguments, snapshot_id: str
) -> Ending:
    refusal = await asyncio.to_thread(bench.policy.prepare_target, arguments.target)
    if refusal is not None:
        return build_refusal(refusal)
    done = await _run_restore(bench, arguments, snapshot_id)
    result = await asyncio.to_thread(
        restore.count_restored, arguments.target, snapshot_id=snapshot_id
    )
    _log_result(bench, result)
    ending = build_ending(done, result)
    has_patterns = arguments.include or arguments.exclude
    if has_patterns and not result.files_restored and ending.outcome is Outcome.SUCCEEDED:
        # restic says nothing of it, and an operator would believe that the files are there.
        return msgspec.structs.replace(ending, outcome=Outcome.FAILED, message=_NOTHING_MATCHES)
    return ending


async def _put_back(bench: Bench, arguments: RestoreArguments, snapshot_id: str) -> Ending:
    """Look at everything that restic would touch before it may touch any of it."""
    rules = bench.policy.in_place
    survey = await _survey(bench, arguments, snapshot_id, rules)
    if isinstance(survey, Ending):
        return survey
    done = await _run_restore(bench, arguments, snapshot_id)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        # How much of it is there now, restic does not say in every version.
        return build_ending(done, None)
    # restic's own figures, since 0.16, count folders, too.
    result = RestoreResult(
        snapshot_id=snapshot_id,
        target=arguments.target,
        files_restored=survey.files,
        bytes_restored=survey.bytes,
    )
    _log_result(bench, result, is_in_place=True)
    return build_ending(done, result)


async def _survey(
    bench: Bench, arguments: RestoreArguments, snapshot_id: str, rules: InPlaceRules
) -> Survey | Ending:
    survey = Survey(rules)
    reader = ls.NodeReader(survey.take)
    failure = await _list(bench, reader, snapshot_id, arguments.include, is_recursive=True)
    if failure is not None:
        return failure
    refusal = survey.refusal
    above = list_above(arguments.include, rules)
    if refusal is None and above:
        refusals: list[str | None] = []
        wanted = frozenset(above)
        reader = ls.NodeReader(
            lambda entry: (
                refusals.append(rules.above_refusal(entry)) if entry.path in wanted else None
            )
        )
        failure = await _list(bench, reader, snapshot_id, above, is_recursive=False)
        if failure is not None:
            return failure
        refusal = next((one for one in refusals if one is not None), None)
    if refusal is not None:
        return build_refusal(f"nothing was restored: {refusal}")
    return build_failure(_NOTHING_MATCHES) if survey.is_empty else survey


async def _list(
    bench: Bench,
    reader: ls.NodeReader,
    snapshot_id: str,
    paths: Sequence[str],
    *,
    is_recursive: bool,
) -> Ending | None:
    """Read paths of the snapshot; gives the ending when that failed."""
    done = await bench.restic.run(
        ls.build_paths_arguments(snapshot_id, paths, is_recursive=is_recursive),
        kind=JobKind.RESTORE,
        on_stdout=reader.read,
    )
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    if not reader.has_snapshot:
        return build_failure(
            done.message or "restic listed no snapshot",
            exit_code=done.code,
            failure_class=classify_words(done.stderr),
        )
    return None


async def _run_restore(bench: Bench, arguments: RestoreArguments, snapshot_id: str) -> Exit:
    done = await bench.restic.run(
        restore.build_arguments(arguments, snapshot_id=snapshot_id),
        kind=JobKind.RESTORE,
        on_stdout=lambda line: bench.take_status(line, []),
    )
    bench.progress.flush()
    return done


def _log_result(bench: Bench, result: RestoreResult, *, is_in_place: bool = False) -> None:
    where = "put back" if is_in_place else f"in {result.target}"
    files = render_count(result.files_restored, "file")
    bench.log.write("agent", f"{files}, {render_count(result.bytes_restored, 'byte')} {where}")
