"""GET /v1/events."""

from __future__ import annotations

from typing import Annotated

from litestar import Router, get
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.events import KINDS, EventPage
from backhaul_api.auth import OperatorRequest
from backhaul_api.db.changes import EVENTS
from backhaul_api.errors import InvalidError
from backhaul_api.events import store
from backhaul_api.events.store import BEGINNING, Filters, Position
from backhaul_api.hosts import store as hosts
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.polling.parking import Wait, look_until
from backhaul_api.services import Needs

MAX_WAIT_S = 25.0

MAX_TAIL = 100_000

RECHECK_S = 0.5
"""On PostgreSQL, another instance may have written, and rings no bell here."""

_GROUPS = frozenset(kind.partition(".")[0] for kind in KINDS)


@get(
    "/",
    operation_id="list_events",
    summary="List events, oldest first, or follow them",
    description=(
        "Events of the last 30 days, in the order in which they were committed; none is missed. "
        "`next_cursor` is always there: ask with it and `wait` to be answered when something "
        "happens. Without a cursor, the list begins with the oldest event, or `tail` before the "
        "newest."
    ),
)
async def list_events(  # noqa: PLR0913 (each is a parameter of the query)
    request: OperatorRequest,
    services: Needs,
    *,
    kinds: Annotated[
        list[str] | None,
        QueryParameter(
            name="kind",
            description="Only these: `job.failed`, or `job` for all of jobs. May be repeated.",
        ),
    ] = None,
    host: Annotated[
        str | None, QueryParameter(description="Only of this host, by name or id.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    tail: Annotated[
        int | None,
        QueryParameter(
            ge=0,
            le=MAX_TAIL,
            description="Without a cursor: begin so many events before the newest.",
        ),
    ] = None,
    wait: Annotated[
        float,
        QueryParameter(
            ge=0,
            le=MAX_WAIT_S,
            description="Wait so many seconds for an event when there is none from the cursor on.",
        ),
    ] = 0.0,
) -> EventPage:
    for kind in kinds or ():
        _check_kind(kind)
    async with services.database.reading() as connection:
        found = await hosts.fetch(connection, host) if host is not None else None
        filters = Filters(kinds=tuple(kinds or ()), host_id=found.id if found else None)
        after = await _find_start(connection, filters, cursor=cursor, tail=tail)

    async def look() -> EventPage:
        # What was looked through and did not match is not looked through again.
        nonlocal after
        async with services.database.reading() as connection:
            end = await store.fetch_end(connection)
            rows = await store.fetch_between(
                connection, filters, after=after, end=end, limit=limit + 1
            )
        shown, has_more = split_page(rows, limit)
        after = shown[-1][0] if has_more else max(after, end)
        return EventPage(
            items=tuple(event for _, event in shown),
            next_cursor=encode_cursor(after.transaction_id, after.id),
            has_more=has_more,
        )

    wait_for = Wait(
        wakeups=services.wakeups,
        topic=EVENTS,
        seconds=services.settings.cap_wait(wait),
        client=request.receive,
        recheck_s=services.choose_recheck(RECHECK_S),
    )
    return await look_until(look, lambda page: bool(page.items), wait_for)


def _check_kind(kind: str) -> None:
    """Refuse a kind that no event can have: whoever followed it would wait for ever.

    Raises:
        InvalidError: it is none, and names those that there are.
    """
    if kind in KINDS or kind in _GROUPS:
        return
    group = kind.partition(".")[0]
    known = [one for one in KINDS if one.startswith(f"{group}.")] or _GROUPS
    raise InvalidError.of(
        "kind", f"{kind[:80]!r} is no kind of event; it can be {', '.join(sorted(known))}"
    )


async def _find_start(
    connection: AsyncConnection, filters: Filters, *, cursor: str | None, tail: int | None
) -> Position:
    if cursor is not None:
        position = Position(*decode_cursor(cursor, tuple[int, int]))
        if not (-1 <= position.transaction_id < 2**62 and 0 <= position.id < 2**62):
            raise InvalidError.of("cursor", "is not a cursor of this list")
        return await store.find_start(connection, position)
    if tail is None:
        return BEGINNING
    end = await store.fetch_end(connection)
    return await store.find_tail(connection, filters, end=end, count=tail)


router = Router("/v1/events", route_handlers=[list_events], tags=["events"])
