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
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.statements import constant
from backhaul_api.db.tables import changes
from backhaul_api.db.transactions import CURRENT_TRANSACTION, OLDEST_RUNNING

EVENTS = UUID(int=1)
"""The topic of whoever follows events: no host, no job and no query has this id."""

_IDENTITY = int.from_bytes(b"host's identity!")


def identity_topic(id_: UUID) -> UUID:
    """Build the topic of who may speak for a host, or as an operator: which tokens serve."""
    return UUID(int=id_.int ^ _IDENTITY)


KEPT_FOR = timedelta(minutes=10)
"""Then a tick deletes the row, by the database's clock, which is the same for all. A process that
has not looked for half as long, by that clock, counts everything as changed: its own may have stood
still, as that of a machine that slept."""

CHANNEL = "backhaul_changes"
"""Of PostgreSQL's NOTIFY, which only says: look at the table now."""

_TOUCHED = "backhaul.touched"
_NEVER = 2**62
_UUID_BYTES = 16


Touched = Mapping[UUID, object]
"""Topics, and what is known of the change, or None."""


class HasInfo(Protocol):
    """A connection, as far as what is noted on it."""

    @property
    def info(self) -> dict[Any, Any]: ...


class HasLast(Protocol):
    """A connection to PostgreSQL, as far as the end of its transaction."""

    async def execute_last(self, statement: sa.Executable, parameters: Any) -> Any: ...


def touch(connection: AsyncConnection, *topics: UUID) -> None:
    """Note that something changed for these, if the transaction commits. One too many does no
    harm."""
    connection.info.setdefault(_TOUCHED, {}).update(dict.fromkeys(topics))


def touch_with_news(connection: AsyncConnection, topic: UUID, news: object) -> None:
    """Note what changed for a topic, if the transaction commits, and if nothing else did. This
    process is told of it, all others only that something has changed."""
    touched = connection.info.setdefault(_TOUCHED, {})
    touched[topic] = None if topic in touched else news


def list_news(connection: HasInfo) -> list[object]:
    """List what a transaction has noted with `touch_with_news` so far."""
    touched: Touched = connection.info.get(_TOUCHED, {})
    return [news for news in touched.values() if news is not None]


def take_touched(connection: HasInfo) -> Touched:
    """Take what was touched since the last call."""
    touched: Touched = connection.info.pop(_TOUCHED, {})
    return touched


def join(touched: Sequence[Touched]) -> Touched:
    """Join what several blocks of one transaction have touched."""
    first, *others = touched
    joined = dict(first)
    for one in others:
        for topic, news in one.items():
            joined[topic] = None if topic in joined else news
    return joined


async def write(connection: HasLast, topics: Iterable[UUID]) -> Row:
    """Write, as the last statement of a transaction, whom it touched."""
    packed = b"".join(topic.bytes for topic in topics)
    row = (await connection.execute_last(_INSERT, {"topics": packed})).one()
    return Row(row.id, row.transaction_id)


class Row(NamedTuple):
    """A row of this process."""

    id: int
    transaction_id: int


class _Heard(NamedTuple):
    """A row that was heard of."""

    transaction_id: int
    at: datetime | None
    """When, by the database's clock; None before it was first looked at."""


class Feed:
    """What one process has heard of, and what is new to it."""

    def __init__(self) -> None:
        self._known: dict[int, _Heard] = {}
        """Rows that were heard of and can be found again, by their ids."""
        self._settled = 0
        """Every transaction below this one was over when last looked."""
        self._server: datetime | None = None
        """When the database's server had started: another one counts transactions anew."""
        self._read_at: datetime | None = None
        """By the database's clock."""
        self.has_news = asyncio.Event()
        """Set when this process has written a row since somebody cleared it."""

    def note_own(self, row: Row) -> None:
        """Note a row of this process, which has told its own waiters by itself."""
        self._known[row.id] = _Heard(row.transaction_id, self._read_at)
        self.has_news.set()

    async def read(self, connection: AsyncConnection) -> tuple[UUID, ...] | None:
        """Read whom the changes since the last call touched; None for everybody, in the first call,
        when the database is another than before, and when the last call was too long ago."""
        # In the first call, everybody is woken anyway.
        since = self._settled or _NEVER
        which = {"settled": since, "known": list(self._known)}
        rows = (await connection.execute(_SELECT, which)).all()
        settled, server, read_at = rows[0].settled, rows[0].server, rows[0].read_at
        is_same = self._server == server and settled >= self._settled
        is_deaf = self._read_at is None or read_at - self._read_at > KEPT_FOR / 2
        new = [row for row in rows if row.id is not None]
        self._known.update((row.id, _Heard(row.transaction_id, read_at)) for row in new)
        self._settled, self._server, self._read_at = settled, server, read_at
        self._forget(settled, read_at - 2 * KEPT_FOR)
        if is_deaf or not is_same:
            return None
        return tuple({*_read_topics(row.topics for row in new)})

    def _forget(self, settled: int, deleted: datetime) -> None:
        """Forget the rows that are not found again: of transactions before one, or heard of before
        a moment. Somewhere, a transaction may be left open for good."""
        self._known = {
            id_: heard
            for id_, heard in self._known.items()
            if heard.transaction_id >= settled and (heard.at is None or heard.at > deleted)
        }


def _read_topics(packed: Iterable[bytes]) -> Iterable[UUID]:
    for topics in packed:
        for begin in range(0, len(topics), _UUID_BYTES):
            yield UUID(bytes=bytes(topics[begin : begin + _UUID_BYTES]))


_INSERT = constant(
    sa.insert(changes)
    .values(transaction_id=CURRENT_TRANSACTION, topics=sa.bindparam("topics"), at=sa.func.now())
    .returning(changes.c.id, changes.c.transaction_id)
)

# One statement, and so one snapshot: what is over, and the rows that it has left.
_now = sa.select(
    OLDEST_RUNNING.label("settled"),
    sa.func.pg_postmaster_start_time(type_=sa.DateTime(timezone=True)).label("server"),
    sa.func.now(type_=sa.DateTime(timezone=True)).label("read_at"),
).subquery()
_is_new = sa.and_(
    changes.c.transaction_id >= sa.bindparam("settled", type_=sa.BigInteger),
    # While a transaction is open somewhere, what came after it is found again in each look.
    changes.c.id != sa.all_(sa.bindparam("known", type_=postgresql.ARRAY(sa.BigInteger))),
)
_SELECT = constant(
    sa.select(*_now.c, changes.c.id, changes.c.transaction_id, changes.c.topics).select_from(
        _now.outerjoin(changes, _is_new)
    )
)
