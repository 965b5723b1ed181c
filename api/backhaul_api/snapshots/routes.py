"""GET /v1/snapshots."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import QueryParameter

from backhaul.wire.pages import Page
from backhaul.wire.snapshots import Snapshot
from backhaul_api.jobs import targets
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.services import Needs
from backhaul_api.snapshots import store


@get("/", operation_id="list_snapshots", summary="List snapshots, newest first")
async def list_snapshots(
    services: Needs,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    repository: Annotated[
        str | None,
        QueryParameter(description="Only of this repository, by name or id."),
    ] = None,
    host: Annotated[
        str | None,
        QueryParameter(description="Only those that a job of this host made."),
    ] = None,
) -> Page[Snapshot]:
    before = decode_cursor(cursor, tuple[datetime, str, UUID]) if cursor else None
    async with services.database.reading() as connection:
        filters = store.Filters(
            repository_id=(
                await targets.find_repository(connection, repository) if repository else None
            ),
            host_id=await targets.find_host(connection, host) if host else None,
        )
        found = await store.fetch_page(
            connection, filters, limit=limit + 1, before=before, now=services.clock.now()
        )
    items, has_more = split_page(found, limit)
    return Page(items=tuple(items), next_cursor=_encode_key(items[-1]) if has_more else None)


def _encode_key(last: Snapshot) -> str:
    return encode_cursor(last.time, last.id, last.repository_id)


router = Router("/v1/snapshots", route_handlers=[list_snapshots], tags=["snapshots"])
