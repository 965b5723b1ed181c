"""The poll: asks what differs, one request at a time, and hands the answer to the inbox.

Executes nothing and sends nothing: a job never delays the poll, nor the poll a report.
"""

from __future__ import annotations

import asyncio
import logging

from backhaul.wire.agents import PollReply
from backhaul_agent.backoff import SUPERSEDED_RETRY_S, Backoff
from backhaul_agent.clock import Clock
from backhaul_agent.errors import (
    BatchRefusedError,
    DiskFullError,
    HostRemovedError,
    LinkLostError,
    LinkRefusedError,
    SupersededError,
)
from backhaul_agent.hold import Hold
from backhaul_agent.inbox import Inbox
from backhaul_agent.link import Link
from backhaul_agent.logs import fields
from backhaul_agent.room import wait_for_room, write_once_there_is_room

log = logging.getLogger(__name__)

SHORTEST_INTERVAL_S = 1.0
"""Between two polls that brought nothing new: a server that answers at once cannot spin us."""


class _AskAgain(Exception):  # noqa: N818 (no error: the question has changed)
    """What the poll says is no longer so, and would keep the server from answering."""


async def _poll(link: Link, inbox: Inbox, hold: Hold) -> PollReply:
    """Ask, unless meanwhile the answer to another question is wanted: nothing is lost by that."""
    inbox.claim_given_back.clear()
    polling = asyncio.ensure_future(link.poll(inbox.build_request(hold.seconds)))
    changed = asyncio.ensure_future(inbox.claim_given_back.wait())
    try:
        await asyncio.wait({polling, changed}, return_when=asyncio.FIRST_COMPLETED)
        if not polling.done():
            raise _AskAgain
        return polling.result()
    finally:
        for task in (polling, changed):
            task.cancel()
        await asyncio.gather(polling, changed, return_exceptions=True)


async def poll_forever(
    link: Link, inbox: Inbox, hold: Hold, *, backoff: Backoff, clock: Clock
) -> None:
    """Hold one long poll open at a time. Ends by cancellation or HostRemovedError only."""
    while True:
        await inbox.is_known()
        started_s = clock.monotonic()
        try:
            reply = await _poll(link, inbox, hold)
        except _AskAgain:
            # The server may find that it is the job's turn, and at the claim that it is not.
            await clock.sleep(max(SHORTEST_INTERVAL_S - (clock.monotonic() - started_s), 0.0))
            continue
        except SupersededError:
            log.warning("poll.superseded", extra=fields(hint="another process has this identity"))
            await clock.sleep(backoff.around(SUPERSEDED_RETRY_S))
            await write_once_there_is_room(inbox.say_hello, clock)
            continue
        except HostRemovedError:
            raise
        except (LinkRefusedError, BatchRefusedError) as refused:
            log.error("poll.refused", extra=fields(reason=str(refused)))
            await clock.sleep(backoff.delay_after(refused))
            continue
        except LinkLostError as lost:
            hold.note_loss(lost, now_s=clock.monotonic())
            delay_s = backoff.delay_after(lost)
            log.warning("poll.lost", extra=fields(reason=str(lost), retry_in_s=round(delay_s, 1)))
            await clock.sleep(delay_s)
            continue
        backoff.reset()
        hold.note_answer(reply.hold, now_s=clock.monotonic())
        try:
            # On disk before the next poll says that we have it.
            has_news = await inbox.take(reply.envelopes)
        except DiskFullError as full:
            # What was not written was not taken: the next poll brings it again.
            await wait_for_room(full, clock)
            continue
        interval_s = 0.0 if has_news else SHORTEST_INTERVAL_S
        passed_s = clock.monotonic() - started_s
        await clock.sleep(max(reply.pause, interval_s - passed_s, 0.0))
