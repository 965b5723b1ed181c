"""`check`: of the structure, and of the part of the data that is named, or whose turn it is."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds import CheckArguments, CheckOptions, CheckRequest
from backhaul_api.errors import InvalidError
from backhaul_api.kinds.order import Fired, Order
from backhaul_api.repositories.checks import find_last_part
from backhaul_api.repositories.coverage import MAX_PARTS, choose_part, read_part


async def plan(order: Order, request: CheckRequest) -> CheckArguments:
    if request.read_data_parts is None:
        return CheckArguments(read_data_subset=normalize_read_data_subset(request.read_data_subset))
    if request.read_data_subset is not None:
        raise InvalidError.of(
            "read_data_parts", "leave it out, or the subset: a check reads one part of the data"
        )
    return await _plan_next(order.connection, order.repository.id, request.read_data_parts)


async def plan_fired(fired: Fired) -> CheckArguments:
    if not isinstance(fired.options, CheckOptions) or fired.options.read_data_parts is None:
        return CheckArguments()
    return await _plan_next(fired.connection, fired.repository_id, fired.options.read_data_parts)


async def _plan_next(
    connection: AsyncConnection, repository_id: UUID, parts: int
) -> CheckArguments:
    """Plan to read the part after the one that a check has read last, whoever wanted that one.

    Two that are planned before either has run read the same part, once more than needed: were the
    second to go on to the next, the first could fail and its part would be left out.
    """
    last = await find_last_part(connection, repository_id, parts=parts)
    return CheckArguments(read_data_subset=choose_part(last, parts))


def normalize_read_data_subset(part: str | None) -> str | None:
    """Write a part of the data without leading zeros; refuse one that does not exist, like `8/7`
    or `120%`.

    Raises:
        InvalidError: see there.
    """
    if part is None:
        return None
    if part.endswith("%"):
        if not 0 < float(part[:-1]) <= 100:
            raise InvalidError.of("read_data_subset", "must be more than 0% and at most 100%")
        return part
    which, parts = read_part(part)
    if parts > MAX_PARTS:
        raise InvalidError.of("read_data_subset", f"restic knows at most {MAX_PARTS} parts")
    if not 1 <= which <= parts:
        raise InvalidError.of("read_data_subset", f"of {parts} parts there is no part {which}")
    return f"{which}/{parts}"
