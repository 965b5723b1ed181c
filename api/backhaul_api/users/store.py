"""The rows of operators, their sessions, their API tokens, and the setup token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.accounts import User
from backhaul.wire.jobs import ActorKind
from backhaul_api.db.changes import identity_topic, touch
from backhaul_api.db.references import parse_id
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import sessions, setup_tokens, users
from backhaul_api.errors import ConflictError, NotFoundError
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id


@dataclass(frozen=True, slots=True)
class Account:
    """An operator with the hash of the password."""

    user: User
    password_hash: str

    def __repr__(self) -> str:
        return f"Account(user={self.user.username!r}, …)"


# Operators ---------------------------------------------------------------------------------------


async def has_any(connection: AsyncConnection) -> bool:
    """Tell whether there is an operator."""
    return await connection.scalar(sa.select(users.c.id).limit(1)) is not None


async def insert(
    connection: AsyncConnection, username: str, *, password_hash: str, now: datetime
) -> User:
    """Insert an operator. Usernames are kept in lower case, so that case never tells two apart.

    Raises:
        ConflictError: the username is taken.
    """
    username = username.lower()
    taken = sa.select(users.c.id).where(users.c.username == username)
    if await connection.scalar(taken) is not None:
        raise ConflictError(f"There is an operator {username!r} already. Choose another name.")
    user = User(id=new_id(), username=username, created_at=now)
    await connection.execute(
        sa.insert(users).values(
            id=user.id, username=username, password_hash=password_hash, created_at=now
        )
    )
    return user


async def fetch_account(connection: AsyncConnection, username: str) -> Account | None:
    """Fetch an operator by name, in any case of letters; None when there is none."""
    query = sa.select(users).where(users.c.username == username.lower())
    row = (await connection.execute(query)).one_or_none()
    if row is None or row.disabled_at is not None:
        return None
    return Account(_build_user(row), row.password_hash)


async def fetch(connection: AsyncConnection, user_id: UUID) -> User:
    """Fetch an operator by id.

    Raises:
        NotFoundError: there is none.
    """
    row = (await connection.execute(sa.select(users).where(users.c.id == user_id))).one_or_none()
    if row is None:
        raise NotFoundError("operator", user_id)
    return _build_user(row)


async def find(connection: AsyncConnection, reference: str) -> User:
    """Find an operator by username, in any case of letters, or by id; also one who is disabled.

    Raises:
        NotFoundError: there is none.
    """
    id_ = parse_id(reference)
    matches = users.c.username == reference.lower() if id_ is None else users.c.id == id_
    row = (await connection.execute(sa.select(users).where(matches))).one_or_none()
    if row is None:
        raise NotFoundError("operator", reference)
    return _build_user(row)


async def fetch_page(connection: AsyncConnection, *, limit: int, after: UUID | None) -> list[User]:
    """Fetch operators, oldest first."""
    query = sa.select(users).order_by(users.c.id).limit(limit)
    if after is not None:
        query = query.where(users.c.id > after)
    return [_build_user(row) for row in (await connection.execute(query)).all()]


async def refuse_last(connection: AsyncConnection, user: User) -> None:
    """Refuse to shut out the last operator who can sign in, also when two try at the same time.

    Raises:
        ConflictError: it is the last one.
    """
    # Every row is locked in one order, so of two who shut each other out, the second sees the
    # first. SQLite has one writer and ignores the lock.
    can_sign_in = sa.select(users.c.id).where(users.c.disabled_at.is_(None)).order_by(users.c.id)
    found = (await connection.scalars(can_sign_in.with_for_update())).all()
    if list(found) == [user.id]:
        raise ConflictError(
            f"{user.username!r} is the last operator who can sign in. Create another one first."
        )


async def set_disabled(connection: AsyncConnection, user_id: UUID, *, at: datetime | None) -> None:
    """Shut an operator out, or (with None) let one in again."""
    await connection.execute(sa.update(users).where(users.c.id == user_id).values(disabled_at=at))
    touch(connection, identity_topic(user_id))


async def delete(connection: AsyncConnection, user_id: UUID) -> None:
    """Delete an operator, with the sessions and the tokens."""
    await connection.execute(sa.delete(users).where(users.c.id == user_id))
    touch(connection, identity_topic(user_id))


async def note_login(connection: AsyncConnection, user_id: UUID, *, now: datetime) -> None:
    """Write down when an operator last signed in."""
    await connection.execute(
        sa.update(users).where(users.c.id == user_id).values(last_login_at=now)
    )


async def update_password(
    connection: AsyncConnection, user_id: UUID, *, password_hash: str
) -> None:
    """Replace the hash of a password."""
    await connection.execute(
        sa.update(users).where(users.c.id == user_id).values(password_hash=password_hash)
    )


# The setup token ---------------------------------------------------------------------------------


async def insert_setup_token(
    connection: AsyncConnection,
    token_hash: bytes,
    *,
    now: datetime,
    expires_at: datetime,
    is_only: bool = False,
) -> None:
    """Insert a setup token: the only one from now on, or beside those of other instances."""
    outdated = sa.true() if is_only else setup_tokens.c.expires_at <= now
    await connection.execute(sa.delete(setup_tokens).where(outdated))
    await connection.execute(
        sa.insert(setup_tokens).values(token_hash=token_hash, created_at=now, expires_at=expires_at)
    )


async def has_setup_token(connection: AsyncConnection, token_hash: bytes, *, now: datetime) -> bool:
    """Tell whether this setup token can be used."""
    query = sa.select(setup_tokens.c.token_hash).where(
        setup_tokens.c.token_hash == token_hash, setup_tokens.c.expires_at > now
    )
    return await connection.scalar(query) is not None


async def lock_setup_tokens(connection: AsyncConnection) -> None:
    """Let those who use a setup token at the same time follow one another, whichever they have."""
    # Whoever comes later sees, and waits for, the row of whoever was earlier.
    query = sa.select(setup_tokens.c.token_hash).order_by(setup_tokens.c.token_hash)
    await connection.execute(query.with_for_update())


# Sessions ----------------------------------------------------------------------------------------


async def insert_session(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    token_hash: bytes,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Insert a session, and remove those that have expired."""
    await connection.execute(sa.delete(sessions).where(sessions.c.expires_at <= now))
    await connection.execute(
        sa.insert(sessions).values(
            id=new_id(),
            user_id=user_id,
            token_hash=token_hash,
            created_at=now,
            expires_at=expires_at,
        )
    )


