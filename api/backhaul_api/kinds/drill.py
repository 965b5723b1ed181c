"""`drill`: of a random sample of one snapshot, recent unless it is named."""

from __future__ import annotations

from backhaul.wire.kinds import DrillArguments, DrillOptions, DrillRequest
from backhaul_api.kinds import latest
from backhaul_api.kinds.order import Fired, Order


async def plan(order: Order, request: DrillRequest) -> DrillArguments:
    choice = await latest.choose(order, request.snapshot, of_host=request.of_host)
    return DrillArguments(
        snapshot=choice.snapshot,
        of_host=choice.of_host,
        files=request.files,
        max_bytes=request.max_bytes,
    )


async def plan_fired(fired: Fired) -> DrillArguments:
    found = await latest.find_newest(
        fired.connection, fired.repository_id, fired.host_id, now=fired.now
    )
    options = fired.options if isinstance(fired.options, DrillOptions) else DrillOptions()
    return DrillArguments(
        snapshot=found or latest.LATEST, files=options.files, max_bytes=options.max_bytes
    )
