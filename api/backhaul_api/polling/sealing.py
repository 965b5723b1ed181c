"""Sealing repositories' credentials to a host: the only place that opens them."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import nacl.public
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.keys import KeyRing
from backhaul_api.repositories.secrets import load_credentials


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals credentials to one host, opening those of each repository once."""

    connection: AsyncConnection
    keys: KeyRing
    public_key: bytes
    opened: dict[UUID, bytes] = field(default_factory=dict)
    boxes: dict[UUID, bytes | None] = field(default_factory=dict)

    async def seal(self, repository_id: UUID | None) -> bytes | None:
        """Build the sealed box with what opens the repository.

        Raises:
            SecretDoesNotOpenError: the server's key file does not open it.
            NotFoundError: the repository was removed.
        """
        if repository_id is None:
            return None
        if repository_id not in self.opened:
            credentials = await load_credentials(self.connection, self.keys, repository_id)
            self.opened[repository_id] = msgspec.json.encode(credentials)
        box = nacl.public.SealedBox(nacl.public.PublicKey(self.public_key))
        return box.encrypt(self.opened[repository_id])

    async def seal_once(self, repository_id: UUID) -> bytes | None:
        """Build one box for all schedules of a repository: a thousand boxes take a while.

        Raises as `seal` does.
        """
        if repository_id not in self.boxes:
            self.boxes[repository_id] = await self.seal(repository_id)
        return self.boxes[repository_id]
