"""`init`: refused for a repository that is known to exist."""

from __future__ import annotations

from backhaul.wire.kinds import InitArguments, InitRequest
from backhaul_api.jobs.targets import refuse_second_init
from backhaul_api.kinds.order import Order


async def plan(order: Order, _: InitRequest) -> InitArguments:
    await refuse_second_init(order.connection, order.repository)
    return InitArguments()
