"""The audit log: who changed what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from backhaul import _moments
from backhaul._fields import AuditEntry
from backhaul.aio.collections import AsyncCollection
from backhaul.wire.accounts import AuditEntry as AuditEntryData

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet


class AsyncAudit(AsyncCollection[AuditEntry]):
    """Who changed what, newest first. Iterate, or narrow down with `list`."""

    def __init__(self, fleet: AsyncFleet, **filters: Any) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> AsyncIterator[AuditEntryData]:
            return fleet.client.list_audit_entries(**filters, limit=limit)

        super().__init__(fetch, AuditEntry, noun="audit", filters=filters)

    def list(
        self,
        *,
        since: datetime | timedelta | str | None = None,
        until: datetime | timedelta | str | None = None,
    ) -> AsyncAudit:
        """Narrow down. Asks nothing yet.

        `since` and `until` take a moment with a time zone, or how long ago, as a timedelta or like
        `7d`, `12h`, `30m`.

        Raises:
            InvalidRequestError: one is none of these.
        """
        filters = {
            "since": _moments.find_moment("since", since) or self._filters.get("since"),
            "until": _moments.find_moment("until", until) or self._filters.get("until"),
        }
        return AsyncAudit(self._fleet, **filters)
