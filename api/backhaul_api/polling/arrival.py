"""What every kind of envelope is applied with, and the receipts that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import Receipt, ReceiptStatus
from backhaul.wire.jobs import Job
from backhaul_api.errors import DomainError

OK = Receipt(status=ReceiptStatus.OK)
DUPLICATE = Receipt(status=ReceiptStatus.DUPLICATE)


@dataclass(slots=True)
class Arrival:
    """A batch of one host, within its transaction."""

    connection: AsyncConnection
    host_id: UUID
    now: datetime
    """The server's time, one for the whole batch."""
    silent_since: datetime | None = None
    """Who has not been heard of since then has lost its jobs; see `jobs.overdue`."""
    topics: set[UUID] = field(default_factory=set)
    """Whom to wake after the commit. One too many does no harm."""
    has_news_of_jobs: bool = False
    """The host works, or has worked."""
    job: Job | None = None
    """The job that the envelope before moved, as it is now: most often, this one is about it, too.
    """


def reject(error: DomainError) -> Receipt:
    """Build the receipt of a refused envelope."""
    return Receipt(status=ReceiptStatus.REJECTED, problem=error.problem())