async def delete_session(connection: AsyncConnection, user_id: UUID, session_id: UUID) -> None:
    """End an operator's session. Ending it twice changes nothing."""
    found = sa.and_(sessions.c.id == session_id, sessions.c.user_id == user_id)
    await connection.execute(sa.delete(sessions).where(found))
    touch(connection, identity_topic(user_id))


async def delete_sessions_of(
    connection: AsyncConnection, user_id: UUID, *, but: UUID | None = None
) -> None:
    """End every session of an operator, but perhaps one."""
    query = sa.delete(sessions).where(sessions.c.user_id == user_id)
    await connection.execute(query if but is None else query.where(sessions.c.id != but))
    touch(connection, identity_topic(user_id))


async def find_session(
    connection: AsyncConnection, token_hash: bytes, *, now: datetime
) -> Actor | None:
    """Find who signed in with this session token; None when it ended, or never was."""
    found = await connection.execute(_SESSION, {"token_hash": token_hash, "now": now})
    row = found.one_or_none()
    if row is None:
        return None
    return Actor(
        kind=ActorKind.USER,
        id=row.user_id,
        name=row.username,
        authenticated_by="session",
        token_id=row.id,
        expires_at=row.expires_at,
    )


def _build_user(row: sa.Row[tuple[object, ...]]) -> User:
    return User(
        id=row.id,
        username=row.username,
        created_at=row.created_at,
        last_login_at=row.last_login_at,
        disabled_at=row.disabled_at,
    )


# Built once: every request of an operator asks it.
_SESSION = constant(
    sa.select(sessions.c.id, sessions.c.expires_at, users.c.id.label("user_id"), users.c.username)
    .join(users, users.c.id == sessions.c.user_id)
    .where(
        sessions.c.token_hash == sa.bindparam("token_hash"),
        sessions.c.expires_at > sa.bindparam("now"),
        users.c.disabled_at.is_(None),
    )
)
