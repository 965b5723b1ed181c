"""`diff`: of two snapshots of the repository."""

from __future__ import annotations

from backhaul.wire.kinds import DiffArguments, DiffRequest
from backhaul_api.jobs.targets import refuse_ambiguous_snapshot
from backhaul_api.kinds.order import Order


async def plan(order: Order, request: DiffRequest) -> DiffArguments:
    await refuse_ambiguous_snapshot(order.connection, order.repository, request.snapshot)
    await refuse_ambiguous_snapshot(
        order.connection, order.repository, request.other, field="other"
    )
    return DiffArguments(snapshot=request.snapshot, other=request.other)
