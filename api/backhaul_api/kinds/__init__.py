"""What each kind of job is made of: from what is asked to what an agent is told.

Each module has `plan`, for what an operator asks, and `plan_fired` where a schedule can fire the
kind. A kind is added by a module here and a line in each table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from backhaul.wire.kinds import (
    Arguments,
    BackupRequest,
    CheckRequest,
    DiffRequest,
    DrillRequest,
    ForgetRequest,
    InitRequest,
    JobRequest,
    PruneRequest,
    RestoreRequest,
    SnapshotsRequest,
    UnlockRequest,
)
from backhaul.wire.schedules import ScheduleKind
from backhaul_api.kinds import (
    backup,
    check,
    diff,
    drill,
    forget,
    init,
    prune,
    restore,
    snapshots,
    unlock,
)
from backhaul_api.kinds.order import Fired, Order

_PLANS: Mapping[type[JobRequest], Callable[[Order, Any], Awaitable[Arguments]]] = {
    InitRequest: init.plan,
    BackupRequest: backup.plan,
    SnapshotsRequest: snapshots.plan,
    RestoreRequest: restore.plan,
    ForgetRequest: forget.plan,
    PruneRequest: prune.plan,
    CheckRequest: check.plan,
    UnlockRequest: unlock.plan,
    DrillRequest: drill.plan,
    DiffRequest: diff.plan,
}

_FIRED: Mapping[ScheduleKind, Callable[[Fired], Awaitable[Arguments]]] = {
    ScheduleKind.BACKUP: backup.plan_fired,
    ScheduleKind.FORGET: forget.plan_fired,
    ScheduleKind.PRUNE: prune.plan_fired,
    ScheduleKind.CHECK: check.plan_fired,
    ScheduleKind.DRILL: drill.plan_fired,
}


async def plan(order: Order, request: JobRequest) -> Arguments:
    """Plan what the agent is told to do for an operator.

    Raises:
        InvalidError: a field is not acceptable, alone or beside another.
        ConflictError: it cannot be done to this repository now.
    """
    return await _PLANS[type(request)](order, request)


async def plan_fired(fired: Fired, kind: ScheduleKind) -> Arguments:
    """Plan what the agent is told to do for a schedule.

    Raises:
        InvalidError: the source is missing, or has no keep rule for a forget.
    """
    return await _FIRED[kind](fired)
