"""POST /v1/tick."""

from __future__ import annotations

from litestar import Router, post

from backhaul.wire.ticks import Tick
from backhaul_api.auth import TIMER
from backhaul_api.services import Needs
from backhaul_api.tick import work


@post(
    "/",
    status_code=200,
    operation_id="tick",
    summary="Do what time has made necessary",
    description=(
        "Ends jobs that nobody took up in time and those of hosts that fell silent, and deletes "
        "what has expired: a bounded part of it, so ask again while `has_more`. For a timer, once "
        "a minute, where no `backhaul serve` runs, which does this by itself. Nothing is wrong "
        "without it: what is due is computed when it is looked at. May be asked by several at "
        "once. Takes the setting `tick_token` as a bearer token, or an operator's."
    ),
    opt=TIMER,
)
async def tick(services: Needs) -> Tick:
    return await work.tick(services)


router = Router("/v1/tick", route_handlers=[tick], tags=["tick"])
