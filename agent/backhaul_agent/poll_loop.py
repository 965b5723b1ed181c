"""The poll: asks what differs, one request at a time, and hands the answer to the inbox.

Executes nothing and sends nothing: a job never delays the poll, nor the poll a report.
"""

from __future__ import annotations

import logging

from backhaul_agent.backoff import SUPERSEDED_RETRY_S, Backoff
from backhaul_agent.clock import Clock
from backhaul_agent.errors import (
    BatchRefusedError,
    HostRemovedError,
    LinkLostError,
    LinkRefusedError,
    SupersededError,
)
from backhaul_agent.hold import Hold
from backhaul_agent.inbox import Inbox
from backhaul_agent.link import Link
from backhaul_agent.logs import fields

log = logging.getLogger(__name__)

SHORTEST_INTERVAL_S = 1.0
"""Between two polls that brought nothing new: a server that answers at once cannot spin us."""


async def poll_forever(
    link: Link, inbox: Inbox, hold: Hold, *, backoff: Backoff, clock: Clock
) -> None:
    """Hold one long poll open at a time. Ends by cancellation or HostRemovedError only."""
    while True:
        await inbox.is_known()
        started_s = clock.monotonic()
        try:
            reply = await link.poll(inbox.build_request(hold.seconds))
        except SupersededError:
            log.warning("poll.superseded", extra=fields(hint="another process has this identity"))
            await clock.sleep(backoff.around(SUPERSEDED_RETRY_S))
            inbox.say_hello()
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
        has_news = await inbox.take(
            reply.envelopes
        )  # on disk before the next poll says that we have it
        interval_s = 0.0 if has_news else SHORTEST_INTERVAL_S
        passed_s = clock.monotonic() - started_s
        await clock.sleep(max(reply.pause, interval_s - passed_s, 0.0))
