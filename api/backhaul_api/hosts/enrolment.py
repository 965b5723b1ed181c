"""How a host joins: a token that an operator made is used up, and a host comes to be."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import nacl.exceptions
import nacl.public
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.accounts import CreateEnrollmentToken, EnrollmentToken
from backhaul.wire.agents import EnrollReply, EnrollRequest
from backhaul.wire.base import MAX_LABELS, SPOKEN_PROTOCOLS
from backhaul.wire.jobs import ActorKind
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.audit.store import record
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import enrollment_tokens, hosts
from backhaul_api.errors import InvalidError, NotAuthenticatedError, NotFoundError
from backhaul_api.hosts import store
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id
from backhaul_api.keys import KeyRing
from backhaul_api.names import check_name, make_acceptable


async def enroll(
    connection: AsyncConnection, request: EnrollRequest, *, now: datetime, keys: KeyRing
) -> EnrollReply:
    """Use an enrollment token up and let the host join; both or neither.

    The same token with the same key again means that the answer got lost. It is given again, with
    another agent token, as long as the enrollment token lives and the host has not been heard of.
    Nothing else of the request counts then.

    Raises:
        NotAuthenticatedError: the token is not known, was used up, or has expired.
        ConflictError: the name is taken; the token keeps its use.
        InvalidError: the name that the host asks for is not acceptable.
    """
    check_name(request.name)
    _check_public_key(request.public_key)
    agent_token = build_token(TokenKind.AGENT)
    joined = await _find_joined(connection, request, now=now)
    if joined is not None:
        await store.add_token(connection, joined.id, token_hash=hash_token(agent_token))
        return _build_reply(joined.id, joined.name, agent_token, now=now, keys=keys)
    token = await _consume(connection, hash_token(request.enrollment_token), now=now)
    new = store.NewHost(
        name=token.host_name or request.name or make_acceptable(request.facts.hostname),
        labels=_merge_labels(request.labels, token.labels),
        facts=request.facts,
        public_key=request.public_key,
        token_hash=hash_token(agent_token),
        enrollment_token_id=token.id,
    )
    host_id = await store.insert(connection, new, now=now)
    await record(
        connection,
        Actor(kind=ActorKind.HOST, id=host_id, name=new.name),
        "host.enroll",
        at=now,
        target_kind="host",
        target_id=host_id,
        target=new.name,
    )
    return _build_reply(host_id, new.name, agent_token, now=now, keys=keys)


def _build_reply(
    host_id: UUID, name: str, agent_token: str, *, now: datetime, keys: KeyRing
) -> EnrollReply:
    return EnrollReply(
        host_id=host_id,
        name=name,
        agent_token=agent_token,
        server_time=now,
        protocol=SPOKEN_PROTOCOLS,
        signing_key=keys.verify_key,
    )


def _check_public_key(public_key: bytes) -> None:
    """Refuse a key of low order, to which nothing can be sealed: no job could ever be sent.

    Raises:
        InvalidError: see there.
    """
    try:
        nacl.public.SealedBox(nacl.public.PublicKey(public_key)).encrypt(b"")
    except nacl.exceptions.CryptoError as error:
        raise InvalidError.of("public_key", "is not an X25519 key that can be used") from error


async def insert_token(
    connection: AsyncConnection,
    request: CreateEnrollmentToken,
    *,
    created_by: UUID,
    token_hash: bytes,
    now: datetime,
) -> EnrollmentToken:
    """Insert an enrollment token."""
    values = {
        "id": new_id(),
        "created_at": now,
        "expires_at": now + timedelta(seconds=request.expires_in),
        "uses_left": request.uses,
        "host_name": request.host_name,
        "labels": request.labels,
    }
    await connection.execute(
        sa.insert(enrollment_tokens).values(**values, token_hash=token_hash, created_by=created_by)
    )
    return _build(values)


async def fetch_tokens(
    connection: AsyncConnection, *, now: datetime, limit: int, after: UUID | None
) -> list[EnrollmentToken]:
    """Fetch the tokens that can still be used, oldest first."""
    query = (
        sa.select(enrollment_tokens)
        .where(_is_usable(now))
        .order_by(enrollment_tokens.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(enrollment_tokens.c.id > after)
    return [_build(row) for row in (await connection.execute(query)).mappings()]


async def delete_token(connection: AsyncConnection, token_id: UUID) -> None:
    """Revoke a token; hosts that joined with it stay.

    Raises:
        NotFoundError: there is none.
    """
    result = await connection.execute(
        sa.delete(enrollment_tokens).where(enrollment_tokens.c.id == token_id)
    )
    if result.rowcount != 1:
        raise NotFoundError("enrollment token", token_id)


async def _find_joined(
    connection: AsyncConnection, request: EnrollRequest, *, now: datetime
) -> Any:
    """Find the host that joined by this very request; two of them follow one another."""
    token = {"token_hash": hash_token(request.enrollment_token), "now": now}
    token_id = await connection.scalar(_LOCK_TOKEN, token)
    if token_id is None:
        return None
    joined = {"token_id": token_id, "public_key": request.public_key}
    return (await connection.execute(_JOINED, joined)).one_or_none()


async def _consume(
    connection: AsyncConnection, token_hash: bytes, *, now: datetime
) -> EnrollmentToken:
    # One statement looks and takes, so that two hosts at the same moment cannot share one use.
    used = await connection.execute(_USE_TOKEN, {"wanted": token_hash, "now": now})
    row = used.mappings().one_or_none()
    if row is None:
        raise NotAuthenticatedError(
            "The enrollment token is not known, was used up, or has expired. Make a new one and "
            "try again."
        )
    return _build(row)


def _merge_labels(asked: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    labels = {**asked, **given}
    if len(labels) > MAX_LABELS:
        raise InvalidError.of(
            "labels", f"with those of the token there are {len(labels)}; {MAX_LABELS} are allowed"
        )
    return labels


def _is_usable(now: datetime | sa.BindParameter[datetime]) -> sa.ColumnElement[bool]:
    return sa.and_(enrollment_tokens.c.uses_left > 0, enrollment_tokens.c.expires_at > now)


def _build(row: Any) -> EnrollmentToken:
    return EnrollmentToken(
        id=row["id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        uses_left=row["uses_left"],
        host_name=row["host_name"],
        labels=row["labels"],
    )


# Built once: a fleet joins by the thousand.
_LOCK_TOKEN = constant(
    sa.select(enrollment_tokens.c.id)
    .where(
        enrollment_tokens.c.token_hash == sa.bindparam("token_hash"),
        enrollment_tokens.c.expires_at > sa.bindparam("now"),
    )
    .with_for_update()
)
_JOINED = constant(
    sa.select(hosts.c.id, hosts.c.name).where(
        hosts.c.enrollment_token_id == sa.bindparam("token_id"),
        hosts.c.public_key == sa.bindparam("public_key"),
        hosts.c.removed_at.is_(None),
        # An agent that was heard of has had the answer.
        hosts.c.boot_id.is_(None),
    )
)
_USE_TOKEN = constant(
    sa.update(enrollment_tokens)
    .where(
        enrollment_tokens.c.token_hash == sa.bindparam("wanted"), _is_usable(sa.bindparam("now"))
    )
    .values(uses_left=enrollment_tokens.c.uses_left - 1)
    .returning(enrollment_tokens)
)
