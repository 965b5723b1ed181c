"""`prune`: takes nothing."""

from __future__ import annotations

from backhaul.wire.kinds import PruneArguments, PruneRequest
from backhaul_api.kinds.order import Fired, Order


async def plan(_: Order, __: PruneRequest) -> PruneArguments:
    return PruneArguments()


async def plan_fired(_: Fired) -> PruneArguments:
    return PruneArguments()
