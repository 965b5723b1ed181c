"""`unlock`: of what is stale, or of every lock."""

from __future__ import annotations

from backhaul.wire.kinds import UnlockArguments, UnlockRequest
from backhaul_api.kinds.order import Order


async def plan(_: Order, request: UnlockRequest) -> UnlockArguments:
    return UnlockArguments(remove_all=request.remove_all)
