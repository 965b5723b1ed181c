"""The requests of an agent: the poll, the batch of what happened, and a hold to try the path."""

from __future__ import annotations

import time
from uuid import uuid4

from litestar import Router, post
from litestar.params import JSONBody

from backhaul.wire.agents import BatchReply, HoldReply, HoldRequest, PollReply, PollRequest
from backhaul_api.auth import AGENT, AgentRequest
from backhaul_api.polling.parking import Wait, look_until
from backhaul_api.polling.poll import Poll
from backhaul_api.polling.receive import receive
from backhaul_api.services import Needs


@post(
    "/poll",
    operation_id="poll",
    summary="Ask what is to be done; held open until something is",
    status_code=200,
    opt=AGENT,
)
async def poll(request: AgentRequest, services: Needs, data: JSONBody[PollRequest]) -> PollReply:
    agent = request.user
    poll = Poll(
        services,
        agent.host_id,
        data,
        agent.name,
        agent.token_hash,
        request.receive,
    )
    return await poll.answer()


@post(
    "/envelopes",
    operation_id="send_envelopes",
    summary="Report what happened; one receipt for each envelope",
    status_code=200,
    opt=AGENT,
)
async def send_envelopes(request: AgentRequest, services: Needs) -> BatchReply:
    # Decoded here, not as `data`: the envelopes in it must stay raw.
    return await receive(services, request.user, await request.body())


@post(
    "/hold",
    operation_id="hold",
    summary="Answer after a while: how long can the path hold a request?",
    status_code=200,
    opt=AGENT,
)
async def hold(request: AgentRequest, services: Needs, data: JSONBody[HoldRequest]) -> HoldReply:
    started = time.monotonic()

    async def look() -> None:
        pass

    wait = Wait(
        wakeups=services.wakeups,
        topic=uuid4(),  # nobody ever rings it
        seconds=min(data.hold, services.settings.longest_hold),
        client=request.receive,
    )
    await look_until(look, lambda _: False, wait)
    return HoldReply(
        held=time.monotonic() - started,
        allowed=services.settings.longest_hold,
        server_time=services.clock.now(),
    )


routers = [
    Router(
        "/v1/agent",
        route_handlers=[poll, send_envelopes, hold],
        response_headers={"Cache-Control": "no-store"},
        tags=["agent protocol"],
    )
]
