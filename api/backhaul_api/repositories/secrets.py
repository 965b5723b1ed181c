"""What opens a repository: encrypted in its own rows, each bound to the row that holds it.

Processes remember what opens a repository, still encrypted. So every change touches it; and moves
its `updated_at`, where everyday jobs are given what changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.commands import Credentials
from backhaul_api.db.changes import touch
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import repository_secrets
from backhaul_api.errors import NotFoundError
from backhaul_api.ids import new_id
from backhaul_api.keys import KeyRing
from backhaul_api.repositories.rules import Access

_TABLE = "repository_secrets"
_COLUMN = "ciphertext"

LOCATION = "location"
PASSWORD = "password"
ENVIRONMENT = "environment"
ADMIN_LOCATION = "admin_location"
ADMIN_PASSWORD = "admin_password"
ADMIN_ENVIRONMENT = "admin_environment"
ADMIN = (ADMIN_LOCATION, ADMIN_PASSWORD, ADMIN_ENVIRONMENT)
NEXT_PASSWORD = "next_password"
"""What a change of the password is about to make the repository open to."""
OLD_PASSWORD = "old_password"
"""What opened it before the change, and still does."""


async def save(
    connection: AsyncConnection,
    keys: KeyRing,
    repository_id: UUID,
    secrets: Mapping[str, str],
    *,
    now: datetime,
) -> None:
    """Store secrets by name, in place of what was there under these names."""
    if secrets:
        touch(connection, repository_id)
    for name, secret in secrets.items():
        where = sa.and_(
            repository_secrets.c.repository_id == repository_id, repository_secrets.c.name == name
        )
        row_id = await connection.scalar(sa.select(repository_secrets.c.id).where(where))
        if row_id is None:
            row_id = new_id()
            statement: sa.Insert | sa.Update = sa.insert(repository_secrets).values(
                id=row_id, repository_id=repository_id, name=name
            )
        else:
            statement = sa.update(repository_secrets).where(where)
        ciphertext = keys.encrypt(secret.encode(), table=_TABLE, row_id=row_id, column=_COLUMN)
        await connection.execute(statement.values(ciphertext=ciphertext, updated_at=now))


def encode_environment(environment: Mapping[str, str]) -> str:
    """Build the text under which an environment is stored."""
    return msgspec.json.encode(dict(environment)).decode()


@dataclass(frozen=True)
class Closed:
    """What opens a repository, as far as an access goes, still encrypted."""

    repository_id: UUID
    access: Access
    rows: tuple[tuple[str, UUID, bytes], ...]
    """The name of each secret, its row, and its ciphertext; by name."""

    @cached_property
    def digest(self) -> bytes:
        """What stands for all of it: another one, if anything in it has changed."""
        digest = hashlib.blake2b(self.repository_id.bytes + self.access.value.encode())
        for name, row_id, ciphertext in self.rows:
            digest.update(b"%s %d " % (name.encode(), len(ciphertext)) + row_id.bytes + ciphertext)
        return digest.digest()

    def open(self, keys: KeyRing) -> Credentials:
        """Open what a job needs. It leaves the server only as a sealed box.

        Raises:
            NotFoundError: there is no such repository, it was removed, or its password is not being
                changed (any more).
            SecretDoesNotOpenError: a ciphertext was changed, moved, or has a key that is not here.
        """
        opened = _open(keys, self.rows)
        if LOCATION not in opened or PASSWORD not in opened:
            raise NotFoundError("repository", self.repository_id)
        new_password = old_password = None
        if self.access is Access.ADD_PASSWORD:
            new_password = _require(opened, NEXT_PASSWORD)
        elif self.access is Access.REMOVE_PASSWORD:
            new_password, old_password = opened[PASSWORD], _require(opened, OLD_PASSWORD)
        environment = opened.get(ADMIN_ENVIRONMENT, opened.get(ENVIRONMENT, "{}"))
        return Credentials(
            repository_id=self.repository_id,
            location=opened.get(ADMIN_LOCATION, opened[LOCATION]),
            password=opened.get(ADMIN_PASSWORD, opened[PASSWORD]),
            environment=msgspec.json.decode(environment, type=dict[str, str]),
            new_password=new_password,
            old_password=old_password,
        )


async def fetch_closed(
    connection: AsyncConnection, repository_id: UUID, access: Access = Access.EVERYDAY
) -> Closed:
    """Fetch what a job on this repository needs; of one that there is not, it has no rows."""
    rows = await _fetch(connection, repository_id, _NAMES[access])
    return Closed(repository_id, access, rows)


async def load_credentials(
    connection: AsyncConnection,
    keys: KeyRing,
    repository_id: UUID,
    access: Access = Access.EVERYDAY,
) -> Credentials:
    """Fetch and open what a job on this repository needs. Raises as `Closed.open` does."""
    return (await fetch_closed(connection, repository_id, access)).open(keys)


_EVERYDAY = (LOCATION, PASSWORD, ENVIRONMENT)
_NAMES = {
    Access.EVERYDAY: _EVERYDAY,
    Access.ADMIN: (*_EVERYDAY, *ADMIN),
    Access.ADD_PASSWORD: (*_EVERYDAY, *ADMIN, NEXT_PASSWORD),
    Access.REMOVE_PASSWORD: (*_EVERYDAY, *ADMIN, OLD_PASSWORD),
}


async def load(
    connection: AsyncConnection, keys: KeyRing, repository_id: UUID, *, names: Iterable[str]
) -> dict[str, str]:
    """Open some secrets of a repository, those of them that there are. No other is looked at.

    Raises:
        SecretDoesNotOpenError: a ciphertext was changed, moved, or has a key that is not here.
    """
    return _open(keys, await _fetch(connection, repository_id, names))


async def _fetch(
    connection: AsyncConnection, repository_id: UUID, names: Iterable[str]
) -> tuple[tuple[str, UUID, bytes], ...]:
    which = {"repository_id": repository_id, "names": list(names)}
    rows = await connection.execute(_SECRETS, which)
    return tuple(sorted((row.name, row.id, row.ciphertext) for row in rows))


def _open(keys: KeyRing, rows: Iterable[tuple[str, UUID, bytes]]) -> dict[str, str]:
    return {
        name: keys.decrypt(ciphertext, table=_TABLE, row_id=row_id, column=_COLUMN).decode()
        for name, row_id, ciphertext in rows
    }


async def promote_password(connection: AsyncConnection, repository_id: UUID) -> bool:
    """Make the next password the current one, and the current one the old one.

    False when there is no next one. Nothing is opened for it: a ciphertext is bound to its row, not
    to its name.
    """
    next_one = sa.select(repository_secrets.c.id).where(_named(repository_id, [NEXT_PASSWORD]))
    if await connection.scalar(next_one) is None:
        return False
    touch(connection, repository_id)
    await forget(connection, repository_id, names=[OLD_PASSWORD])
    for name, becomes in ((PASSWORD, OLD_PASSWORD), (NEXT_PASSWORD, PASSWORD)):
        await connection.execute(
            sa.update(repository_secrets).where(_named(repository_id, [name])).values(name=becomes)
        )
    return True


async def forget(connection: AsyncConnection, repository_id: UUID, *, names: Iterable[str]) -> None:
    """Delete some secrets of a repository."""
    touch(connection, repository_id)
    await connection.execute(sa.delete(repository_secrets).where(_named(repository_id, names)))


async def destroy(connection: AsyncConnection, repository_id: UUID) -> None:
    """Delete every secret of a repository."""
    touch(connection, repository_id)
    await connection.execute(
        sa.delete(repository_secrets).where(repository_secrets.c.repository_id == repository_id)
    )


def _named(repository_id: UUID, names: Iterable[str]) -> sa.ColumnElement[bool]:
    return sa.and_(
        repository_secrets.c.repository_id == repository_id,
        repository_secrets.c.name.in_(list(names)),
    )


def _require(opened: Mapping[str, str], name: str) -> str:
    if name not in opened:
        raise NotFoundError("change of the password", name)
    return opened[name]


_SECRETS = constant(
    sa.select(repository_secrets).where(
        repository_secrets.c.repository_id == sa.bindparam("repository_id"),
        repository_secrets.c.name.in_(sa.bindparam("names", expanding=True)),
    )
)
