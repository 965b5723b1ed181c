"""A job that runs is cancelled by its operator: restic ends, and leaves no lock behind."""

from __future__ import annotations

import time

import pytest

from backhaul.errors import ConflictError
from backhaul.objects.fleet import Fleet
from backhaul.wire.jobs import JobState
from tools.local_fleet import HOST, LocalFleet

LIMIT_S = 60.0


def test_cancelled_backup_ends_and_leaves_no_lock(fleet: LocalFleet) -> None:
    objects = Fleet(fleet.client)
    # Large enough to be still under way when the cancel comes.
    job = objects.hosts[HOST].backup(["/usr"])
    for seen in job.follow(LIMIT_S):
        if seen.state is JobState.RUNNING and fleet.restic("list", "locks").strip():
            break

    asked_at = time.monotonic()
    fleet.run_cli("jobs", "cancel", str(job.id))
    requested = job.refresh().cancel_requested_at
    job.wait(LIMIT_S)
    took_s = time.monotonic() - asked_at

    assert requested is not None
    assert job.state is JobState.CANCELLED
    assert job.message == "cancelled by an operator"
    assert took_s < LIMIT_S
    assert fleet.restic("list", "locks").strip() == ""
    assert [one.id for one in objects.snapshots if one.job_id == job.id] == []
    # The host is free for the next one, and the one that is over stays as it is.
    again = objects.hosts[HOST].backup(["/etc/hostname"]).wait(LIMIT_S)
    assert again.state is JobState.SUCCEEDED
    with pytest.raises(ConflictError, match="nothing to cancel"):
        job.cancel()
