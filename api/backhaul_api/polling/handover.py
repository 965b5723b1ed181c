"""New jobs that go to their hosts right after the commit that makes them.

A host whose poll is parked here as that of a quiet host (see `memory`) has nothing else to be told:
its look would find the new job and no more, and whoever makes the job has all of it at hand. So the
command is built from that, for all jobs of a commit together, and the poll is answered with it. All
other hosts are only woken (their poll is not parked here, the job's turn has not come, what it
needs cannot be sent): this is only ever a shorter way to the same answer.

That a host was told means nothing: an answer that gets lost is given again by the next look, and a
claim asks again whose turn it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.clock import Clock
from backhaul_api.db.changes import Touched, bring, touch
from backhaul_api.db.engine import Database
from backhaul_api.jobs import turns
from backhaul_api.jobs.silence import Silence
from backhaul_api.jobs.store import NewJob
from backhaul_api.keys import KeyRing
from backhaul_api.polling.envelopes import Due, Run, add_run
from backhaul_api.polling.sealing import Boxes, Content, Sealer
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.repositories.rules import Access

MAX_TOGETHER = 200
"""Jobs in one round; their hosts have them before the next one begins."""

_AT_ONCE = 20
"""Commands that are built before others have a turn of the loop."""

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
        host_id, repository_id = job.host_id, job.repository_id
        is_plain = job.kind not in EXCLUSIVE_KINDS and repository_id is not None
        # Of several jobs, a look finds out which goes first. One that needs the repository for
        # itself takes many rows to decide on and to complete, and is seldom.
        if host_id in offered or host_id not in public_keys or not is_plain:
            offered[host_id] = None
        else:
            assert repository_id is not None  # noqa: S101 (it would not be plain)
            offered[host_id] = _Offered(job, repository_id, public_keys[host_id])
    for host_id, one in offered.items():
        if one is None:
            touch(connection, host_id)
        else:
            bring(connection, host_id, one)


class Handover:
    """Tells the hosts, and all others, what the commits of one process have changed."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        silence: Silence,
        wakeups: Wakeups,
        keys: KeyRing,
        boxes: Boxes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._silence = silence
        self._wakeups = wakeups
        self._keys = keys
        self._boxes = boxes
        self._waiting: deque[_Offered] = deque()
        self._running: asyncio.Task[None] | None = None

    def tell(self, touched: Touched) -> None:
        """Wake whoever a commit has touched, and begin to hand its jobs over."""
        wakeups = self._wakeups
        for topic, news in touched.items():
            if isinstance(news, _Offered) and wakeups.takes_news(topic):
                wakeups.memory.wake(topic)
                self._waiting.append(news)
            else:
                wakeups.wake(topic)
        if self._waiting and self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), MAX_TOGETHER)
                together = [self._waiting.popleft() for _ in range(count)]
                try:
                    await self._hand_over(together)
                except Exception as error:
                    log.debug("jobs.left", exc_info=error)
                finally:
                    # Who has the job by now does not listen any more.
                    self._wakeups.wake(*(one.job.host_id for one in together))
        finally:
            self._running = None

    async def _hand_over(self, together: Sequence[_Offered]) -> None:
        now = self._clock.now()
        contents: dict[tuple[UUID, Access], Content] = {}
        waiting = [built for one in together if (built := turns.build_waiting(one.job)) is not None]
        async with self._database.reading() as connection:
            obstacles = await turns.find_obstacles(
                connection, waiting, now=now, silent_since=self._silence.find_since(now)
            )
            for number, one in enumerate(together, start=1):
                host_id = one.job.host_id
                if one.job.id in obstacles or not self._wakeups.takes_news(host_id):
                    continue
                sealer = Sealer(
                    connection, self._keys, self._boxes, host_id, one.public_key, contents
                )
                due = Due()
                await add_run(due, sealer, _build_run(one), now=now)
                if due.envelopes:
                    self._wakeups.bring(host_id, due.envelopes)
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)


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
