"""The batch: what happened on a host, applied in order, one receipt for each envelope.

All of a batch is one transaction. An envelope that is refused changes nothing and leaves its
neighbours alone: as that is rare, the batch is then applied once more, with a savepoint for each.
An error that nobody foresaw undoes the whole batch and is answered with 500: the agent keeps its
spool and tries again. A receipt `rejected` would make it drop a report for good, and a fault of the
server is no reason for that.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ENVELOPES,
    Batch,
    BatchReply,
    Hello,
    Receipt,
    UpEnvelope,
)
from backhaul.wire.commands import QueryAnswer
from backhaul.wire.kinds import PasswdResult
from backhaul.wire.refusals import explain
from backhaul.wire.reports import JobFinished
from backhaul.wire.schedules import ScheduleAck, ScheduleFire
from backhaul.wire.snapshots import SnapshotsReport
from backhaul_api.bodies import ESCAPED_NUL, TOO_DEEP
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts
from backhaul_api.errors import (
    DomainError,
    InvalidError,
    LostRaceError,
    NotReadyError,
    TooLargeError,
    UnknownEnvelopeError,
)
from backhaul_api.identity import AgentIdentity
from backhaul_api.jobs.turns import Claims
from backhaul_api.polling import (
    hello,
    job_reports,
    query_reports,
    schedule_reports,
    snapshot_reports,
)
from backhaul_api.polling.arrival import Arrival, Gathered, reject, settle
from backhaul_api.polling.fires import read_fires
from backhaul_api.polling.reports import Report
from backhaul_api.schedules.store import take_turn
from backhaul_api.services import Services

_batch_decoder = msgspec.json.Decoder(Batch)
_envelope_decoder = msgspec.json.Decoder(UpEnvelope)
_type_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

APPLY: Mapping[type[msgspec.Struct], Callable[[Arrival, Any], Awaitable[Receipt]]] = {
    Hello: hello.apply_hello,
    **job_reports.APPLY,
    SnapshotsReport: snapshot_reports.apply_snapshots,
    ScheduleAck: schedule_reports.apply_ack,
    ScheduleFire: schedule_reports.apply_fire,
    QueryAnswer: query_reports.apply_answer,
}
"""Who applies what."""

_KNOWN_TYPES = frozenset(type_.__struct_config__.tag for type_ in APPLY)

# Half of a pair stands for no character; a text of a foreign agent may have been cut there.
_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)

MAX_DEPTH = 64

# Possessive, and good without its last quote: never does it look at a byte twice.
_BRACKET_OR_STRING = re.compile(rb'[\[\]{}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class BatchFailedError(Exception):
    """The batch has to be sent again, for no fault of its own. Answered with 500."""


async def receive(services: Services, agent: AgentIdentity, body: bytes) -> BatchReply:
    """Apply a batch and tell what became of each envelope.

    Raises:
        InvalidError: the body is not a batch.
        TooLargeError: it has too many envelopes; nothing of it was applied.
    """
    batch = decode_batch(body)
    if (fires := read_fires(batch, decode_envelope)) is not None:
        reply = await services.fires.take(agent.host_id, fires)
        if reply is not None:
            return reply
    read = [_read(raw) for raw in batch.envelopes]
    if (receipts := await _take_together(services, agent, read, body)) is None:
        receipts = await _take_alone(services, agent, read)
    return BatchReply(receipts=tuple(receipts))


async def _take_together(
    services: Services, agent: AgentIdentity, read: Sequence[UpEnvelope | Receipt], body: bytes
) -> list[Receipt] | None:
    """Apply a batch beside those of other hosts; None if it needs a transaction of its own."""
    reports = [one for one in read if isinstance(one, Report)]
    if _changes_password(read) or not reports or len(reports) < len(read):
        return None
    return await services.reports.take(agent.host_id, reports, size=len(body))


async def _take_alone(
    services: Services, agent: AgentIdentity, read: Sequence[UpEnvelope | Receipt]
) -> list[Receipt]:
    try:
        return await _apply(services, agent, read, _take)
    except NotReadyError:
        raise
    except DomainError:
        return await _apply(services, agent, read, _take_carefully)


async def _apply(
    services: Services,
    agent: AgentIdentity,
    read: Sequence[UpEnvelope | Receipt],
    take: Callable[[Arrival, UpEnvelope], Awaitable[Receipt]],
) -> list[Receipt]:
    """Apply the envelopes of a batch; those that could not be read have their receipts already."""
    try:
        async with services.database.writing() as connection:
            now = services.clock.now()
            gathered = Gathered(Claims(connection, silent_since=services.silence.find_since(now)))
            arrival = Arrival(connection, agent.host_id, now, gathered)
            if _changes_password(read):
                # It can change what other hosts are told, which those who do take turns at.
                await take_turn(connection)
            last_seen_at = await _lock_host(connection, agent.host_id)
            receipts = [
                one if isinstance(one, Receipt) else await take(arrival, one) for one in read
            ]
            await settle(connection, gathered, [(arrival, last_seen_at)])
    except (LostRaceError, sqlalchemy.exc.IntegrityError) as error:
        # The rows are locked, so this is a fault of ours and no word on any envelope.
        raise BatchFailedError("a batch lost a race") from error
    return receipts


def decode_batch(body: bytes) -> Batch:
    """Read a batch, but not yet the envelopes in it. Raises as `receive` does."""
    if len(body) > MAX_BATCH_BYTES:
        raise TooLargeError(f"A batch has at most {MAX_BATCH_BYTES} bytes. Split it.")
    try:
        batch = _batch_decoder.decode(body)
    except RecursionError:
        # One envelope must not cost its neighbours their place in the batch.
        batch = decode_batch(cut_depth(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Likewise. They are replaced only here: nearly no batch has any.
        whole = _SURROGATES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)
        if whole == body:
            raise InvalidError(explain(str(error))) from error
        batch = decode_batch(whole)
    if len(batch.envelopes) > MAX_BATCH_ENVELOPES:
        raise TooLargeError(
            f"A batch has at most {MAX_BATCH_ENVELOPES} envelopes, this one has "
            f"{len(batch.envelopes)}. Split it."
        )
    return batch


def cut_depth(body: bytes) -> bytes:
    """Put null in the place of whatever is nested deeper than any message has a use for."""
    kept, depth, begin = bytearray(), 0, 0
    for found in _BRACKET_OR_STRING.finditer(body):
        if found[0] in {b"[", b"{"}:
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept += body[begin : found.start()] + b"null"
        elif found[0] in {b"]", b"}"}:
            depth -= 1
            if depth == MAX_DEPTH:
                begin = found.end()
    return bytes(kept + body[begin:]) if depth <= MAX_DEPTH else bytes(kept)


def decode_envelope(raw: bytes) -> UpEnvelope:
    """Read one envelope.

    Raises:
        UnknownEnvelopeError: its type is none of those that an agent sends.
        InvalidError: a field is missing or of the wrong form.
    """
    if b"u0000" in raw:
        raw = ESCAPED_NUL.sub(rb"\1\\ufffd", raw)
    try:
        envelope: UpEnvelope = _envelope_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        type_ = _read_type(raw)
        if type_ is not None and type_ not in _KNOWN_TYPES:
            raise UnknownEnvelopeError(
                f"This server does not know envelopes of type {type_[:100]!r}."
            ) from error
        raise InvalidError(explain(str(error))) from error
    except RecursionError as error:
        raise InvalidError.of("", TOO_DEEP) from error
    return envelope


async def _lock_host(connection: AsyncConnection, host_id: UUID) -> datetime | None:
    """Let the batches of one host, whose jobs and fires are its alone, follow one another; give
    when the host was last noted."""
    last_seen_at: datetime | None = await connection.scalar(_LOCKED_HOST, {"host_id": host_id})
    return last_seen_at


def _read(raw: msgspec.Raw) -> UpEnvelope | Receipt:
    """Read an envelope; one that cannot be read has its receipt."""
    try:
        return decode_envelope(bytes(raw))
    except DomainError as error:
        return reject(error)


def _changes_password(read: Sequence[UpEnvelope | Receipt]) -> bool:
    return any(
        isinstance(one, JobFinished) and isinstance(one.result, PasswdResult) for one in read
    )


async def _take(arrival: Arrival, envelope: UpEnvelope) -> Receipt:
    """Apply an envelope. A refusal leaves something half done: the transaction has to be undone."""
    if not isinstance(envelope, Report):
        arrival.gathered.forget()  # it may move any job
    try:
        return await APPLY[type(envelope)](arrival, envelope)
    except sqlalchemy.exc.StatementError as error:
        if isinstance(error.orig, OverflowError):
            # A time near year 1 or 9999 that in UTC is outside of them: no retry will store it.
            raise InvalidError.of("", "a time or a number in it is out of range") from error
        raise


async def _take_carefully(arrival: Arrival, envelope: UpEnvelope) -> Receipt:
    """Apply an envelope, or refuse it and change nothing."""
    try:
        async with arrival.connection.begin_nested():
            return await _take(arrival, envelope)
    except LostRaceError:
        raise
    except DomainError as error:
        arrival.gathered.forget()
        return reject(error)


def _read_type(raw: bytes) -> str | None:
    try:
        return msgspec.json.decode(_type_decoder.decode(raw)["type"], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        return None


_LOCKED_HOST = constant(
    sa.select(hosts.c.last_seen_at)
    .where(hosts.c.id == sa.bindparam("host_id"))
    .with_for_update(key_share=True)
)
