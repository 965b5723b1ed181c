"""What a kind of job is planned from: an operator's order, or a fire of a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import ScheduleOptions
from backhaul_api.jobs.targets import TargetHost, TargetRepository
from backhaul_api.keys import KeyRing
from backhaul_api.names import named_in
from backhaul_api.sources import store as sources


class Sources:
    """The sources that the orders of one transaction name, each read once."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._found: dict[str, Source] = {}

    async def fetch(self, reference: str) -> Source:
        if reference not in self._found:
            self._found[reference] = await sources.fetch(self._connection, reference)
        return self._found[reference]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job that an operator wants, in the transaction that makes it."""

    connection: AsyncConnection
    now: datetime
    keys: KeyRing
    host: TargetHost
    repository: TargetRepository
    sources: Sources

    async def fetch_source(self, reference: str) -> Source:
        """Fetch the source that the request names.

        Raises:
            InvalidError: there is none.
        """
        with named_in("source"):
            return await self.sources.fetch(reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """A job that a schedule fires, in the transaction that makes it."""

    connection: AsyncConnection
    now: datetime
    host_id: UUID
    repository_id: UUID
    source_id: UUID | None
    options: ScheduleOptions | None

    async def fetch_source(self) -> Source | None:
        if self.source_id is None:
            return None
        return await sources.fetch(self.connection, str(self.source_id))
