"""What `backhaul admin` does, on the database itself, without a running server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.accounts import User
from backhaul_api.audit.store import record
from backhaul_api.db.engine import open_database
from backhaul_api.errors import NotFoundError
from backhaul_api.identity import SYSTEM
from backhaul_api.passwords import PasswordHasher
from backhaul_api.preparation import read_revision, upgrade_if_behind
from backhaul_api.settings import Settings
from backhaul_api.users import store, tokens

_Change = Callable[[AsyncConnection, str, datetime], Awaitable[User]]


async def create_operator(settings: Settings, username: str, password: str) -> User:
    """Create an operator.

    Raises:
        StartError: the database cannot be used.
        ConflictError: the username is taken.
    """

    async def change(connection: AsyncConnection, password_hash: str, now: datetime) -> User:
        return await store.insert(connection, username, password_hash=password_hash, now=now)

    return await _change_operator(settings, password, "user.create", change)


async def reset_password(
    settings: Settings, username: str, password: str, *, keep_tokens: bool
) -> tuple[User, int]:
    """Give an operator a new password, end all sessions, and revoke the API tokens or keep them:
    whoever had the old password could have made some.

    Returns:
        The operator, and how many API tokens were revoked or kept.

    Raises:
        StartError: the database cannot be used.
        NotFoundError: there is no such operator.
    """

    count = 0

    async def change(connection: AsyncConnection, password_hash: str, now: datetime) -> User:
        nonlocal count
        account = await store.fetch_account(connection, username)
        if account is None:
            raise NotFoundError("operator", username)
        await store.update_password(connection, account.user.id, password_hash=password_hash)
        await store.delete_sessions_of(connection, account.user.id)
        if keep_tokens:
            count = await tokens.count_usable(connection, account.user.id, now=now)
        else:
            count = await tokens.delete_all_of(connection, account.user.id)
        return account.user

    if await read_revision(settings) is None:
        raise NotFoundError("operator", username)  # and a database for it would be one too many
    user = await _change_operator(settings, password, "user.reset_password", change)
    return user, count


async def _change_operator(settings: Settings, password: str, action: str, change: _Change) -> User:
    await upgrade_if_behind(settings)
    password_hash = await PasswordHasher().hash(password)
    now = datetime.now(UTC)
    database = open_database(settings)
    try:
        async with database.writing() as connection:
            user = await change(connection, password_hash, now)
            await record(
                connection,
                SYSTEM,
                action,
                at=now,
                target_kind="user",
                target_id=user.id,
                target=user.username,
            )
            await database.leave_mark(connection)
    finally:
        await database.close()
    return user
