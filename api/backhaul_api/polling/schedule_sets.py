"""`schedule.set`: the whole set of a host's schedules, with what it may run without the server."""

from __future__ import annotations

import logging
from uuid import UUID

import sqlalchemy as sa

from backhaul.wire.fleet import Source
from backhaul.wire.schedules import RunTemplate, ScheduleEntry, ScheduleKind, ScheduleSet
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import schedules
from backhaul_api.errors import NotFoundError
from backhaul_api.keys import SecretDoesNotOpenError
from backhaul_api.kinds.backup import build_of_source
from backhaul_api.logs import facts
from backhaul_api.polling.sealing import Sealer
from backhaul_api.sources import store as sources

log = logging.getLogger(__name__)


async def build_set(sealer: Sealer, host_id: UUID, *, version: int) -> ScheduleSet:
    """Build the set of a host, disabled schedules too, without the deleted ones.

    `version` was read before: what changed since is in this set already, and is sent again under
    its own version. The other way round a change could be missed.
    """
    rows = (await sealer.connection.execute(_SELECT, {"host_id": host_id})).mappings().all()
    wanted = {row["source_id"] for row in rows if _runs_alone(row)}
    found = await sources.fetch_some(sealer.connection, wanted)
    entries = [
        ScheduleEntry(
            schedule_id=row["id"],
            **{name: row[name] for name in _COPIED},
            template=await _build_template(sealer, row, found),
        )
        for row in rows
    ]
    return ScheduleSet(schedule_version=version, schedules=tuple(entries))


def _runs_alone(row: sa.RowMapping) -> bool:
    # A host is given no secret that it has no use for.
    return bool(
        row["enabled"] and row["when_unreachable"] == "run" and row["kind"] == ScheduleKind.BACKUP
    )


async def _build_template(
    sealer: Sealer, row: sa.RowMapping, found: dict[UUID, Source]
) -> RunTemplate | None:
    if not _runs_alone(row) or row["source_id"] not in found:
        return None
    try:
        credentials = await sealer.seal(row["repository_id"])
    except (SecretDoesNotOpenError, NotFoundError) as error:
        # It must not keep the other schedules from the host. This one waits for the server.
        log.error("schedule.without_template", extra=facts(schedule=row["id"], reason=str(error)))
        return None
    return RunTemplate(
        arguments=build_of_source(found[row["source_id"]]),
        repository_id=row["repository_id"],
        credentials=credentials,
    )


_COPIED = (
    "kind",
    "cron",
    "timezone",
    "enabled",
    "catch_up",
    "catch_up_window",
    "jitter",
    "start_deadline",
    "max_duration",
    "when_unreachable",
)

_SELECT = constant(
    sa.select(
        schedules.c.id,
        schedules.c.repository_id,
        schedules.c.source_id,
        *(schedules.c[name] for name in _COPIED),
    )
    .where(schedules.c.host_id == sa.bindparam("host_id"), schedules.c.deleted_at.is_(None))
    .order_by(schedules.c.id)
)
