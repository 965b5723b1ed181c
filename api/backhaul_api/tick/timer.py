"""The timer of `backhaul serve`: what a cloud's scheduler does with `POST /v1/tick` elsewhere."""

from __future__ import annotations

import asyncio
import logging

from backhaul_api.errors import DomainError
from backhaul_api.logs import facts
from backhaul_api.services import Services
from backhaul_api.tick.work import tick

EVERY_S = 60.0

log = logging.getLogger(__name__)


async def tick_forever(services: Services) -> None:
    """Tick, again and again. Ends by cancellation only."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            while (await tick(services)).has_more:
                pass
        except DomainError as error:
            # The database is away, or a job got on meanwhile: the next tick meets what is left.
            log.warning("tick.failed", extra=facts(reason=str(error)))
        except Exception as error:
            # A fault of ours must not end the ticks for as long as the process lives.
            log.error("tick.broke", exc_info=error)
