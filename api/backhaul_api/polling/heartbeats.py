"""Writes down which quiet hosts have polled: one statement for many, instead of one for each poll.

A process that dies takes a few seconds of this with it. The hosts poll again, here or elsewhere.
"""

from __future__ import annotations

import asyncio
import logging

import sqlalchemy as sa

from backhaul_api.db.parts import in_parts
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts
from backhaul_api.errors import NotReadyError
from backhaul_api.hosts.presence import WAS_LONG_AGO, build_bounds
from backhaul_api.logs import facts
from backhaul_api.services import Services

EVERY_S = 10.0
"""Well below the minutes after which a host counts as offline."""
_AT_ONCE = 250
"""Hosts in one transaction: SQLite runs it in the loop, where others would wait for more."""

log = logging.getLogger(__name__)


async def write_forever(services: Services) -> None:
    """Write, again and again. Ends by cancellation only."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            await write(services)
        except NotReadyError as error:
            # They poll again within a minute.
            log.warning("heartbeats.lost", extra=facts(reason=str(error)))
        except Exception as error:
            # A fault of ours must not end it for as long as the process lives.
            log.error("heartbeats.broke", exc_info=error)


async def write(services: Services) -> None:
    """Write who was heard of since the last time, unless that stands there already."""
    heard = services.wakeups.memory.take_heard()
    if not heard:
        return
    # The earliest: nobody was there later than they were.
    at = min(heard.values())
    for some in in_parts(heard, _AT_ONCE):
        async with services.database.writing() as connection:
            await connection.execute(_NOTE, {"heard": some, "at": at, **build_bounds(at)})


# Two instances that waited for each other's hosts would be a deadlock. Whoever has locked one is a
# batch of it, which notes the visit itself, or the next poll's turn.
_FREE = (
    sa.select(hosts.c.id)
    .where(hosts.c.id.in_(sa.bindparam("heard", expanding=True)), WAS_LONG_AGO)
    .with_for_update(key_share=True, skip_locked=True)
)
_NOTE = constant(
    sa.update(hosts).where(hosts.c.id.in_(_FREE)).values(last_seen_at=sa.bindparam("at"))
)
