"""`hello`: a process of an agent begins. It is the host's process from now on.

The newest process wins, and a process is new only once. One that had the host before and says hello
again (it was superseded, or its message was late) gets it back only from a process that has fallen
silent: two that live would otherwise take it from each other for ever, losing jobs each time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from backhaul.wire.agents import Hello, Receipt
from backhaul.wire.jobs import JobEvent
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts
from backhaul_api.jobs import store
from backhaul_api.polling.arrival import DUPLICATE, OK, Arrival

MAX_RECENT_BOOTS = 16

SILENT_AFTER = timedelta(minutes=3)
"""A process that lives is noted once a minute."""


async def apply_hello(arrival: Arrival, hello: Hello) -> Receipt:
    """Give the host to this process, and count as lost what it does not know of."""
    host = (await arrival.connection.execute(_HOST, {"host_id": arrival.host_id})).one()
    if host.boot_id == hello.boot_id:
        # Jobs that came after the first hello are not in it and must not be lost for that.
        return DUPLICATE
    if str(hello.boot_id) in (host.recent_boots or ()) and not _is_silent(host, arrival.now):
        return DUPLICATE
    await arrival.connection.execute(
        _TAKE_OVER,
        {
            "host_id": arrival.host_id,
            "boot": hello.boot_id,
            "told": hello.facts,
            "boots": _remember(host, str(hello.boot_id)),
            # Of this process: how long the one before was away says nothing about it.
            "now": arrival.now,
        },
    )
    await _lose_forgotten_jobs(arrival, hello)
    # An older process that is parked looks again and is told that it was superseded.
    arrival.topics.add(arrival.host_id)
    return OK


def _is_silent(host: Any, now: datetime) -> bool:
    return host.last_seen_at is None or now - host.last_seen_at >= SILENT_AFTER


def _remember(host: Any, boot_id: str) -> list[str]:
    """Build the list of the processes that had the host, newest last."""
    # The current one may be missing: the first poll of a host makes its process the current one.
    before = [*(host.recent_boots or ()), *([str(host.boot_id)] if host.boot_id else ())]
    newest_last = dict.fromkeys(reversed([*before, boot_id]))
    return list(newest_last)[:MAX_RECENT_BOOTS][::-1]


async def _lose_forgotten_jobs(arrival: Arrival, hello: Hello) -> None:
    held = {job.job_id for job in hello.jobs}
    forgotten = await store.fetch_running_elsewhere(arrival.connection, arrival.host_id, held=held)
    for job in forgotten:
        await store.move(
            arrival.connection,
            job,
            JobEvent.VANISH,
            at=arrival.now,
            message="The agent started again and no longer knew of this job.",
        )
        arrival.topics.add(job.id)
        arrival.gathered.ended.append(job)


_HOST = constant(
    sa.select(hosts.c.boot_id, hosts.c.recent_boots, hosts.c.last_seen_at).where(
        hosts.c.id == sa.bindparam("host_id")
    )
)
_TAKE_OVER = constant(
    sa.update(hosts)
    .where(hosts.c.id == sa.bindparam("host_id"))
    .values(
        boot_id=sa.bindparam("boot"),
        facts=sa.bindparam("told"),
        recent_boots=sa.bindparam("boots"),
        last_seen_at=sa.bindparam("now"),
    )
)
