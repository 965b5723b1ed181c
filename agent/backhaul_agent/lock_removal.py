"""Removes the lock of a restic that was ended.

restic removes its lock itself when it gets SIGINT; not when it is killed, and not when the signal
comes just as the lock is made (0.14.0). `restic unlock` removes only what is stale: the locks of
processes of this host that are gone, and those that nobody has renewed for half an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from backhaul_agent.process import Graces, StartProgram

LIMIT_S = 30.0
"""The storage may be away, and restic tries again and again."""
_GRACES = Graces(interrupt=1.0, terminate=1.0, pipe=1.0)


async def remove_lock(
    restic: str, environment: Mapping[str, str], start: StartProgram, *, limit_s: float = LIMIT_S
) -> bool:
    """Run `restic unlock`; False when that did not work, or not in time."""
    try:
        process = await start([restic, "unlock"], environment, _GRACES)
    except (OSError, ValueError):
        return False
    try:
        code = await asyncio.wait_for(process.read_to_end(lambda *_: None), limit_s)
    except TimeoutError:
        return False
    return code == 0
