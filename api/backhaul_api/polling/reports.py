"""Reports of many hosts in one transaction.

While a fleet works, its claims, progress, logs and results come in by the hundred a second. What
has queued up while the last transaction was under way goes into the next one: the hosts and their
jobs are read together, each repository is looked at once for all claims on it, and what is only
added, like entries of a log, is written together. A batch that is refused anything is left out,
and `receive` applies it by itself: this is only ever a shorter way to the same receipts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import Receipt
from backhaul.wire.commands import CommandAck
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul_api.clock import Clock
from backhaul_api.db.engine import Database
from backhaul_api.errors import NotReadyError
from backhaul_api.jobs import store
from backhaul_api.jobs.silence import Silence
from backhaul_api.jobs.turns import Claims
from backhaul_api.polling.arrival import Arrival, Gathered, lock_hosts, settle
from backhaul_api.polling.job_reports import APPLY
from backhaul_api.polling.together import Together

MAX_TOGETHER_BYTES = 128 * 1024
"""In one transaction, but for the last batch: its hosts' other batches wait for all of it. A batch
of more has one of its own, so that a host that says much holds up no other."""

ROUNDS_AT_ONCE = 2
"""On PostgreSQL, where a round waits for the network. SQLite has one writer."""

_PAUSE_EVERY = 8
"""Batches, between which SQLite, which answers without a pause, lets others have the loop."""

_MAX_REFUSED = 3
"""Hosts: with so many that are refused anything, the batches of a round are applied one by one."""

log = logging.getLogger(__name__)

Report = CommandAck | JobStarted | JobProgress | JobLog | JobFinished
"""What `job_reports` applies."""


@dataclass(frozen=True, slots=True)
class _Reported:
    """A batch that waits."""

    host_id: UUID
    envelopes: Sequence[Report]
    weight: int


class _LeftOutError(Exception):
    """A batch cannot be applied with others. Nothing of the transaction is kept."""

    def __init__(self, reported: _Reported) -> None:
        super().__init__()
        self.reported = reported


class Reports:
    """The reports that wait for their transaction, in one process."""

    def __init__(self, database: Database, clock: Clock, silence: Silence) -> None:
        self._database = database
        self._clock = clock
        self._silence = silence
        self._together = Together(
            self._apply,
            weigh=lambda reported: reported.weight,
            most=MAX_TOGETHER_BYTES,
            rounds_at_once=1 if database.is_sqlite else ROUNDS_AT_ONCE,
        )

    async def take(
        self, host_id: UUID, envelopes: Sequence[Report], *, size: int
    ) -> list[Receipt] | None:
        """Apply a batch of reports; None if it has to be applied by itself.

        Raises:
            NotReadyError: the database does not answer now.
        """
        if size > MAX_TOGETHER_BYTES:
            return None
        return await self._together.ask(_Reported(host_id, envelopes, size))

    async def _apply(self, together: list[_Reported]) -> list[list[Receipt] | None]:
        """Apply batches; hosts that are refused anything are left out, and it is tried again
        without them."""
        receipts: dict[int, list[Receipt]] = {}
        left = list(together)
        for _ in range(_MAX_REFUSED):
            try:
                receipts = await self._apply_all(left)
                break
            except NotReadyError:
                raise
            except _LeftOutError as error:
                # With what its host has sent since, which must not overtake it.
                left = [one for one in left if one.host_id != error.reported.host_id]
                if not left:
                    break
            except Exception as error:
                log.debug("reports.left", exc_info=error)
                break
        return [receipts.get(id(reported)) for reported in together]

    async def _apply_all(self, together: list[_Reported]) -> dict[int, list[Receipt]]:
        """Apply batches, all of them or none; gives the receipts of each by its identity."""
        async with self._database.writing() as connection:
            now = self._clock.now()
            seen = await lock_hosts(connection, {reported.host_id for reported in together})
            gathered = await _look(
                connection,
                together,
                seen,
                silent_since=self._silence.find_since(now),
            )
            receipts: dict[int, list[Receipt]] = {}
            arrivals: list[tuple[Arrival, datetime | None]] = []
            for reported in together:
                if reported.host_id in seen:
                    arrival = Arrival(connection, reported.host_id, now, gathered)
                    receipts[id(reported)] = await _take(arrival, reported)
                    arrivals.append((arrival, seen[reported.host_id]))
                if len(receipts) % _PAUSE_EVERY == 0:
                    await asyncio.sleep(0)
            await settle(connection, gathered, arrivals)
        return receipts


async def _look(
    connection: AsyncConnection,
    together: Sequence[_Reported],
    host_ids: Iterable[UUID],
    *,
    silent_since: datetime | None,
) -> Gathered:
    """Look at what the reports are about."""
    gathered = Gathered(Claims(connection, silent_since=silent_since))
    ids = {one.job_id for reported in together for one in reported.envelopes}
    found = await store.fetch_of_hosts(connection, ids, host_ids)
    gathered.jobs |= {job.id: job for job in found}
    await gathered.claims.look_at(found)
    return gathered


async def _take(arrival: Arrival, reported: _Reported) -> list[Receipt]:
    try:
        return [await APPLY[type(one)](arrival, one) for one in reported.envelopes]
    except OSError:
        raise  # no answer in time, say, which is no fault of the batch
    except Exception as error:
        log.debug("reports.left_out", exc_info=error)
        raise _LeftOutError(reported) from error
