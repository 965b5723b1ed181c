"""Sealing repositories' credentials to a host: the only place that opens them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import nacl.public
import nacl.utils
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.tables import repositories
from backhaul_api.errors import ConflictError
from backhaul_api.keys import KeyRing
from backhaul_api.repositories.rules import Access
from backhaul_api.repositories.secrets import load_credentials

MAX_KEPT = 20_000
"""Boxes that a process keeps; some ten megabytes."""


class Boxes:
    """Sealed boxes that were made before. To make one takes longer than all that a job takes of the
    database, and most jobs of a host need the one that its last job needed.

    A box is a ciphertext that only its host opens, and goes over the wire as it is; what is in it
    is known here only by a hash, whose key this process alone has.
    """

    def __init__(self) -> None:
        self._key = nacl.utils.random(hashlib.blake2b.MAX_KEY_SIZE)
        self._kept: dict[tuple[bytes, bytes], bytes] = {}

    def seal(self, plain: bytes, public_key: bytes) -> bytes:
        """Build the box with a text for the host of a key."""
        place = (public_key, hashlib.blake2b(plain, key=self._key).digest())
        # Put at the end again: those at the beginning are the ones that nobody has asked for.
        box = self._kept.pop(place, None)
        if box is None:
            box = nacl.public.SealedBox(nacl.public.PublicKey(public_key)).encrypt(plain)
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[place] = box
        return box


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals credentials to one host, opening those of each repository once.

    `opened` may be shared with the sealers of other hosts, in one look.
    """

    connection: AsyncConnection
    keys: KeyRing
    boxes: Boxes
    host_id: UUID
    public_key: bytes
    opened: dict[tuple[UUID, Access], bytes] = field(default_factory=dict)

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
        return self.boxes.seal(self.opened[key], self.public_key)

    async def _check_upkeep(self, repository_id: UUID) -> None:
        """The upkeep host may have become another one since the job was made."""
        query = sa.select(repositories.c.upkeep_host_id).where(repositories.c.id == repository_id)
        upkeep_host_id = await self.connection.scalar(query)
        if upkeep_host_id not in {None, self.host_id}:
            raise ConflictError(
                "Another host is the repository's upkeep host: only that may do it."
            )
