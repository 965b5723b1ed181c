"""One tick: a bounded part of what time has made necessary.

Safe at any moment and any number of times at once: each step takes what it works on and looks again
whether it is still to be done.
"""

from __future__ import annotations

import logging

import msgspec

from backhaul.wire.ticks import Tick
from backhaul_api.jobs import old_logs
from backhaul_api.jobs.overdue import close_overdue
from backhaul_api.logs import facts
from backhaul_api.services import Services
from backhaul_api.tick import old_rows

log = logging.getLogger(__name__)


async def tick(services: Services) -> Tick:
    """Do a bounded part of what is to be done, and tell what it was.

    Raises:
        NotReadyError: the database does not answer; what was done before stays done.
    """
    closed = await close_overdue(services)
    async with services.database.writing() as connection:
        deleted = await old_rows.delete(connection, now=services.clock.now())
    logs = await _delete_logs(services)
    done = Tick(
        expired_jobs=closed.expired,
        lost_jobs=closed.lost,
        deleted_sessions=deleted["sessions"],
        deleted_tokens=deleted["enrollment_tokens"] + deleted["setup_tokens"],
        deleted_answers=deleted["idempotency_keys"],
        deleted_queries=deleted["queries"],
        deleted_events=deleted["events"],
        deleted_log_lines=logs.lines,
        has_more=(
            closed.has_more or logs.has_more or max(deleted.values()) >= old_rows.MAX_AT_ONCE
        ),
    )
    if done not in {Tick(), Tick(has_more=True)}:
        log.info("tick.done", extra=facts(**msgspec.to_builtins(done)))
    return done


async def _delete_logs(services: Services) -> old_logs.Deleted:
    if (limit := services.find_log_limit()) is None:
        return old_logs.Deleted(lines=0, has_more=False)
    async with services.database.writing() as connection:
        return await old_logs.delete(connection, ended_before=limit)
