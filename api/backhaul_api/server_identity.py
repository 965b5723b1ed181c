"""Which keys belong to which database.

A database that holds hosts or secrets is worth nothing without its own keys, so a missing key file
is never replaced there: only an unused database gets a new one. The public half of the keys stands
in the database, so that a server with keys from elsewhere does not start.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.changes import touch
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import hosts, repository_secrets, server_identity
from backhaul_api.keys import KeyFileError, KeyRing, create_keys, load_keys, parse_keys
from backhaul_api.schedules import store as schedules
from backhaul_api.settings import Settings

_ROW_ID = 1


async def open_keys(settings: Settings, database: Database) -> KeyRing:
    """Load the keys of an upgraded database; make a key file for one that is not in use yet.

    Raises:
        KeyFileError: the keys are missing, damaged, or those of another database.
    """
    keys = await _load(settings, database)
    try:
        await _hold_to(database, keys)
    except _OtherKeysError as error:
        raise KeyFileError(
            f"{_name_place(settings)} does not hold the keys of this database. Put back the key "
            "file that belongs to it: what it encrypted opens with nothing else"
        ) from error
    return keys


async def follow_keys(database: Database, keys: KeyRing, *, now: datetime) -> None:
    """Have the hosts told again what they may run alone, when the keys differ from the last start.

    A secret that did not open then was left out of what the hosts were told. It may open now.
    """
    async with database.reading() as connection:
        if await connection.scalar(_KNOWN_KEYS) == keys.key_ids:
            return
    async with database.writing() as connection:
        await schedules.take_turn(connection)
        if await connection.scalar(_KNOWN_KEYS) == keys.key_ids:
            return
        await connection.execute(sa.update(server_identity).values(key_ids=keys.key_ids))
        await schedules.lock_hosts(connection, schedules.runs_alone())
        moved = await schedules.move_version(connection, schedules.runs_alone(), now=now)
        touch(connection, *moved)


class _OtherKeysError(Exception):
    """The database belongs to other keys."""


async def _load(settings: Settings, database: Database) -> KeyRing:
    if settings.key is not None:
        try:
            return parse_keys(settings.key)
        except KeyFileError as error:
            raise KeyFileError(f"the setting key (BACKHAUL_API_KEY): {error}") from error
    path = settings.effective_key_file
    if not path.exists():
        async with database.reading() as connection:
            may_create = not await _has_owner(connection, is_shared=not database.is_sqlite)
        if not may_create:
            raise KeyFileError(
                f"the key file {path} is missing, and the database belongs to it. Restore it from "
                "a backup, or copy it from an instance that shares the database: a new one would "
                "open none of the stored secrets"
            )
        create_keys(path)
    return load_keys(path)


async def _hold_to(database: Database, keys: KeyRing) -> None:
    """Note whose the database is, or check it.

    Raises:
        _OtherKeysError: it belongs to other keys.
    """
    try:
        async with database.writing() as connection:
            owner = await connection.scalar(_OWNER)
            if owner == keys.verify_key:
                return
            if owner is not None and await _has_owner(connection, is_shared=not database.is_sqlite):
                raise _OtherKeysError
            await connection.execute(sa.delete(server_identity))
            await connection.execute(
                sa.insert(server_identity).values(id=_ROW_ID, verify_key=keys.verify_key)
            )
    except sa.exc.IntegrityError as error:
        # Another instance began on the same empty database at the same moment, and was first.
        async with database.reading() as connection:
            if await connection.scalar(_OWNER) != keys.verify_key:
                raise _OtherKeysError from error


async def _has_owner(connection: AsyncConnection, *, is_shared: bool) -> bool:
    """Tell whether the database would lose something with other keys, or another instance would."""
    for column in (hosts.c.id, repository_secrets.c.id):
        if await connection.scalar(sa.select(column).limit(1)) is not None:
            return True
    return is_shared and await connection.scalar(_OWNER) is not None


def _name_place(settings: Settings) -> str:
    if settings.key is not None:
        return "the setting key (BACKHAUL_API_KEY)"
    return f"the key file {settings.effective_key_file}"


_OWNER = sa.select(server_identity.c.verify_key)
_KNOWN_KEYS = sa.select(server_identity.c.key_ids)
