"""The two requests of an agent: the poll, and the batch of what happened."""

from __future__ import annotations

from litestar import Router, post
from litestar.params import JSONBody

from backhaul.wire.agents import BatchReply, PollReply, PollRequest
from backhaul_api.auth import AGENT, AgentRequest
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
    return await Poll(services, request.user.host_id, data, request.receive).answer()


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


routers = [
    Router(
        "/v1/agent",
        route_handlers=[poll, send_envelopes],
        response_headers={"Cache-Control": "no-store"},
        tags=["agent protocol"],
    )
]
