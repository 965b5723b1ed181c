"""Restore a snapshot into a folder."""

from __future__ import annotations

import asyncio

import msgspec

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import JobKind, RestoreArguments
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending, build_failure, build_refusal
from backhaul_agent.listing import list_snapshots
from backhaul_agent.restic import restore


async def work(bench: Bench, arguments: RestoreArguments) -> Ending:
    snapshot_id = arguments.snapshot
    if snapshot_id == "latest":
        # Named once, so that what is restored is what the result says.
        # This host's own: another host's, or one dated ahead by whoever writes there, is not
        # what anybody means.
        done, found = await list_snapshots(bench, snapshot_id, host=bench.host)
        if done.verdict.outcome is not Outcome.SUCCEEDED:
            return build_ending(done, None)
        if found is None or not found.snapshots:
            return build_failure(
                f"the repository has no snapshot of {bench.host} to restore; name one by its id",
                exit_code=done.code,
            )
        snapshot_id = max(found.snapshots, key=lambda one: one.time).id
    refusal = await asyncio.to_thread(bench.policy.prepare_target, arguments.target)
    if refusal is not None:
        return build_refusal(refusal)
    done = await bench.restic.run(
        restore.build_arguments(arguments, snapshot_id=snapshot_id),
        kind=JobKind.RESTORE,
        on_stdout=lambda line: bench.take_status(line, []),
    )
    bench.progress.flush()
    result = await asyncio.to_thread(
        restore.count_restored, arguments.target, snapshot_id=snapshot_id
    )
    bench.log.write(
        "agent", f"{result.files_restored} files, {result.bytes_restored} bytes in {result.target}"
    )
    ending = build_ending(done, result)
    if arguments.include and not result.files_restored and ending.result is not None:
        # restic says nothing of it, and an operator would believe that the files are there.
        return msgspec.structs.replace(
            ending,
            outcome=Outcome.FAILED,
            message="no file of the snapshot matches the include patterns",
        )
    return ending
