"""`snapshots`: takes nothing."""

from __future__ import annotations

from backhaul.wire.kinds import SnapshotsArguments, SnapshotsRequest
from backhaul_api.kinds.order import Order


async def plan(_: Order, __: SnapshotsRequest) -> SnapshotsArguments:
    return SnapshotsArguments()
