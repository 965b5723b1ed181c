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
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.changes import Touched, bring, touch
from backhaul_api.db.engine import Database
from backhaul_api.jobs import turns
from backhaul_api.jobs.store import NewJob
from backhaul_api.keys import KeyRing
from backhaul_api.polling.envelopes import Run, build_command, find_second
from backhaul_api.polling.sealing import Boxes, Content
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.repositories.rules import Access, choose_access
from backhaul_api.repositories.secrets import fetch_closed

AT_ONCE = 50
"""Hosts that are told before others have a turn of the loop."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Offered:
    """A job that its host may get without a look, once it is committed."""

    job: NewJob
    repository_id: UUID
    public_key: bytes
    """The host's."""


def offer(
    connection: AsyncConnection, new: Iterable[NewJob], *, public_keys: Mapping[UUID, bytes]
) -> None:
    """Note, in the transaction that makes the jobs, that their hosts are to get them.

    Args:
        public_keys: of the hosts; those of removed ones are missing.
    """
    offered: dict[UUID, _Offered | None] = {}
    for job in new:
        host_id, key = job.host_id, public_keys.get(job.host_id)
        # Of several jobs, a look finds out which goes first.
        if host_id in offered or key is None or job.repository_id is None or not _is_plain(job):
            offered[host_id] = None
        else:
            offered[host_id] = _Offered(job, job.repository_id, key)
    for host_id, one in offered.items():
        if one is None:
            touch(connection, host_id)
        else:
            bring(connection, host_id, one)


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
        self._running: asyncio.Task[None] | None = None

    def tell(self, touched: Touched) -> None:
        """Wake whoever a commit has touched, or hand over what there is for them."""
        wakeups = self._wakeups
        for topic, news in touched.items():
            if (
                isinstance(news, _Offered)
                and wakeups.memory.is_trusted
                and wakeups.takes_news(topic)
            ):
                wakeups.memory.wake(topic)
                self._waiting.append(news)
            else:
                wakeups.wake(topic)
        if self._running is None:
            self._hand_over_known()
            if self._waiting:
                self._running = asyncio.get_running_loop().create_task(self._run())

    def _hand_over_known(self) -> None:
        """Hand over some jobs, up to the first on a repository that is not known."""
        known = self._wakeups.memory.repositories
        contents: dict[UUID, Content] = {}
        for _ in range(AT_ONCE):
            if not self._waiting:
                return
            repository_id = self._waiting[0].repository_id
            if repository_id not in contents:
                if (closed := known.find(repository_id)) is None:
                    return
                contents[repository_id] = Content(self._keys, closed)
            self._hand_over(self._waiting.popleft(), contents[repository_id])

    def _hand_over(self, offered: _Offered, content: Content) -> None:
        host_id = offered.job.host_id
        if not self._wakeups.takes_news(host_id):
            return  # it was woken since, and has looked after the commit
        try:
            box = self._boxes.seal(content, offered.public_key)
            command = build_command(_build_run(offered), credentials=box)
        except Exception as error:
            log.debug("handover.left", exc_info=error)
            self._wakeups.wake(host_id)
        else:
            self._wakeups.bring(host_id, (command,))

    async def _run(self) -> None:
        """Hand over what there is more of, and on repositories that are to be asked for first."""
        try:
            while self._waiting:
                repository_id = self._waiting[0].repository_id
                if self._wakeups.memory.repositories.find(repository_id) is None:
                    await self._learn_of(repository_id)
                self._hand_over_known()
                await asyncio.sleep(0)
        finally:
            self._running = None

    async def _learn_of(self, repository_id: UUID) -> None:
        """Find out what opens a repository; hosts with jobs on it look by themselves where nobody
        may know that."""
        memory = self._wakeups.memory.repositories
        try:
            async with self._database.reading() as connection:
                with memory.introduce() as remember:
                    if not await turns.has_exclusive(connection, repository_id):
                        closed = await fetch_closed(connection, repository_id)
                        closed.open(self._keys)
                        remember(repository_id, closed, repository_id)
        except Exception as error:
            log.debug("handover.left", exc_info=error)
        if memory.find(repository_id) is None:
            left, self._waiting = self._waiting, deque()
            for one in left:
                if one.repository_id == repository_id:
                    self._wakeups.wake(one.job.host_id)
                else:
                    self._waiting.append(one)


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
