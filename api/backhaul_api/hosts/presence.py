"""What depends on the moment at which a host is looked at: is it there, what comes next."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.fleet import Host, HostState
from backhaul_api.db.tables import hosts
from backhaul_api.schedules import store as schedules

OFFLINE_AFTER = timedelta(minutes=3)
"""A held poll ends within half a minute, and is noted at most once a minute."""


LAST_SEEN_EVERY = timedelta(minutes=1)
"""A fleet's heartbeats must not become the database's main load."""

LAST_SEEN_AHEAD = timedelta(minutes=3)
"""What is further ahead comes from a clock that was wrong: a host that is gone would count as there
until then. The clocks of instances differ by less."""


def is_long_ago(last_seen_at: datetime | None, now: datetime) -> bool:
    """Tell whether that a host is there is to be noted again."""
    if last_seen_at is None:
        return True
    return not -LAST_SEEN_AHEAD <= now - last_seen_at < LAST_SEEN_EVERY


WAS_LONG_AGO = sa.or_(
    hosts.c.last_seen_at <= sa.bindparam("long_ago"),
    hosts.c.last_seen_at > sa.bindparam("ahead"),
)
"""The same condition for the rows of hosts that were seen before; see `build_bounds`."""


def build_bounds(now: datetime) -> dict[str, datetime]:
    """Build the parameters of `WAS_LONG_AGO`."""
    return {"long_ago": now - LAST_SEEN_EVERY, "ahead": now + LAST_SEEN_AHEAD}


async def complete(connection: AsyncConnection, found: list[Host], *, now: datetime) -> list[Host]:
    """Fill in what the rows of hosts do not hold."""
    next_fires: dict[UUID, datetime] = {}
    for schedule in await schedules.fetch_enabled(connection, [one.id for one in found], now=now):
        if schedule.next_fire_at is not None:
            known = next_fires.get(schedule.host_id, schedule.next_fire_at)
            next_fires[schedule.host_id] = min(known, schedule.next_fire_at)
    return [
        msgspec.structs.replace(
            host, state=find_state(host.last_seen_at, now), next_fire_at=next_fires.get(host.id)
        )
        for host in found
    ]


def find_state(last_seen_at: datetime | None, now: datetime) -> HostState:
    if last_seen_at is None:
        return HostState.NEVER_SEEN
    return HostState.ONLINE if now - last_seen_at < OFFLINE_AFTER else HostState.OFFLINE


def is_in_state(state: HostState, now: datetime) -> sa.ColumnElement[bool]:
    """Build the condition that the rows of such hosts fulfil."""
    match state:
        case HostState.NEVER_SEEN:
            return hosts.c.last_seen_at.is_(None)
        case HostState.ONLINE:
            return hosts.c.last_seen_at > now - OFFLINE_AFTER
        case HostState.OFFLINE:
            return hosts.c.last_seen_at <= now - OFFLINE_AFTER
