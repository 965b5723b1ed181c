"""`query.answer`: the answer to a question that an operator asked of a host."""

from __future__ import annotations

import msgspec

from backhaul.wire.agents import Receipt
from backhaul.wire.commands import QueryAnswer
from backhaul.wire.refusals import explain
from backhaul.wire.snapshots import FoundFiles
from backhaul_api.errors import InvalidError
from backhaul_api.polling.arrival import DUPLICATE, OK, Arrival
from backhaul_api.queries import store


async def apply_answer(arrival: Arrival, answer: QueryAnswer) -> Receipt:
    """Keep it for whoever waits; the first answer counts.

    Raises:
        NotFoundError: nobody waits any more, or nobody asked this host.
        InvalidError: it is not what was asked for.
    """
    if await store.is_answered(arrival.connection, answer.query_id, arrival.host_id):
        return DUPLICATE
    if answer.error is None:
        try:
            msgspec.json.decode(answer.answer, type=FoundFiles)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidError(explain(str(error), prefix="answer")) from error
    await store.save_answer(arrival.connection, answer, now=arrival.now)
    arrival.topics.add(answer.query_id)
    return OK
