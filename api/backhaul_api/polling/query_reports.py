"""`query.answer`: the answer to a question that an operator asked of a host."""

from __future__ import annotations

from backhaul.wire.agents import Receipt
from backhaul.wire.commands import QueryAnswer
from backhaul_api.errors import NotFoundError
from backhaul_api.polling.arrival import Arrival, reject


async def apply_answer(_: Arrival, answer: QueryAnswer) -> Receipt:
    """Refuse it: a query lives only as long as somebody waits, and nobody does."""
    return reject(NotFoundError("query", answer.query_id))
