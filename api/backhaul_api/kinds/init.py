"""`init`: refused for a repository that is known to exist."""

from __future__ import annotations

from backhaul.wire.kinds import InitArguments, InitRequest
from backhaul_api.jobs.targets import refuse_second_init
from backhaul_api.kinds.order import Order
from backhaul_api.kinds.second import find_second


async def plan(order: Order, request: InitRequest) -> InitArguments:
    await refuse_second_init(order.connection, order.repository)
    if request.chunker_of is None:
        return InitArguments()
    other = await find_second(
        order.connection,
        order.keys,
        order.repository.id,
        request.chunker_of,
        field="chunker_of",
        itself="is the repository to create; name another one",
    )
    return InitArguments(chunker_of_id=other.id, chunker_of=other.name)
