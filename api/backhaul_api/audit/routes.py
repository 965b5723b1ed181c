"""GET /v1/audit."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import QueryParameter

from backhaul.wire.accounts import AuditEntry
from backhaul.wire.pages import Page
from backhaul_api.audit import store
from backhaul_api.moments import parse_moment
from backhaul_api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    split_page,
)
from backhaul_api.services import Needs


@get("/", operation_id="list_audit_entries", summary="List the audit log, newest first")
async def list_audit_entries(
    services: Needs,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    since: Annotated[
        str | None,
        QueryParameter(
            format="date-time", description="Only entries of this moment or after; RFC 3339."
        ),
    ] = None,
    until: Annotated[
        str | None,
        QueryParameter(format="date-time", description="Only entries before this moment."),
    ] = None,
) -> Page[AuditEntry]:
    before = decode_cursor(cursor, tuple[UUID])[0] if cursor else None
    async with services.database.reading() as connection:
        found = await store.fetch_page(
            connection,
            limit=limit + 1,
            before=before,
            since=parse_moment("since", since),
            until=parse_moment("until", until),
        )
    entries, has_more = split_page(found, limit)
    return Page(
        items=tuple(entries), next_cursor=encode_cursor(entries[-1].id) if has_more else None
    )


router = Router("/v1/audit", route_handlers=[list_audit_entries], tags=["audit"])
