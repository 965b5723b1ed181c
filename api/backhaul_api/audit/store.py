"""The rows of the audit log, written in the transaction of the change that they tell of."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.accounts import AuditEntry
from backhaul_api.db.block import postpone
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import audit_log
from backhaul_api.events import store as events
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id


async def record(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    *,
    at: datetime,
    target_kind: str | None = None,
    target_id: UUID | None = None,
    target: str | None = None,
) -> None:
    """Write an entry, and the event that tells of it to those who follow.

    `action` is like `repository.create`; `target` is the target's name.
    """
    entry = {
        "id": new_id(),
        "at": at,
        "actor_kind": actor.kind,
        "actor_id": actor.id,
        "actor": actor.name,
        "action": action,
        "target_kind": target_kind,
        "target_id": target_id,
        "target": target,
    }
    await postpone(connection, _INSERT, [entry])
    if target_kind != "job":  # jobs tell of themselves
        await events.append_change(
            connection,
            actor,
            action,
            at=at,
            target_kind=target_kind,
            target_id=target_id,
            target=target,
        )


async def fetch_page(
    connection: AsyncConnection,
    *,
    limit: int,
    before: UUID | None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[AuditEntry]:
    """Fetch entries, newest first."""
    query = sa.select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_log.c.id < before)
    if since is not None:
        query = query.where(audit_log.c.at >= since)
    if until is not None:
        query = query.where(audit_log.c.at < until)
    rows = (await connection.execute(query)).mappings()
    return [AuditEntry(**row) for row in rows]


_INSERT = constant(sa.insert(audit_log))
