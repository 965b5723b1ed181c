"""`forget`: of the snapshots with a source's name as a tag, by the source's keep rules."""

from __future__ import annotations

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import ForgetArguments, ForgetRequest
from backhaul_api.kinds.order import Fired, Order
from backhaul_api.sources.rules import require_keep_rule, require_source


async def plan(order: Order, request: ForgetRequest) -> ForgetArguments:
    return _build(await order.fetch_source(request.source))


async def plan_fired(fired: Fired) -> ForgetArguments:
    return _build(require_source(await fired.fetch_source(), "forget"))


def _build(source: Source) -> ForgetArguments:
    return ForgetArguments(tag=source.name, keep=require_keep_rule(source))
