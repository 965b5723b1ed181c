"""Who is to look again: noted in the transaction of a change, told to every process after it.

Whoever changes what a host, or a reader, waits for touches its topic within the transaction. After
the commit, this process rings its own bells at once. On PostgreSQL the topics also stand in a row
of the same transaction, so that other processes find them: no commit can be missed, whatever
became of the process that made it.

Rows are found by the number of their transaction. Everything below `pg_snapshot_xmin` is over;
above it, a row can appear late, between others that were there before, so those that are known are
told from the new ones by their ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.tables import changes

EVENTS = UUID(int=1)
"""The topic of whoever follows events: no host, no job and no query has this id."""

_IDENTITY = int.from_bytes(b"host's identity!")


def identity_topic(host_id: UUID) -> UUID:
    """Build the topic of who may speak for a host, which changes less often than the host."""
    return UUID(int=host_id.int ^ _IDENTITY)


KEPT_FOR = timedelta(minutes=10)
"""A process that could not look for so long counts everything as changed."""

CHANNEL = "backhaul_changes"
"""Of PostgreSQL's NOTIFY, which only says: look at the table now."""

_TOUCHED = "backhaul.touched"
_UUID_BYTES = 16


class HasInfo(Protocol):
    """A connection, as far as what is noted on it."""

    @property
    def info(self) -> dict[Any, Any]: ...


def touch(connection: AsyncConnection, *topics: UUID) -> None:
    """Note that something changed for these, if the transaction commits. One too many does no
    harm."""
    connection.info.setdefault(_TOUCHED, {}).update(dict.fromkeys(topics))


def take_touched(connection: HasInfo) -> tuple[UUID, ...]:
    """Take what was touched since the last call."""
    return tuple(connection.info.pop(_TOUCHED, ()))


async def write(connection: AsyncConnection, topics: Iterable[UUID]) -> int:
    """Write, as the last statement of a transaction, whom it touched; gives the row's id."""
    written = await connection.execute(
        _INSERT, {"topics": b"".join(topic.bytes for topic in topics)}
    )
    return int(written.scalar_one())


class Feed:
    """What one process has heard of, and what is new to it."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        """Rows that were heard of and can be found again: their transactions, by id."""
        self._settled = 0
        """Every transaction below this one was over when last looked."""
        self.has_news = asyncio.Event()
        """Set when this process has written a row since somebody cleared it."""

    def note_own(self, row_id: int) -> None:
        """Note a row of this process, which has told its own waiters by itself."""
        self._known[row_id] = self._settled
        self.has_news.set()

    async def read(self, connection: AsyncConnection) -> tuple[UUID, ...] | None:
        """Read whom the changes since the last call touched; None for everybody, in the first call
        and when the database is another than before."""
        rows = (await connection.execute(_SELECT, {"settled": self._settled})).all()
        settled: int = rows[0].settled
        is_first = self._settled == 0 or settled < self._settled
        new = {row.id: row for row in rows if row.id is not None and row.id not in self._known}
        for row in rows:
            if row.id is not None:
                self._known[row.id] = row.transaction_id
        self._settled = settled
        self._known = {id_: number for id_, number in self._known.items() if number >= settled}
        return None if is_first else tuple({*_read_topics(row.topics for row in new.values())})


async def sweep(connection: AsyncConnection) -> None:
    """Delete the rows that nobody looks for any more."""
    await connection.execute(_DELETE)


def _read_topics(packed: Iterable[bytes]) -> Iterable[UUID]:
    for topics in packed:
        for begin in range(0, len(topics), _UUID_BYTES):
            yield UUID(bytes=bytes(topics[begin : begin + _UUID_BYTES]))


# xid8 has no casts to numbers but by way of text.
_CURRENT_TRANSACTION: sa.ColumnClause[int] = sa.literal_column("pg_current_xact_id()::text::bigint")
_OLDEST_RUNNING: sa.ColumnClause[int] = sa.literal_column(
    "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
)

_INSERT = (
    sa.insert(changes)
    .values(transaction_id=_CURRENT_TRANSACTION, topics=sa.bindparam("topics"), at=sa.func.now())
    .returning(changes.c.id)
)

# One statement, and so one snapshot: what is over, and the rows that it has left.
_now = sa.select(_OLDEST_RUNNING.label("settled")).subquery()
_SELECT = sa.select(
    _now.c.settled, changes.c.id, changes.c.transaction_id, changes.c.topics
).select_from(_now.outerjoin(changes, changes.c.transaction_id >= sa.bindparam("settled")))

_DELETE = sa.delete(changes).where(
    changes.c.at < sa.func.now() - sa.literal(KEPT_FOR, sa.Interval())
)
