"""The kind of a schedule's options, which may be left out: it is that of the schedule.

Options are a union that is told apart by `kind`, so it is added before the body is read into its
type.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from backhaul_api.bodies import ApiRequest
from backhaul_api.db.tables import schedules
from backhaul_api.services import Services


async def complete_create(_: ApiRequest, body: bytes) -> bytes:
    """Add the kind that the body has beside the options."""
    fields = _read(body)
    return body if fields is None else _add(fields, fields.get("kind"))


async def complete_update(request: ApiRequest, body: bytes) -> bytes:
    """Add the kind of the schedule that the path names."""
    fields = _read(body)
    if fields is None:
        return body
    services: Services = request.app.state.services
    schedule_id: UUID = request.path_params["schedule_id"]
    query = sa.select(schedules.c.kind).where(schedules.c.id == schedule_id)
    async with services.database.reading() as connection:
        return _add(fields, await connection.scalar(query))


def _read(body: bytes) -> dict[str, Any] | None:
    """Read a body whose options have no kind; None for any other, and for what cannot be read."""
    if b'"options"' not in body:
        return None
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    options = fields.get("options") if isinstance(fields, dict) else None
    return fields if isinstance(options, dict) and "kind" not in options else None


def _add(fields: dict[str, Any], kind: Any) -> bytes:
    options = fields["options"] if kind is None else {"kind": kind, **fields["options"]}
    return msgspec.json.encode({**fields, "options": options})
