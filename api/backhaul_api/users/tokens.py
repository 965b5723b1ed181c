"""The rows of API tokens."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.accounts import ApiToken
from backhaul.wire.jobs import ActorKind
from backhaul_api.db.changes import identity_topic, touch
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import api_tokens, users
from backhaul_api.errors import ConflictError, NotFoundError
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id

_USE_IS_NOTED_EVERY = timedelta(minutes=1)  # a write per request would be most of the load


async def insert(
    connection: AsyncConnection, user_id: UUID, token: ApiToken, *, token_hash: bytes
) -> None:
    """Insert a token.

    Raises:
        ConflictError: the operator has a token of this name.
    """
    taken = sa.select(api_tokens.c.id).where(
        api_tokens.c.user_id == user_id, api_tokens.c.name == token.name
    )
    if await connection.scalar(taken) is not None:
        raise ConflictError(
            f"You have an API token {token.name!r} already. Revoke it, or choose another name."
        )
    await connection.execute(
        sa.insert(api_tokens).values(
            id=token.id,
            user_id=user_id,
            name=token.name,
            token_hash=token_hash,
            created_at=token.created_at,
            expires_at=token.expires_at,
        )
    )


def build(name: str, *, now: datetime, expires_in: float | None) -> ApiToken:
    """Build a token that lasts for so many seconds, or until it is revoked."""
    return ApiToken(
        id=new_id(),
        name=name,
        created_at=now,
        expires_at=None if expires_in is None else now + timedelta(seconds=expires_in),
        last_used_at=None,
    )


async def fetch_page(
    connection: AsyncConnection, user_id: UUID, *, limit: int, after: UUID | None
) -> list[ApiToken]:
    """Fetch an operator's tokens, oldest first; expired ones too, so that they can be seen."""
    query = (
        sa.select(api_tokens)
        .where(api_tokens.c.user_id == user_id)
        .order_by(api_tokens.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(api_tokens.c.id > after)
    return [_build(row) for row in (await connection.execute(query)).all()]


async def delete(connection: AsyncConnection, user_id: UUID, token_id: UUID) -> ApiToken:
    """Revoke an operator's token.

    Raises:
        NotFoundError: the operator has no such token.
    """
    found = sa.and_(api_tokens.c.id == token_id, api_tokens.c.user_id == user_id)
    row = (await connection.execute(sa.select(api_tokens).where(found))).one_or_none()
    if row is None:
        raise NotFoundError("API token", token_id)
    await connection.execute(sa.delete(api_tokens).where(found))
    touch(connection, identity_topic(user_id))
    return _build(row)


async def delete_all_of(connection: AsyncConnection, user_id: UUID) -> int:
    """Revoke every token of an operator; tells how many there were."""
    result = await connection.execute(sa.delete(api_tokens).where(api_tokens.c.user_id == user_id))
    touch(connection, identity_topic(user_id))
    return result.rowcount


async def count_usable(connection: AsyncConnection, user_id: UUID, *, now: datetime) -> int:
    """Count the tokens of an operator that still serve."""
    query = sa.select(sa.func.count()).where(api_tokens.c.user_id == user_id, _is_usable(now))
    return await connection.scalar(query) or 0


async def find(connection: AsyncConnection, token_hash: bytes, *, now: datetime) -> Actor | None:
    """Find whose API token this is; None when it has expired, was revoked, or never was."""
    row = (await connection.execute(_BY_HASH, {"token_hash": token_hash, "now": now})).one_or_none()
    if row is None:
        return None
    return Actor(
        kind=ActorKind.USER,
        id=row.user_id,
        name=row.username,
        authenticated_by="api_token",
        token_id=row.id,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


def is_use_worth_noting(actor: Actor, *, now: datetime) -> bool:
    """Tell whether it is time to write down again that the token is in use."""
    return actor.authenticated_by == "api_token" and (
        actor.last_used_at is None or now - actor.last_used_at >= _USE_IS_NOTED_EVERY
    )


async def note_use(connection: AsyncConnection, actor: Actor, *, now: datetime) -> None:
    """Write down that the token is in use."""
    await connection.execute(
        sa.update(api_tokens).where(api_tokens.c.id == actor.token_id).values(last_used_at=now)
    )


def _is_usable(now: datetime | sa.BindParameter[datetime]) -> sa.ColumnElement[bool]:
    return sa.or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > now)


# Built once: every request of a program asks it.
_BY_HASH = constant(
    sa.select(api_tokens, users.c.username)
    .join(users, users.c.id == api_tokens.c.user_id)
    .where(api_tokens.c.token_hash == sa.bindparam("token_hash"), users.c.disabled_at.is_(None))
    .where(_is_usable(sa.bindparam("now")))
)


def _build(row: Any) -> ApiToken:
    return ApiToken(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
