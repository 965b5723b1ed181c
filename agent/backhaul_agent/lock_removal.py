"""Removes the lock of a restic that was ended, and looks whether it is gone.

restic removes its lock itself when it gets SIGINT; not when it is killed, and not when the signal
comes just as the lock is made (0.14.0). `restic unlock` removes only what is stale: the locks of
processes of this host that are gone, and those that nobody has renewed for half an hour. It says
that it did, with exit code 0, in every case: when the number of the process is in use again, the
lock is still there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from backhaul_agent.process import Graces, StartProgram, Stream
from backhaul_agent.restic import locks, unlock

LIMIT_S = 30.0
"""For all of it: the storage may be away, and restic tries again and again."""
_GRACES = Graces(interrupt=1.0, terminate=1.0, pipe=1.0)


class _RefusedError(Exception):
    """restic failed, so that nobody knows what is left."""


async def remove_lock(
    restic: str,
    environment: Mapping[str, str],
    start: StartProgram,
    *,
    pids: Collection[int] = (),
    hostname: str | None = None,
    limit_s: float = LIMIT_S,
) -> bool:
    """Remove what restics that are gone, with these numbers, may have left in a repository.

    False when a lock of theirs is left, or that is not known in time. Others may work on the
    repository, also from this host: their locks are left alone and say nothing.
    """
    hostname = socket.gethostname() if hostname is None else hostname

    async def run(arguments: Sequence[str]) -> list[str]:
        lines: list[str] = []

        def take(stream: Stream, line: str) -> None:
            if stream == "stdout":
                lines.append(line)

        process = await start([restic, *arguments], environment, _GRACES)
        if await process.read_to_end(take) != 0:
            raise _RefusedError
        return lines

    try:
        async with asyncio.timeout(limit_s):
            await run(unlock.build_arguments())
            for lock_id in unlock.list_locks(await run(unlock.build_list_arguments())):
                owner = locks.read_owner(await run(locks.build_show_arguments(lock_id)))
                if owner is None or _may_be_left(owner, pids, hostname):
                    return False
    except (OSError, ValueError, _RefusedError):  # one OSError is the TimeoutError
        return False
    return True


def _may_be_left(owner: locks.Owner, pids: Collection[int], hostname: str) -> bool:
    if owner.pid in pids:
        return True
    # A restic of this host that lives is another job's, or a person's.
    return owner.hostname == hostname and not Path(f"/proc/{owner.pid}").exists()
