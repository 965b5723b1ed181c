"""New jobs that go to their hosts with the commit that makes them.

A host whose poll is parked here as that of a quiet host (see `memory`) has nothing else to be told:
its look would find the new job and no more. Whoever makes the job has all of it at hand, and what
opens its repository is known to the process, as long as nothing there keeps others waiting. So the
poll is answered right after the commit, without a query. All other hosts are only woken (their poll
is not parked here, the job may have to wait, what it needs cannot be sent): this is only ever a
shorter way to the same answer.

That a host was told means nothing: an answer that gets lost is given again by the next look, and a
claim asks again whose turn it is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.changes import Touched, touch, touch_with_news
from backhaul_api.db.engine import Database
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import repositories
from backhaul_api.jobs import turns
from backhaul_api.jobs.store import NewJob
from backhaul_api.keys import KeyRing
from backhaul_api.polling.envelopes import Run, build_command, find_second
from backhaul_api.polling.memory import KnownRepository
from backhaul_api.polling.sealing import Boxes, Content
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.repositories.rules import Access, choose_access
from backhaul_api.repositories.secrets import fetch_closed

AT_ONCE = 50
"""Hosts that are told before others have a turn of the loop."""

LEARNING_LIMIT_S = 1.0
"""Then hosts look by themselves."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Offered:
    """A job that its host may get without a look, once it is committed."""

    job: NewJob
    repository_id: UUID
    updated_at: datetime
    """The repository's, as it was read in the transaction that makes the job."""
    public_key: bytes
    """The host's."""


def offer(
    connection: AsyncConnection,
    new: Iterable[NewJob],
    *,
    public_keys: Mapping[UUID, bytes],
    updates: Mapping[UUID, datetime],
) -> None:
    """Note, in the transaction that makes the jobs, that their hosts are to get them.

    Args:
        public_keys: of the hosts; those of removed ones are missing.
        updates: when the repositories were changed last.
    """
    offered: dict[UUID, _Offered | None] = {}
    for job in new:
        host_id, key = job.host_id, public_keys.get(job.host_id)
        # Of several jobs, a look finds out which goes first.
        if host_id in offered or key is None or job.repository_id is None or not _is_plain(job):
            offered[host_id] = None
        else:
            updated_at = updates[job.repository_id]
            offered[host_id] = _Offered(job, job.repository_id, updated_at, key)
    for host_id, one in offered.items():
        if one is None:
            touch(connection, host_id)
        else:
            touch_with_news(connection, host_id, one)


def _is_plain(job: NewJob) -> bool:
    """Tell whether a job needs nothing but what most do: one repository, to read and to append to,
    beside others."""
    return (
        job.kind not in EXCLUSIVE_KINDS
        and find_second(job.arguments) is None
        and choose_access(job.arguments) is Access.EVERYDAY
    )


