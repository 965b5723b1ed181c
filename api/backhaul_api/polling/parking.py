"""Parking a request until there is something to say. Holds no connection, transaction or thread.

Litestar and uvicorn leave a handler alone when its client hangs up; only `receive` tells, so a
watcher asks it for as long as the request is parked. Past both of them, the connection tells.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from litestar.types import Receive

from backhaul_api.polling.wakeups import Bell, Wakeups

T = TypeVar("T")


class Connection(Protocol):
    """The connection that a request came by."""

    on_hang_up: Callable[[], None] | None
    """Called when the client hangs up."""

    def has_hung_up(self) -> bool:
        """Tell whether it has, which nobody is told any more who asks for it only now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """For what, how long and for whom a request waits."""

    wakeups: Wakeups
    topic: UUID
    seconds: float
    client: Connection | Receive
    """Tells when the client hangs up: the request's own `receive`, after its body was read, or its
    connection."""
    is_alone: bool = False
    """A newer wait on the topic ends this one."""
    bell: Bell | None = None
    """One that listens already, and will leave by itself."""
    recheck_s: float = math.inf
    """Look again after so many seconds of silence: what another instance changed rings no bell
    here."""


async def look_until(
    look: Callable[[], Awaitable[T]],
    is_enough: Callable[[T], bool],
    wait: Wait,
    *,
    found: T | None = None,
    again_in: Callable[[T], float | None] = lambda _: None,
) -> T:
    """Look until what is found is enough, or until the wait is over; gives what was seen last.

    Whoever has looked, while the wait's bell was listening, says what was found; it was not enough.
    `again_in` tells from what was found when, in seconds, the passing of time will have changed it.

    Each look opens and closes its own connection. The wait ends with its time, when the server
    drains, when a newer wait takes its place, and when the client hangs up.
    """
    if wait.seconds <= 0:
        return await look()
    deadline = asyncio.get_running_loop().time() + wait.seconds

    def find_pause(found: T) -> float:
        pause_s = again_in(found)
        return wait.recheck_s if pause_s is None else min(pause_s, wait.recheck_s)

    listening = wait.wakeups.listen(wait.topic) if wait.bell is None else nullcontext(wait.bell)
    with listening as bell, _heeding(wait.client, bell):
        # The bell is there already: what changes during the look rings it.
        if found is None:
            found = await look()
        if is_enough(found) or bell.has_ended():
            return found
        if wait.is_alone:
            wait.wakeups.end_older(wait.topic)
        async with _watched(wait, bell):
            return await wait_until(
                look, is_enough, bell, deadline, found=found, pause_s=find_pause
            )


async def wait_until(
    look: Callable[[], Awaitable[T]],
    is_enough: Callable[[T], bool],
    bell: Bell,
    deadline: float,
    *,
    found: T,
    pause_s: Callable[[T], float],
) -> T:
    """Look at each ring, and when time has changed things, until it is enough or over.

    `found` was not enough, and nothing has changed since that did not ring the bell.
    """
    loop = asyncio.get_running_loop()
    while not bell.has_ended():
        next_look = min(deadline, loop.time() + pause_s(found))
        has_rung = await bell.wait_until(next_look)
        is_over = not has_rung and next_look >= deadline
        if bell.has_ended():
            break
        found = await look()
        if is_enough(found) or is_over:
            break
    return found


@contextmanager
def _heeding(client: Connection | Receive, bell: Bell) -> Iterator[None]:
    """Let a connection end the wait when its client hangs up."""
    if callable(client):
        yield
        return
    client.on_hang_up = bell.end
    if client.has_hung_up():
        bell.end()
    try:
        yield
    finally:
        client.on_hang_up = None


@asynccontextmanager
async def _watched(wait: Wait, bell: Bell) -> AsyncIterator[None]:
    """End the wait when the client hangs up, where no connection does."""
    if not callable(wait.client):
        yield
        return
    watcher = asyncio.create_task(_end_when_hung_up(wait.client, bell))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


async def _end_when_hung_up(receive: Receive, bell: Bell) -> None:
    # A GET whose body nobody read says `http.request` first.
    while (await receive())["type"] != "http.disconnect":
        pass
    bell.end()
