"""Sealing repositories' credentials to a host: the only place that opens them."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import nacl.public
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.tables import repositories
from backhaul_api.errors import ConflictError
from backhaul_api.keys import KeyRing
from backhaul_api.repositories.rules import Access
from backhaul_api.repositories.secrets import load_credentials


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals credentials to one host, opening those of each repository once.

    `opened` may be shared with the sealers of other hosts, in one transaction.
    """

    connection: AsyncConnection
    keys: KeyRing
    host_id: UUID
    public_key: bytes
    opened: dict[tuple[UUID, Access], bytes] = field(default_factory=dict)
    boxes: dict[UUID, bytes | None] = field(default_factory=dict)

    async def seal(
        self, repository_id: UUID | None, access: Access = Access.EVERYDAY
    ) -> bytes | None:
        """Build the sealed box with what opens the repository.

        Raises:
            SecretDoesNotOpenError: the server's key file does not open it.
            NotFoundError: the repository was removed, or its password is not being changed.
            ConflictError: more than everyday access is only for the upkeep host, now another one.
        """
        if repository_id is None:
            return None
        if access is not Access.EVERYDAY:
            await self._check_upkeep(repository_id)
        key = (repository_id, access)
        if key not in self.opened:
            credentials = await load_credentials(self.connection, self.keys, repository_id, access)
            self.opened[key] = msgspec.json.encode(credentials)
        box = nacl.public.SealedBox(nacl.public.PublicKey(self.public_key))
        return box.encrypt(self.opened[key])

    async def _check_upkeep(self, repository_id: UUID) -> None:
        """The upkeep host may have become another one since the job was made."""
        query = sa.select(repositories.c.upkeep_host_id).where(repositories.c.id == repository_id)
        upkeep_host_id = await self.connection.scalar(query)
        if upkeep_host_id not in {None, self.host_id}:
            raise ConflictError(
                "Another host is the repository's upkeep host: only that may do it."
            )

    async def seal_once(self, repository_id: UUID) -> bytes | None:
        """Build one box for all schedules of a repository: a thousand boxes take a while.

        Everyday access only: what a host keeps for runs without the server must not delete. Raises
        as `seal` does.
        """
        if repository_id not in self.boxes:
            self.boxes[repository_id] = await self.seal(repository_id)
        return self.boxes[repository_id]
