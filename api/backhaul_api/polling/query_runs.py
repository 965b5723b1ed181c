"""`query.run`: what operators wait for, derived from rows like everything that a poll brings."""

from __future__ import annotations

import logging
from datetime import datetime
from uuid import UUID

import msgspec

from backhaul.wire.commands import QueryRun
from backhaul_api.errors import NotFoundError
from backhaul_api.keys import SecretDoesNotOpenError
from backhaul_api.logs import facts
from backhaul_api.polling.envelopes import encode
from backhaul_api.polling.sealing import Sealer
from backhaul_api.queries import store

log = logging.getLogger(__name__)


async def fetch_waiting(sealer: Sealer, host_id: UUID, *, now: datetime) -> dict[UUID, msgspec.Raw]:
    """Build the envelopes of the queries that wait for a host, oldest first, by their ids."""
    envelopes: dict[UUID, msgspec.Raw] = {}
    for query in await store.fetch_due(sealer.connection, host_id, now=now):
        try:
            credentials = await sealer.seal(query.repository_id)
        except (NotFoundError, SecretDoesNotOpenError) as error:
            log.error("query.unsendable", extra=facts(query=query.id, reason=str(error)))
            continue
        envelopes[query.id] = encode(
            QueryRun(
                query_id=query.id,
                kind=query.kind,
                arguments=encode(query.arguments),
                ttl=(query.expires_at - now).total_seconds(),
                repository_id=query.repository_id,
                credentials=credentials,
            )
        )
    return envelopes
