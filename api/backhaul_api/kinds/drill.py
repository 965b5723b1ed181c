"""`drill`: of a random sample of one snapshot, recent unless it is named."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds import DrillArguments, DrillOptions, DrillRequest
from backhaul_api.jobs.targets import find_host
from backhaul_api.kinds import latest
from backhaul_api.kinds.order import Fired, Order
from backhaul_api.names import named_in


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
    options = fired.options if isinstance(fired.options, DrillOptions) else DrillOptions()
    host_id = fired.host_id if options.of_host is None else UUID(options.of_host)
    found = await latest.find_newest(fired.connection, fired.repository_id, host_id, now=fired.now)
    hostname = None
    if options.of_host is not None:
        hostname = await latest.fetch_name(fired.connection, host_id)
    elif found is None:
        found = await _find_any(fired.connection, fired.repository_id, now=fired.now)
    return DrillArguments(
        snapshot=found or latest.LATEST,
        of_host=hostname,
        files=options.files,
        max_bytes=options.max_bytes,
    )


async def settle_options(connection: AsyncConnection, options: DrillOptions) -> DrillOptions:
    """Give the options of a schedule with the host's id, which no new name changes.

    Raises:
        InvalidError: there is no such host.
    """
    if options.of_host is None:
        return options
    with named_in("options.of_host"):
        host_id = await find_host(connection, options.of_host)
    return msgspec.structs.replace(options, of_host=str(host_id))


async def _find_any(connection: AsyncConnection, repository_id: UUID, *, now: datetime) -> str:
    """Find the newest of all hosts, for one that only keeps the repository up has none of its own.

    Where the server knows none, the host looks for itself.
    """
    return await latest.find_newest(connection, repository_id, None, now=now) or latest.LATEST
