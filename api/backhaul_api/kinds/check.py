"""`check`: of the structure, and of the part of the data that is named."""

from __future__ import annotations

from backhaul.wire.kinds import CheckArguments, CheckRequest
from backhaul_api.errors import InvalidError
from backhaul_api.kinds.order import Fired, Order


async def plan(_: Order, request: CheckRequest) -> CheckArguments:
    check_read_data_subset(request.read_data_subset)
    return CheckArguments(read_data_subset=request.read_data_subset)


async def plan_fired(_: Fired) -> CheckArguments:
    return CheckArguments()


def check_read_data_subset(part: str | None) -> None:
    """Refuse a part of the data that does not exist, like `8/7` or `120%`.

    Raises:
        InvalidError: see there.
    """
    if part is None:
        return
    if part.endswith("%"):
        if not 0 < float(part[:-1]) <= 100:
            raise InvalidError.of("read_data_subset", "must be more than 0% and at most 100%")
        return
    which, _, parts = part.partition("/")
    if not 1 <= int(which) <= int(parts):
        raise InvalidError.of("read_data_subset", f"of {parts} parts there is no part {which}")
