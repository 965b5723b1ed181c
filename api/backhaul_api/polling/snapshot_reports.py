"""`snapshots.report`: what restic says is in a repository."""

from __future__ import annotations

import re
from datetime import datetime

from backhaul.wire.agents import Receipt
from backhaul.wire.jobs import TERMINAL_STATES, Job, JobState
from backhaul.wire.problems import FieldError
from backhaul.wire.snapshots import SnapshotsReport
from backhaul_api.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
)
from backhaul_api.jobs import store as jobs
from backhaul_api.polling.arrival import DUPLICATE, OK, Arrival
from backhaul_api.snapshots import store
from backhaul_api.snapshots.copies import vouch_for_copies

_SNAPSHOT_ID = re.compile(r"[0-9a-f]{64}")


async def apply_snapshots(arrival: Arrival, report: SnapshotsReport) -> Receipt:
    """Store the snapshots; with a complete report, forget those that were not in it.

    Raises:
        NotFoundError: the job is not one of this host, or neither on this repository nor a copy to
            it.
        ConflictError: the job has not begun.
        InvalidError: an id is not one of restic's.
    """
    job = await jobs.fetch_of_host(arrival.connection, report.job_id, arrival.host_id)
    if report.repository_id not in {job.repository_id, job.destination_id}:
        raise NotFoundError("repository of that job", report.repository_id)
    if job.state in TERMINAL_STATES and job.state is not JobState.LOST:
        # The report comes before the job's end, so this one repeats; newer ones may have followed.
        return DUPLICATE
    _check_ids(report)
    accepted_at = _require_accepted(job)
    # Not before the acceptance, which another instance's clock may have stamped: what this job has
    # named must outlive its own complete report.
    reported_at = max(arrival.now, accepted_at)
    await store.save(
        arrival.connection, job, report.repository_id, report.snapshots, reported_at=reported_at
    )
    if any(snapshot.original for snapshot in report.snapshots):
        await vouch_for_copies(arrival.connection, report.repository_id, now=arrival.now)
    if report.is_complete:
        await store.delete_unseen(arrival.connection, report.repository_id, since=accepted_at)
    arrival.topics.add(job.id)
    return OK


def _require_accepted(job: Job) -> datetime:
    if job.accepted_at is None:
        raise ConflictError(f"Job {job.id} is {job.state}: it cannot have seen snapshots.")
    return job.accepted_at


def _check_ids(report: SnapshotsReport) -> None:
    errors = [
        FieldError(field=f"snapshots[{index}].id", message="must be 64 hex digits")
        for index, snapshot in enumerate(report.snapshots)
        if _SNAPSHOT_ID.fullmatch(snapshot.id) is None
    ]
    if errors:
        raise InvalidError(*errors)
