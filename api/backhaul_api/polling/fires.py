"""Fires of many hosts in one transaction, where nothing about them needs a closer look.

At the full hour a fleet fires within a second or two, and most of it is the same: a backup of a
source, at a slot that nobody has heard of. What has queued up while the last transaction was under
way goes into the next one: the hosts, schedules and sources are read together, the jobs written
together. A batch in which anything is else (a slot that is known or earlier than a known one, one
that stands for missed ones, a run that began offline, another kind, any fault) is left as it is,
and `receive` applies it by itself: this is only ever a shorter way to the same receipts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import Batch, BatchReply, Receipt, ReceiptStatus, UpEnvelope
from backhaul.wire.kinds import BackupArguments
from backhaul.wire.schedules import ScheduleFire, ScheduleKind
from backhaul_api.clock import Clock
from backhaul_api.db.engine import Database
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, jobs, repositories, schedules
from backhaul_api.errors import DomainError
from backhaul_api.jobs import store
from backhaul_api.kinds.backup import build_of_source
from backhaul_api.polling.arrival import lock_hosts
from backhaul_api.polling.handover import offer
from backhaul_api.polling.schedule_reports import build_job, check_active, check_fire
from backhaul_api.polling.together import Together
from backhaul_api.sources import store as sources

MAX_TOGETHER = 500
"""Fires in one transaction, but for the last batch."""

_TAG = f'"{ScheduleFire.__struct_config__.tag}"'.encode()

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Fired:
    """A batch that waits."""

    host_id: UUID
    fires: Sequence[ScheduleFire]


class Fires:
    """The fires that wait for their transaction, in one process."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._together = Together(
            self._try, weigh=lambda fired: len(fired.fires), most=MAX_TOGETHER
        )

    async def take(self, host_id: UUID, fires: Sequence[ScheduleFire]) -> BatchReply | None:
        """Create the jobs of a batch; None if it has to be applied in the ordinary way."""
        return await self._together.ask(_Fired(host_id, fires))

    async def _try(self, together: list[_Fired]) -> list[BatchReply | None]:
        try:
            return await self._apply(together)
        except Exception as error:
            log.debug("fires.left", exc_info=error)
            return [None] * len(together)

    async def _apply(self, together: list[_Fired]) -> list[BatchReply | None]:
        async with self._database.writing() as connection:
            now = self._clock.now()
            locked = await lock_hosts(connection, {fired.host_id for fired in together})
            look = await _Look.take(connection, together, now=now)
            planned = [look.plan(fired) if fired.host_id in locked else None for fired in together]
            new = [job for jobs_of_batch in planned for job in jobs_of_batch or ()]
            await store.insert_many(connection, new, host_names=look.host_names, now=now)
            offer(connection, new, public_keys=look.public_keys, updates=look.updates)
        return [None if jobs_of is None else _build_reply(jobs_of) for jobs_of in planned]


class _Look:
    """What the fires of some hosts are planned from."""

    def __init__(
        self,
        found: Mapping[UUID, sa.RowMapping],
        arguments: Mapping[UUID, BackupArguments],
        now: datetime,
    ) -> None:
        self._schedules = found
        self._arguments = arguments
        self._last_slots = {id_: row["last_slot"] for id_, row in found.items()}
        self._now = now
        self.host_names = {row["host_id"]: row["host"] for row in found.values()}
        self.public_keys = {
            row["host_id"]: row["public_key"] for row in found.values() if row["removed_at"] is None
        }
        self.updates = {row["repository_id"]: row["updated_at"] for row in found.values()}

    @classmethod
    async def take(
        cls, connection: AsyncConnection, together: Iterable[_Fired], *, now: datetime
    ) -> _Look:
        ids = {fire.schedule_id for fired in together for fire in fired.fires}
        rows = (await connection.execute(_SCHEDULES, {"ids": list(ids)})).mappings()
        found = {row["id"]: row for row in rows}
        wanted = {row["source_id"] for row in found.values() if row["source_id"] is not None}
        used = await sources.fetch_some(connection, wanted)
        return cls(found, {id_: build_of_source(source) for id_, source in used.items()}, now)

    def plan(self, fired: _Fired) -> list[store.NewJob] | None:
        """Plan the jobs of a batch; None if any of its fires needs a closer look."""
        slots: dict[UUID, datetime] = {}
        planned: list[store.NewJob] = []
        for fire in fired.fires:
            schedule = self._schedules.get(fire.schedule_id)
            if schedule is None or schedule["host_id"] != fired.host_id:
                return None
            last = slots.get(fire.schedule_id, self._last_slots[fire.schedule_id])
            arguments = self._arguments.get(schedule["source_id"])
            is_newest = last is None or last < fire.scheduled_at
            if not is_newest or arguments is None or schedule["kind"] != ScheduleKind.BACKUP:
                return None
            try:
                check_active(schedule)
                check_fire(fire, self._now)
            except DomainError:
                return None
            slots[fire.schedule_id] = fire.scheduled_at
            planned.append(
                build_job(
                    fire,
                    schedule,
                    repository_id=schedule["repository_id"],
                    arguments=arguments,
                    missed=0,
                    now=self._now,
                )
            )
        self._last_slots.update(slots)
        return planned


def read_fires(batch: Batch, decode: Callable[[bytes], UpEnvelope]) -> list[ScheduleFire] | None:
    """Read a batch of nothing but fires that stand for themselves; None for any other."""
    fires: list[ScheduleFire] = []
    for raw in batch.envelopes:
        if _TAG not in bytes(raw):
            return None
        try:
            fire = decode(bytes(raw))
        except DomainError:
            return None
        if not isinstance(fire, ScheduleFire) or not _stands_for_itself(fire):
            return None
        fires.append(fire)
    return fires or None


def _stands_for_itself(fire: ScheduleFire) -> bool:
    return not fire.ran_offline and fire.missed == 0 and fire.missed_since is None


def _build_reply(created: Iterable[store.NewJob]) -> BatchReply:
    return BatchReply(
        receipts=tuple(Receipt(status=ReceiptStatus.OK, job_id=job.id) for job in created)
    )


_SCHEDULES = constant(
    sa.select(
        schedules.c.id,
        schedules.c.host_id,
        schedules.c.repository_id,
        schedules.c.source_id,
        schedules.c.kind,
        schedules.c.enabled,
        schedules.c.deleted_at,
        schedules.c.start_deadline,
        schedules.c.max_duration,
        schedules.c.attempts,
        schedules.c.retry_delay,
        hosts.c.name.label("host"),
        hosts.c.public_key,
        hosts.c.removed_at,
        repositories.c.updated_at,
        sa.select(sa.func.max(jobs.c.scheduled_at))
        .where(jobs.c.schedule_id == schedules.c.id)
        .scalar_subquery()
        .label("last_slot"),
    )
    .join(hosts, hosts.c.id == schedules.c.host_id)
    .join(repositories, repositories.c.id == schedules.c.repository_id)
    .where(schedules.c.id.in_(sa.bindparam("ids", expanding=True)))
)
