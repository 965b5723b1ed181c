"""New jobs that go to their hosts with the commit that makes them.

A host whose poll is parked here as that of a quiet host (see `memory`) has nothing else to be told:
its look after the commit would find the new job and no more, and whoever makes the job has all of
it at hand. So the command is built within the transaction, and after the commit the poll is
answered with it at once, without a look. Of everything else (a poll that is not parked here, a job
whose turn it is not, credentials that cannot be sent) the host is only told to look: this is only
ever a shorter way to the same answer.

That a host was told means nothing: an answer that gets lost is given again by the next look, and a
claim asks again whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul_api.db.changes import bring
from backhaul_api.jobs import turns
from backhaul_api.jobs.silence import Silence
from backhaul_api.jobs.store import NewJob
from backhaul_api.keys import KeyRing
from backhaul_api.polling.envelopes import Due, Run, add_run
from backhaul_api.polling.sealing import Boxes, Content, Sealer
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.repositories.rules import Access

_AT_ONCE = 50
"""Commands that are built before others have a turn of the loop."""


class Handover:
    """Hands over the new jobs of one process."""

    def __init__(self, wakeups: Wakeups, keys: KeyRing, boxes: Boxes, silence: Silence) -> None:
        self._wakeups = wakeups
        self._keys = keys
        self._boxes = boxes
        self._silence = silence

    async def prepare(
        self,
        connection: AsyncConnection,
        new: Sequence[NewJob],
        *,
        public_keys: Mapping[UUID, bytes],
        now: datetime,
    ) -> None:
        """Build, in the transaction that makes the jobs, what their hosts are told after it.

        Args:
            public_keys: of their hosts; of those that were removed, there are none.
        """
        of_hosts = self._choose(job for job in new if job.host_id in public_keys)
        waiting = [
            built for job in of_hosts.values() if (built := turns.build_waiting(job)) is not None
        ]
        obstacles = await turns.find_obstacles(
            connection, waiting, now=now, silent_since=self._silence.find_since(now)
        )
        contents: dict[tuple[UUID, Access], Content] = {}
        for number, (host_id, job) in enumerate(of_hosts.items(), start=1):
            if job.id in obstacles or job.repository_id is None:
                continue
            sealer = Sealer(
                connection, self._keys, self._boxes, host_id, public_keys[host_id], contents
            )
            due = Due()
            await add_run(due, sealer, _build_run(job, job.repository_id), now=now)
            if due.envelopes:
                bring(connection, host_id, due.envelopes)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _choose(self, new: Iterable[NewJob]) -> dict[UUID, NewJob]:
        """Choose the jobs that can go to their hosts like this."""
        chosen: dict[UUID, NewJob] = {}
        left: set[UUID] = set()
        for job in new:
            # Of several jobs, a look finds out which goes first. One that needs the repository for
            # itself may take many rows to decide and to complete, which nobody's commit waits for.
            if job.host_id in chosen or job.kind in EXCLUSIVE_KINDS:
                left.add(job.host_id)
            elif self._wakeups.takes_news(job.host_id):
                chosen[job.host_id] = job
        for host_id in left:
            chosen.pop(host_id, None)
        return chosen


def _build_run(job: NewJob, repository_id: UUID) -> Run:
    return Run(
        job_id=job.id,
        attempt=1,
        kind=job.kind,
        priority=turns.choose_priority(job.kind, job.actor_kind),
        arguments=job.arguments,
        repository_id=repository_id,
        start_deadline_at=job.start_deadline_at,
        max_duration=job.max_duration,
    )
