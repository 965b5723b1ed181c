"""`forget`: of the snapshots with a source's name as a tag, by the source's keep rules."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import Source
from backhaul.wire.kinds import ForgetArguments, ForgetGuard, ForgetRequest, Retention
from backhaul_api.kinds.order import Fired, Order
from backhaul_api.snapshots.store import fetch_origins
from backhaul_api.sources.rules import require_keep_rule, require_source


async def plan(order: Order, request: ForgetRequest) -> ForgetArguments:
    return _build(await order.fetch_source(request.source), dry_run=request.dry_run)


async def plan_fired(fired: Fired) -> ForgetArguments:
    return _build(require_source(await fired.fetch_source(), "forget"))


async def complete(
    connection: AsyncConnection, repository_id: UUID, arguments: Any, *, now: datetime
) -> ForgetArguments:
    """Add what the server knows of the snapshots now; it is too much to be kept with the job."""
    planned = msgspec.convert(arguments, ForgetArguments)
    guard = ForgetGuard(
        keep=planned.keep,
        at=now,
        origins=tuple(await fetch_origins(connection, repository_id, tag=planned.tag)),
    )
    # Only in the guard: an agent that does not know it must not do it by these rules.
    return msgspec.structs.replace(planned, keep=_NO_RULES, guard=guard)


def _build(source: Source, *, dry_run: bool = False) -> ForgetArguments:
    return ForgetArguments(tag=source.name, keep=require_keep_rule(source), dry_run=dry_run)


_NO_RULES: Retention = ForgetArguments(tag="").keep
"""The default itself: what equals it only is sent, and so read by agents that know no guard."""
