"""What every kind of envelope is applied with, and the receipts that come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import Receipt, ReceiptStatus
from backhaul.wire.jobs import Job
from backhaul_api.db.block import postpone
from backhaul_api.db.changes import touch
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts
from backhaul_api.errors import DomainError
from backhaul_api.hosts.presence import is_long_ago
from backhaul_api.jobs.turns import Claims, find_next

OK = Receipt(status=ReceiptStatus.OK)
DUPLICATE = Receipt(status=ReceiptStatus.DUPLICATE)


@dataclass(slots=True)
class Gathered:
    """What the batches of one transaction have in common, and what they leave to its end."""

    claims: Claims
    jobs: dict[UUID, Job] = field(default_factory=dict)
    """Those that are known, as they are now and locked."""
    topics: set[UUID] = field(default_factory=set)
    """Whom to wake after the commit. One too many does no harm."""
    ended: list[Job] = field(default_factory=list)
    """Jobs that make way for others."""

    def forget(self) -> None:
        """Take nothing for known: what was seen may have been undone, or any job moved."""
        self.claims.forget()
        self.jobs.clear()


@dataclass(slots=True)
class Arrival:
    """A batch of one host, within its transaction."""

    connection: AsyncConnection
    host_id: UUID
    now: datetime
    """The server's time, one for the whole batch."""
    gathered: Gathered
    has_news_of_jobs: bool = False
    """The host works, or has worked."""

    @property
    def topics(self) -> set[UUID]:
        return self.gathered.topics


async def lock_hosts(
    connection: AsyncConnection, host_ids: Iterable[UUID]
) -> dict[UUID, datetime | None]:
    """Keep other batches of these hosts waiting; gives when each was last noted, of those that
    nobody else has locked. Waits for none: one that is held up must hold up no other."""
    rows = await connection.execute(_HOSTS, {"ids": list(host_ids)})
    return {row.id: row.last_seen_at for row in rows}


async def settle(
    connection: AsyncConnection,
    gathered: Gathered,
    arrivals: Iterable[tuple[Arrival, datetime | None]],
) -> None:
    """Do at the end of a transaction what its batches have left to it; with each arrival, when its
    host was last noted."""
    for arrival, last_seen_at in arrivals:
        if arrival.has_news_of_jobs and is_long_ago(last_seen_at, arrival.now):
            # That the host is there: its polls may be what does not come through.
            visit = {"host": arrival.host_id, "now": arrival.now}
            await postpone(connection, _NOTE_VISIT, [visit])
    touch(connection, *gathered.topics, *await find_next(connection, *gathered.ended))


def reject(error: DomainError) -> Receipt:
    """Build the receipt of a refused envelope."""
    return Receipt(status=ReceiptStatus.REJECTED, problem=error.problem())


_HOSTS = constant(
    sa.select(hosts.c.id, hosts.c.last_seen_at)
    .where(hosts.c.id.in_(sa.bindparam("ids", expanding=True)))
    .with_for_update(key_share=True, skip_locked=True)
)
_NOTE_VISIT = constant(
    sa.update(hosts)
    .where(hosts.c.id == sa.bindparam("host"))
    .values(last_seen_at=sa.bindparam("now"))
)
