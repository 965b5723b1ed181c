"""What each kind of job is made of: from what is asked to what an agent is told.

Each module has `plan`, for what an operator asks, and `plan_fired` where a schedule can fire the
kind. A kind is added by a module here and a line in each table. `complete` adds what an agent has
to know of the moment in which it is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds import (
    Arguments,
    BackupRequest,
    CheckRequest,
    CopyRequest,
    DiffRequest,
    DrillRequest,
    ForgetRequest,
    InitRequest,
    JobKind,
    JobRequest,
    PruneRequest,
    RestoreRequest,
    SnapshotsRequest,
    StatsRequest,
    UnlockRequest,
)
from backhaul.wire.schedules import ScheduleKind
from backhaul_api.kinds import (
    backup,
    check,
    copy,
    diff,
    drill,
    forget,
    init,
    prune,
    restore,
    snapshots,
    stats,
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
    CopyRequest: copy.plan,
    StatsRequest: stats.plan,
    DrillRequest: drill.plan,
    DiffRequest: diff.plan,
}

_FIRED: Mapping[ScheduleKind, Callable[[Fired], Awaitable[Arguments]]] = {
    ScheduleKind.BACKUP: backup.plan_fired,
    ScheduleKind.FORGET: forget.plan_fired,
    ScheduleKind.PRUNE: prune.plan_fired,
    ScheduleKind.CHECK: check.plan_fired,
    ScheduleKind.COPY: copy.plan_fired,
    ScheduleKind.STATS: stats.plan_fired,
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


async def complete(
    connection: AsyncConnection,
    kind: str,
    repository_id: UUID,
    arguments: Any,
    *,
    now: datetime,
) -> Any:
    """Complete a job's arguments, as its row has them, with what holds when it is handed out."""
    if kind == JobKind.FORGET:
        return await forget.complete(connection, repository_id, arguments, now=now)
    return arguments
