"""The spool: sends what happened, in order, until the server has given its receipts."""

from __future__ import annotations

import logging
from functools import partial

from backhaul_agent.backoff import Backoff
from backhaul_agent.clock import Clock
from backhaul_agent.errors import (
    BatchRefusedError,
    DiskFullError,
    HostRemovedError,
    LinkLostError,
    LinkRefusedError,
    SupersededError,
)
from backhaul_agent.link import Link
from backhaul_agent.logs import fields
from backhaul_agent.room import wait_for_room, write_once_there_is_room
from backhaul_agent.spool import Spool

log = logging.getLogger(__name__)


async def send_forever(link: Link, spool: Spool, *, backoff: Backoff, clock: Clock) -> None:
    """Send one batch after the other. Ends by cancellation or HostRemovedError only."""
    while True:
        batch = await spool.next_batch()
        try:
            receipts = await link.send(batch.envelopes)
        except BatchRefusedError as refused:
            await write_once_there_is_room(partial(spool.refuse, batch, refused), clock)
            continue
        except HostRemovedError:
            raise
        except (LinkRefusedError, SupersededError) as refused:
            spool.take_back(is_link_down=False)
            await write_once_there_is_room(spool.merge_fires, clock)
            log.error("send.refused", extra=fields(reason=str(refused)))
            await clock.sleep(backoff.delay_after(refused))
            continue
        except LinkLostError as lost:
            spool.take_back(is_link_down=True, loss=lost.loss)
            await write_once_there_is_room(spool.merge_fires, clock)
            delay_s = backoff.delay_after(lost)
            log.warning("send.lost", extra=fields(reason=str(lost), retry_in_s=round(delay_s, 1)))
            await clock.sleep(delay_s)
            continue
        backoff.reset()
        try:
            spool.settle(batch, receipts)
        except DiskFullError as full:
            # What could not be settled is sent again; the server knows it by then.
            spool.wait_for_room()
            await wait_for_room(full, clock)
