"""`stats`: takes nothing."""

from __future__ import annotations

from backhaul.wire.kinds import StatsArguments, StatsRequest
from backhaul_api.kinds.order import Fired, Order


async def plan(_: Order, __: StatsRequest) -> StatsArguments:
    return StatsArguments()


async def plan_fired(_: Fired) -> StatsArguments:
    return StatsArguments()
