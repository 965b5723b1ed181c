"""Hears of what other processes on the same PostgreSQL have changed, and tells them to look.

A process looks once a second at the table of changes, and at once when another one says by NOTIFY
that there is something: one NOTIFY for all that was committed meanwhile. So a lost NOTIFY, or a
connection pooler that passes none on, costs a second and nothing else. As long as the looks
succeed, this process hears of every change, and may trust its memory of quiet hosts.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from uuid import uuid4

from backhaul_api.db import changes
from backhaul_api.db.channel import open_channel
from backhaul_api.errors import NotReadyError
from backhaul_api.logs import facts
from backhaul_api.services import Services

EVERY_S = 1.0
LISTEN_AGAIN_S = 5.0

_LOOK_LIMIT_S = 3.0

log = logging.getLogger(__name__)


class Watcher:
    """Watches for one process; runs for as long as the process serves."""

    def __init__(self, services: Services) -> None:
        self._database = services.database
        self._wakeups = services.wakeups
        self._may_remember = services.settings.poll_hold > 0
        # A pooler that lends a connection for each transaction passes no notifications on, and
        # would leave the LISTEN behind on a connection of somebody else's.
        self._may_talk = services.settings.database_pooler != "transaction"
        self._look_now = asyncio.Event()
        self._name = uuid4().hex

    async def run_forever(self) -> None:
        """Watch. Ends by cancellation only."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look_forever())
                if self._may_talk:
                    tasks.create_task(self._talk_forever())
        finally:
            self._wakeups.memory.is_trusted = False

    async def look(self) -> None:
        """Look once, and wake whom the changes since the last look concern.

        Raises:
            NotReadyError: the database does not answer now.
        """
        async with self._database.reading() as connection:
            touched = await self._database.feed.read(connection)
            # Before anything is awaited: what was read is not read again.
            if touched is None:
                self._wakeups.wake_all()
            else:
                self._wakeups.wake(*touched)

    async def _look_forever(self) -> None:
        memory = self._wakeups.memory
        while True:
            self._look_now.clear()
            try:
                async with asyncio.timeout(_LOOK_LIMIT_S):
                    await self.look()
                memory.is_trusted = self._may_remember
            except (NotReadyError, TimeoutError):
                memory.is_trusted = False
            except Exception as error:
                # A fault of ours must not leave polls deaf for as long as the process lives.
                memory.is_trusted = False
                log.error("changes.broke", exc_info=error)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._look_now.wait()

    async def _talk_forever(self) -> None:
        while True:
            try:
                await self._talk()
            except NotReadyError as error:
                log.warning("changes.deaf", extra=facts(reason=str(error)))
            except Exception as error:
                # Whatever it is: without this, a change is heard of within a second.
                log.error("changes.broke", exc_info=error)
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def _talk(self) -> None:
        """Listen, and tell the others, for as long as the connection lives."""
        has_news = self._database.feed.has_news
        async with open_channel(
            self._database, changes.CHANNEL, on_heard=self._hear, on_lost=has_news.set
        ) as say:
            # What was said while nobody listened here.
            self._look_now.set()
            while True:
                await has_news.wait()
                has_news.clear()
                await say(self._name)

    def _hear(self, name: str) -> None:
        if name != self._name:
            self._look_now.set()
