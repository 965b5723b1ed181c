"""What opens a repository: encrypted in its own rows, each bound to the row that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.commands import Credentials
from backhaul_api.db.tables import repository_secrets
from backhaul_api.errors import NotFoundError
from backhaul_api.ids import new_id
from backhaul_api.keys import KeyRing

_TABLE = "repository_secrets"
_COLUMN = "ciphertext"

LOCATION = "location"
PASSWORD = "password"
ENVIRONMENT = "environment"


async def save(
    connection: AsyncConnection,
    keys: KeyRing,
    repository_id: UUID,
    secrets: Mapping[str, str],
    *,
    now: datetime,
) -> None:
    """Store secrets by name, in place of what was there under these names."""
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


async def load_credentials(
    connection: AsyncConnection, keys: KeyRing, repository_id: UUID
) -> Credentials:
    """Open what a job on this repository needs. It leaves the server only as a sealed box.

    Raises:
        NotFoundError: there is no such repository, or it was removed.
        SecretDoesNotOpenError: a ciphertext was changed, moved, or has a key that is not here.
    """
    query = sa.select(repository_secrets).where(repository_secrets.c.repository_id == repository_id)
    opened = {
        row.name: keys.decrypt(row.ciphertext, table=_TABLE, row_id=row.id, column=_COLUMN)
        for row in (await connection.execute(query)).all()
    }
    if LOCATION not in opened or PASSWORD not in opened:
        raise NotFoundError("repository", repository_id)
    return Credentials(
        repository_id=repository_id,
        location=opened[LOCATION].decode(),
        password=opened[PASSWORD].decode(),
        environment=msgspec.json.decode(opened.get(ENVIRONMENT, b"{}"), type=dict[str, str]),
    )


async def destroy(connection: AsyncConnection, repository_id: UUID) -> None:
    """Delete every secret of a repository."""
    await connection.execute(
        sa.delete(repository_secrets).where(repository_secrets.c.repository_id == repository_id)
    )
