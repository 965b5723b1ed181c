"""Which snapshot `latest` is: the newest honest one of a host, as far as the server knows.

Anybody who can write to a repository can date a snapshot ahead, under any host's name. So what a
forget would set aside does not count here either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.tables import hosts, snapshots
from backhaul_api.errors import InvalidError
from backhaul_api.jobs.targets import find_host, refuse_ambiguous_snapshot
from backhaul_api.kinds.order import Order
from backhaul_api.names import named_in
from backhaul_api.snapshots.rules import find_doubt
from backhaul_api.snapshots.store import SELECT

LATEST = "latest"

_NEWEST = 100
"""Looked at, newest first. More than a few that are doubted are an attack, and the host's own look
at the repository remains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the agent is told of the snapshot that is meant."""

    snapshot: str
    of_host: str | None
    """None stands for the job's own host."""
    tag: str | None = None


async def choose(
    order: Order, snapshot: str, *, of_host: str | None, source: str | None = None
) -> Choice:
    """Find the snapshot that an operator means. `latest` stays what it is where none is known.

    Raises:
        InvalidError: there is no such host or source, or an id is given beside one, or it is
            ambiguous.
    """
    if snapshot != LATEST:
        for field, value in (("of_host", of_host), ("source", source)):
            if value is not None:
                raise InvalidError.of(field, "belongs to the snapshot latest: leave it out")
        await refuse_ambiguous_snapshot(order.connection, order.repository, snapshot)
        return Choice(snapshot=snapshot, of_host=None)
    host_id, hostname = order.host.id, None
    if of_host is not None:
        with named_in("of_host"):
            host_id = await find_host(order.connection, of_host)
        hostname = await fetch_name(order.connection, host_id)
    tag = None if source is None else (await order.fetch_source(source)).name
    found = await find_newest(
        order.connection, order.repository.id, host_id, now=order.now, tag=tag
    )
    return Choice(snapshot=found or LATEST, of_host=hostname, tag=tag)


async def find_newest(
    connection: AsyncConnection,
    repository_id: UUID,
    host_id: UUID | None,
    *,
    now: datetime,
    tag: str | None = None,
) -> str | None:
    """Find the id of the newest honest snapshot of a host, or of any: made by its jobs, or vouched
    for and under its name. None when none is known."""
    is_vouched = snapshots.c.vouched_at.is_not(None)
    if host_id is None:
        is_meant = sa.or_(snapshots.c.job_id.is_not(None), is_vouched)
    else:
        name = sa.select(hosts.c.name).where(hosts.c.id == host_id).scalar_subquery()
        is_meant = sa.or_(
            snapshots.c.host_id == host_id, sa.and_(is_vouched, snapshots.c.hostname == name)
        )
    query = (
        SELECT.where(snapshots.c.repository_id == repository_id, is_meant)
        .order_by(snapshots.c.time.desc(), snapshots.c.id.desc())
        .limit(_NEWEST)
    )
    if tag is not None:
        # A source's name needs no escape in JSON. Which element it is, is looked at below.
        quoted = msgspec.json.encode(tag).decode()
        query = query.where(sa.cast(snapshots.c.tags, sa.Text).contains(quoted, autoescape=True))
    for row in await connection.execute(query):
        if find_doubt(row, now) is None and (tag is None or tag in row.tags):
            return str(row.id)
    return None


async def fetch_name(connection: AsyncConnection, host_id: UUID) -> str | None:
    """Fetch the name of a host, also of one that was removed."""
    name: str | None = await connection.scalar(sa.select(hosts.c.name).where(hosts.c.id == host_id))
    return name
