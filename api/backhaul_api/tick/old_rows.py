"""The rows that nobody will ask for any more, deleted a bounded number at a time.

Each of them counts as gone from its moment on, wherever it is read; that it stays costs space only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api import idempotency
from backhaul_api.db import changes as change_feed
from backhaul_api.db.tables import (
    changes,
    enrollment_tokens,
    events,
    idempotency_keys,
    queries,
    sessions,
    setup_tokens,
)
from backhaul_api.events import store as event_store

MAX_AT_ONCE = 5000
"""Of one table: a transaction of well under a second."""


Limit = datetime | sa.ColumnElement[datetime]


def find_limits(now: datetime) -> Mapping[sa.Column[datetime], Limit]:
    """Tell by which column, and up to which moment, the rows of a table are old.

    Enrollment tokens that were used up are kept until they expire: an answer that got lost is given
    again with them. API tokens stay, so that their operator sees what became of them.
    """
    return {
        sessions.c.expires_at: now,
        enrollment_tokens.c.expires_at: now,
        setup_tokens.c.expires_at: now,
        idempotency_keys.c.created_at: now - idempotency.KEPT_FOR,
        queries.c.expires_at: now,
        events.c.at: now - event_store.KEPT_FOR,
    }


async def delete(connection: AsyncConnection, *, now: datetime) -> dict[str, int]:
    """Delete old rows, at most so many of each table; tells how many, by the table's name."""
    limits = dict(find_limits(now))
    if connection.dialect.name == "postgresql":
        # By its own clock, which has written them: an instance whose clock is ahead would take from
        # the others what they have yet to read. SQLite has none.
        limits[changes.c.at] = sa.func.now() - sa.literal(change_feed.KEPT_FOR)
    return {
        moment.table.name: await _delete(connection, moment, limit)
        for moment, limit in limits.items()
    }


async def _delete(connection: AsyncConnection, moment: sa.Column[datetime], limit: Limit) -> int:
    (key,) = moment.table.primary_key
    # Of several who tick at once, each takes rows of its own, and nobody waits.
    old = (
        sa.select(key)
        .where(moment < limit)
        .order_by(moment)
        .limit(MAX_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    deleted = await connection.execute(sa.delete(moment.table).where(key.in_(old)))
    return deleted.rowcount
