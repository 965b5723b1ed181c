"""Listing the snapshots of a repository, and telling the server of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from backhaul.wire.kinds import JobKind
from backhaul.wire.snapshots import ReportedSnapshot, SnapshotsReport
from backhaul_agent.bench import Bench, Second
from backhaul_agent.errors import AgentError, DiskFullError
from backhaul_agent.restic import snapshots
from backhaul_agent.restic_runner import Exit, RunEndedError

MAX_REPORT_BYTES = 400 * 1024
"""Of snapshots in one envelope; a batch holds two of them."""


async def list_snapshots(
    bench: Bench,
    snapshot_id: str | None = None,
    *,
    host: str | None = None,
    tag: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Exit, snapshots.SnapshotList | None]:
    """List all snapshots, or one; None when restic printed no list. `environment` names another
    repository than that of the job.

    Raises:
        RunEndedError, ResticMissingError, ResticStartError
    """
    done, lines = await bench.run(
        snapshots.build_arguments(snapshot_id, host=host, tag=tag),
        kind=JobKind.SNAPSHOTS,
        environment=environment,
    )
    return done, snapshots.read_snapshots(lines, done.stderr)


async def report_what_is_there(bench: Bench, place: Second | None = None) -> None:
    """List the repository that a job has changed, its own unless a second one is named, so that
    everybody is shown what it holds now."""
    try:
        _, found = await list_snapshots(bench, environment=place.environment if place else None)
    except (RunEndedError, AgentError):
        found = None
    if found is None:
        bench.log.write("agent", "the snapshots that are there now were not listed")
        return
    report_if_possible(bench, found, is_complete=found.is_whole, place=place)


def report_if_possible(
    bench: Bench,
    found: snapshots.SnapshotList,
    *,
    is_complete: bool,
    place: Second | None = None,
) -> None:
    """Report what a job has changed; that stands, whatever becomes of the report."""
    try:
        report(bench, found.snapshots, is_complete=is_complete, place=place)
    except DiskFullError as error:
        bench.log.write("agent", f"the list of snapshots was not kept: {error}")


def report(
    bench: Bench,
    found: Sequence[ReportedSnapshot],
    *,
    is_complete: bool,
    place: Second | None = None,
) -> None:
    """Report snapshots; `is_complete` says that the repository holds no others.

    Raises:
        DiskFullError: the report cannot be kept.
    """
    credentials = bench.credentials if place is None else place.credentials
    parts = list(_split(found)) or [()]
    for number, part in enumerate(parts, start=1):
        told = SnapshotsReport(
            repository_id=credentials.repository_id,
            job_id=bench.job_id,
            snapshots=part,
            is_complete=is_complete and number == len(parts),
        )
        bench.spool.put(told, job_id=bench.job_id)


def _split(found: Sequence[ReportedSnapshot]) -> Iterator[tuple[ReportedSnapshot, ...]]:
    part: list[ReportedSnapshot] = []
    size = 0
    for snapshot in found:
        size_of_one = len(msgspec.json.encode(snapshot)) + 1
        if part and size + size_of_one > MAX_REPORT_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(snapshot)
        size += size_of_one
    if part:
        yield tuple(part)
