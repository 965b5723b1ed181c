"""`drill`: of a random sample of one snapshot, recent unless it is named."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds import DrillArguments, DrillOptions, DrillRequest
from backhaul_api.kinds import latest
from backhaul_api.kinds.order import Fired, Order


async def plan(order: Order, request: DrillRequest) -> DrillArguments:
    choice = await latest.choose(order, request.snapshot, of_host=request.of_host)
    snapshot = choice.snapshot
    if snapshot == latest.LATEST and request.of_host is None:
        snapshot = await _find_any(order.connection, order.repository.id, now=order.now)
    return DrillArguments(
        snapshot=snapshot,
        of_host=choice.of_host,
        files=request.files,
        max_bytes=request.max_bytes,
    )


async def plan_fired(fired: Fired) -> DrillArguments:
    found = await latest.find_newest(
        fired.connection, fired.repository_id, fired.host_id, now=fired.now
    ) or await _find_any(fired.connection, fired.repository_id, now=fired.now)
    options = fired.options if isinstance(fired.options, DrillOptions) else DrillOptions()
    return DrillArguments(snapshot=found, files=options.files, max_bytes=options.max_bytes)


async def _find_any(connection: AsyncConnection, repository_id: UUID, *, now: datetime) -> str:
    """Find the newest of all hosts, for one that only keeps the repository up has none of its own.

    Where the server knows none, the host looks for itself.
    """
    return await latest.find_newest(connection, repository_id, None, now=now) or latest.LATEST
