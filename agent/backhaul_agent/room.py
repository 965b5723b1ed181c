"""A full disk: what must be written waits until there is room for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from backhaul_agent.clock import Clock
from backhaul_agent.errors import DiskFullError
from backhaul_agent.journal_file import ROOM_EVERY_S
from backhaul_agent.logs import fields

log = logging.getLogger(__name__)

Written = TypeVar("Written")


async def write_once_there_is_room(
    write: Callable[[], Written], clock: Clock, *, is_stopping: Callable[[], bool] = lambda: False
) -> Written:
    """Write what must not be lost, however long it takes until there is room for it.

    `write` is called again after each failure, so it does all or nothing.

    Raises:
        DiskFullError: there is none, and the agent is to stop.
    """
    while True:
        try:
            return write()
        except DiskFullError as full:
            if is_stopping():
                raise
            await wait_for_room(full, clock)


async def wait_for_room(full: DiskFullError, clock: Clock) -> None:
    """Say that the disk is full, and wait until it is worth another try."""
    log.error("journal.full", extra=fields(reason=str(full)))
    await clock.sleep(ROOM_EVERY_S)