class Handover:
    """Tells the hosts, and all others, what the commits of one process have changed."""

    def __init__(self, database: Database, wakeups: Wakeups, keys: KeyRing, boxes: Boxes) -> None:
        self._database = database
        self._wakeups = wakeups
        self._keys = keys
        self._boxes = boxes
        self._waiting: deque[_Offered] = deque()
        """Jobs on repositories that were known."""
        self._learning: dict[UUID, list[_Offered]] = {}
        """Jobs on others, by their repositories."""
        self._tasks: set[asyncio.Task[None]] = set()

    def prepare(self, news: Iterable[object]) -> Callable[[], None] | None:
        """Give what can be done for the news of a commit while that is under way, if anything: to
        seal what opens a repository to a host that has no such box yet takes most of the time until
        the host is told."""
        unsealed = [
            offered
            for offered in itertools.islice(news, AT_ONCE)
            if isinstance(offered, _Offered)
            and (known := self._find(offered)) is not None
            and not self._boxes.has(known.closed.digest, offered.public_key)
        ]
        return partial(self._seal_all, unsealed) if unsealed else None

    def _seal_all(self, unsealed: Iterable[_Offered]) -> None:
        contents: dict[UUID, Content] = {}
        for offered in unsealed:
            try:
                self._seal(offered, contents)
            except Exception as error:
                log.debug("handover.left", exc_info=error)

    def tell(self, touched: Touched) -> None:
        """Wake whoever a commit has touched, or hand over what there is for them."""
        wakeups = self._wakeups
        known: list[_Offered] = []
        for topic, news in touched.items():
            if not (
                isinstance(news, _Offered)
                and wakeups.memory.is_trusted
                and wakeups.takes_news(topic)
            ):
                wakeups.wake(topic)
                continue
            wakeups.memory.wake(topic)
            if self._find(news) is not None:
                known.append(news)
            elif (others := self._learning.get(news.repository_id)) is not None:
                others.append(news)
            else:
                self._learning[news.repository_id] = [news]
                task = asyncio.get_running_loop().create_task(self._learn_of(news.repository_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._add(known)

    def _add(self, offered: Iterable[_Offered]) -> None:
        """Hand over, at once unless others are before them."""
        is_idle = not self._waiting
        self._waiting += offered
        if is_idle:
            self._hand_over_some()

    def _find(self, offered: _Offered) -> KnownRepository | None:
        """Find what is known of a job's repository, if that is not old: what another instance has
        changed may not have been heard of yet."""
        known = self._wakeups.memory.repositories.find(offered.repository_id)
        return known if known is not None and known.updated_at == offered.updated_at else None

    def _hand_over_some(self) -> None:
        """Hand over some of the jobs that wait, and go on with the rest a little later."""
        contents: dict[UUID, Content] = {}
        for _ in range(min(AT_ONCE, len(self._waiting))):
            offered = self._waiting[0]
            host_id = offered.job.host_id
            command = None
            try:
                command = self._build_command(offered, contents)
            except Exception as error:
                log.debug("handover.left", exc_info=error)
            if command is None:
                # Whoever polls by now may have looked before the commit.
                self._wakeups.wake(host_id)
            else:
                self._wakeups.bring(host_id, (command,))
            self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._hand_over_some)

    def _build_command(
        self, offered: _Offered, contents: dict[UUID, Content]
    ) -> msgspec.Raw | None:
        """Build what the host is told; None where it has to look."""
        box = self._seal(offered, contents)
        if box is None:
            return None
        return build_command(_build_run(offered), offered.job.arguments, credentials=box)

    def _seal(self, offered: _Offered, contents: dict[UUID, Content]) -> bytes | None:
        """Build the box with what opens the repository, or take the one that is kept; None where
        the host has to look."""
        known = self._find(offered)
        if known is None or not self._wakeups.takes_news(offered.job.host_id):
            return None
        content = contents.get(offered.repository_id)
        if content is None:
            content = contents[offered.repository_id] = Content(self._keys, known.closed)
        return self._boxes.seal(content, offered.public_key)

    async def _learn_of(self, repository_id: UUID) -> None:
        """Find out what opens a repository; hosts with jobs on it look by themselves where nobody
        may know that."""
        known = self._wakeups.memory.repositories
        try:
            async with (
                asyncio.timeout(LEARNING_LIMIT_S),
                self._database.reading() as connection,
            ):
                with known.introduce() as remember:
                    if await turns.has_exclusive(connection, repository_id):
                        return
                    # First: a change after it makes what is remembered old.
                    updated_at = await connection.scalar(_UPDATED_AT, {"id": repository_id})
                    closed = await fetch_closed(connection, repository_id)
                    closed.open(self._keys)
                    if updated_at is not None:
                        remember(repository_id, KnownRepository(closed, updated_at), repository_id)
        except Exception as error:
            log.debug("handover.left", exc_info=error)
        finally:
            self._add(self._learning.pop(repository_id))


def _build_run(offered: _Offered) -> Run:
    job = offered.job
    return Run(
        job_id=job.id,
        attempt=1,
        kind=job.kind,
        priority=turns.choose_priority(job.kind, job.actor_kind),
        arguments=job.arguments,
        repository_id=offered.repository_id,
        start_deadline_at=job.start_deadline_at,
        max_duration=job.max_duration,
    )


_UPDATED_AT = constant(
    sa.select(repositories.c.updated_at).where(repositories.c.id == sa.bindparam("id"))
)
