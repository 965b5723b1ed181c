"""Looks of many polls at once: one connection, and each row and each secret read once for all.

A poll that is woken asks for a look and waits. Whoever asks until the next turn of the loop looks
together: a change that wakes a fleet would else cost several queries for each host. A look that
fails is taken again alone, so that what is wrong with one host is no other's trouble.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import PollRequest
from backhaul_api.clock import Clock
from backhaul_api.db.engine import Database
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, queries
from backhaul_api.jobs import turns
from backhaul_api.jobs.silence import Silence
from backhaul_api.keys import KeyRing
from backhaul_api.polling.envelopes import Due, Sorted, fetch_active, hand_out, sort_jobs
from backhaul_api.polling.sealing import Boxes, Content, Sealer

MAX_TOGETHER = 200
"""Polls in one round; their answers go out before the next one begins."""

ROUNDS_AT_ONCE = 4
"""On PostgreSQL, where a round waits for the network. SQLite answers at once."""


class Looking(Protocol):
    """A poll, as far as a look needs it."""

    @property
    def host_id(self) -> UUID: ...

    @property
    def body(self) -> PollRequest: ...

    def check(self, host: Any) -> bool:
        """Refuse a host that may not poll; False if nothing can be said before something is
        written."""

    async def add(self, due: Due, sealer: Sealer, host: Any, now: datetime) -> Due:
        """Add what is due besides jobs."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one poll's look found."""

    host: Any
    """Its row."""
    due: Due | None
    """None where the host is ahead of the database."""
    now: datetime


@dataclass(slots=True)
class _Asked:
    poll: Looking
    seen: asyncio.Future[Seen]
    host: Any = None
    sealer: Sealer | None = None
    sorted: Sorted = field(default_factory=Sorted)


class Looks:
    """The looks that wait, in one process."""

    def __init__(
        self, database: Database, clock: Clock, silence: Silence, keys: KeyRing, boxes: Boxes
    ) -> None:
        self._database = database
        self._clock = clock
        self._silence = silence
        self._keys = keys
        self._boxes = boxes
        self._waiting: deque[_Asked] = deque()
        self._rounds: set[asyncio.Task[None]] = set()
        self._max_rounds = 1 if database.is_sqlite else ROUNDS_AT_ONCE

    @property
    def waiting(self) -> int:
        """How many polls wait for their round."""
        return len(self._waiting)

    async def take(self, poll: Looking) -> Seen:
        """Look. Raises what the poll's `check` does, and NotReadyError."""
        loop = asyncio.get_running_loop()
        asked = _Asked(poll, loop.create_future())
        self._waiting.append(asked)
        if len(self._rounds) < self._max_rounds:
            self._rounds.add(loop.create_task(self._run()))
        return await asked.seen

    async def _run(self) -> None:
        try:
            while self._waiting:
                together = [
                    asked
                    for _ in range(min(len(self._waiting), MAX_TOGETHER))
                    if not (asked := self._waiting.popleft()).seen.done()
                ]
                if together:
                    await self._look_at(together)
                await asyncio.sleep(0)
        finally:
            # At once: whoever asks from here on begins a round again.
            current = asyncio.current_task()
            assert current is not None  # noqa: S101 (a coroutine of ours runs in a task)
            self._rounds.discard(current)

    async def _look_at(self, together: Sequence[_Asked]) -> None:
        try:
            await self._look_together(together)
        except Exception as error:  # noqa: BLE001 (it is told to whoever asked)
            left = [asked for asked in together if not asked.seen.done()]
            for asked in left:
                if len(together) == 1:
                    asked.seen.set_exception(error)
                else:
                    await self._look_at([asked])

    async def _look_together(self, together: Sequence[_Asked]) -> None:
        now = self._clock.now()
        async with self._database.reading() as connection:
            await self._prepare(connection, together, now)
            await self._hand_out(connection, together, now)

    async def _prepare(
        self, connection: AsyncConnection, together: Sequence[_Asked], now: datetime
    ) -> None:
        """Read the rows that each needs, and sort the jobs."""
        host_ids = list({asked.poll.host_id for asked in together})
        found = {row.id: row for row in await connection.execute(_HOSTS, {"host_ids": host_ids})}
        active = await fetch_active(connection, host_ids)
        contents: dict[Any, Content] = {}
        for asked in together:
            if asked.seen.done():
                continue
            asked.host = host = found[asked.poll.host_id]
            try:
                can_go_on = asked.poll.check(host)
            except Exception as error:  # noqa: BLE001 (the same)
                asked.seen.set_exception(error)
                continue
            if not can_go_on:
                asked.seen.set_result(Seen(host, None, now))
                continue
            asked.sealer = Sealer(
                connection, self._keys, self._boxes, host.id, host.public_key, contents
            )
            asked.sorted = await sort_jobs(
                asked.sealer, active[host.id], asked.poll.body.jobs, now=now
            )

    async def _hand_out(
        self,
        connection: AsyncConnection,
        together: Sequence[_Asked],
        now: datetime,
    ) -> None:
        waiting = [
            built
            for asked in together
            for row in asked.sorted.waiting
            if (built := turns.build_waiting(row)) is not None
        ]
        obstacles = await turns.find_obstacles(
            connection, waiting, now=now, silent_since=self._silence.find_since(now)
        )
        for asked in together:
            if asked.seen.done() or asked.sealer is None:
                continue
            due = await hand_out(asked.sorted, asked.sealer, obstacles, now=now)
            due = await asked.poll.add(due, asked.sealer, asked.host, now)
            if not asked.seen.done():
                asked.seen.set_result(Seen(asked.host, due, now))


_HOSTS = constant(
    sa.select(
        hosts.c.id,
        hosts.c.boot_id,
        hosts.c.public_key,
        hosts.c.last_seen_at,
        hosts.c.removed_at,
        hosts.c.schedule_version,
        hosts.c.schedule_changed_at,
        # Asked along with the rest: a look that finds nothing costs no further round trip.
        sa.exists().where(queries.c.host_id == hosts.c.id).label("has_queries"),
    ).where(hosts.c.id.in_(sa.bindparam("host_ids", expanding=True)))
)
