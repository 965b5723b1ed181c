"""/v1/schedules/preview and /v1/schedules/{id}/preview: when something would fire."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

from litestar import get
from litestar.params import PathParameter, QueryParameter

from backhaul.cron import Cron
from backhaul.wire.schedules import SchedulePreview
from backhaul_api.moments import parse_moment
from backhaul_api.schedules import rules, store
from backhaul_api.services import Needs, Services

MAX_PREVIEW = 1000

_ExpressionToRead = Annotated[
    str, QueryParameter(max_length=255, description="Five fields, or an alias like @daily.")
]
_Timezone = Annotated[
    str, QueryParameter(max_length=255, description="An IANA name, like Europe/London.")
]
_From = Annotated[
    str | None,
    QueryParameter(
        name="from",
        format="date-time",
        description="RFC 3339 with an offset; a slot at this very moment counts. Default: now.",
    ),
]
_Count = Annotated[int, QueryParameter(ge=1, le=MAX_PREVIEW, description="How many fires to list.")]


@get(
    "/preview",
    operation_id="preview_cron",
    summary="List when a cron expression would fire",
    description=(
        "What H stands for depends on the host and the schedule: an expression with it is "
        "previewed by its schedule."
    ),
)
async def preview_cron(
    services: Needs,
    cron: _ExpressionToRead,
    timezone: _Timezone = "UTC",
    from_: _From = None,
    count: _Count = 10,
) -> SchedulePreview:
    rules.refuse_zone_of_a_machine(timezone)
    parsed = rules.parse(cron, timezone, hash_key=None)
    return await _preview(services, parsed, from_, count)


@get(
    "/{schedule_id:uuid}/preview",
    operation_id="preview_schedule",
    summary="List when a schedule will fire",
    description="As if it were enabled.",
)
async def preview_schedule(
    services: Needs,
    schedule_id: Annotated[UUID, PathParameter(description="The schedule's id.")],
    from_: _From = None,
    count: _Count = 10,
) -> SchedulePreview:
    async with services.database.reading() as connection:
        schedule = await store.fetch(connection, schedule_id, now=services.clock.now())
    parsed = rules.parse(schedule.cron, schedule.timezone, hash_key=rules.key_of(schedule))
    return await _preview(services, parsed, from_, count)


async def _preview(
    services: Services, cron: Cron, start_text: str | None, count: int
) -> SchedulePreview:
    start = services.clock.now() if start_text is None else parse_moment("from", start_text)
    # In a thread: a thousand Sundays that are a 29 February take a second to find.
    fires = await asyncio.to_thread(rules.preview, cron, start=start, count=count)
    return SchedulePreview(cron=cron.expression, timezone=cron.zone.key, fires=fires)
