"""Which snapshot a job works on: the one that is named, or the newest of a host."""

from __future__ import annotations

from collections.abc import Sequence

from backhaul.wire.honesty import TOLERANCE
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.snapshots import ReportedSnapshot
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.listing import list_snapshots

LATEST = "latest"


async def choose_latest(
    bench: Bench, *, of_host: str | None, tag: str | None = None
) -> ReportedSnapshot | Ending:
    """Look the newest snapshot of a host up, this one unless another is named; or say why not.

    Another host's, or one dated ahead by whoever writes there, is not what anybody means by it.

    Raises:
        RunEndedError, ResticMissingError, ResticStartError
    """
    host = of_host or bench.host
    found = await find(bench, LATEST, host=host, tag=tag)
    if found is None:
        kind = "snapshot" if tag is None else f"snapshot with the tag {tag}"
        return build_failure(
            f"the repository has no {kind} of {host}; name one by its id",
            failure_class=FailureClass.SNAPSHOT_MISSING,
        )
    return found


async def find(
    bench: Bench, snapshot_id: str, *, host: str | None = None, tag: str | None = None
) -> ReportedSnapshot | Ending | None:
    """Look a snapshot up; None when the repository has no such one.

    `latest` is the newest whose time is not in the future: a time that is cannot be true.

    Raises:
        RunEndedError, ResticMissingError, ResticStartError
    """
    found = await _list(bench, snapshot_id, host=host, tag=tag)
    if isinstance(found, Ending):
        return found
    if snapshot_id == LATEST and not all(_can_be_true(one, bench) for one in found):
        # restic names only the newest: what came before that is in the whole list.
        found = await _list(bench, None, host=host, tag=tag)
        if isinstance(found, Ending):
            return found
        found = [one for one in found if _can_be_true(one, bench)]
    return max(found, key=lambda one: one.time, default=None)


async def _list(
    bench: Bench, snapshot_id: str | None, *, host: str | None, tag: str | None
) -> Sequence[ReportedSnapshot] | Ending:
    done, found = await list_snapshots(bench, snapshot_id, host=host, tag=tag)
    if done.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(done, None)
    return [] if found is None else found.snapshots


def _can_be_true(one: ReportedSnapshot, bench: Bench) -> bool:
    return one.time <= bench.clock.now() + TOLERANCE
