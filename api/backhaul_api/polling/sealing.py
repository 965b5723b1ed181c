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
from backhaul_api.repositories.secrets import Closed, fetch_closed

MAX_KEPT = 20_000
"""Boxes that a process keeps; some ten megabytes."""


class Content:
    """What opens a repository: opened only for a host that has no box of it yet."""

    def __init__(self, keys: KeyRing, closed: Closed) -> None:
        self.digest = closed.digest
        self._keys = keys
        self._closed = closed
        self._plain: bytes | None = None

    def open(self) -> bytes:
        """Build what is to be in the box. Raises as `Closed.open` does."""
        if self._plain is None:
            self._plain = msgspec.json.encode(self._closed.open(self._keys))
        return self._plain


class Boxes:
    """Sealed boxes that were made before. To make one takes longer than all that a job takes of the
    database, and most jobs of a host need the one that its last job needed.

    A box is a ciphertext that only its host opens, and goes over the wire as it is; what is in it
    is known here only by a hash of what the database has of it, which is encrypted.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, bytes], bytes] = {}

    def has(self, digest: bytes, public_key: bytes) -> bool:
        """Tell whether the box of a content was made for the host of a key, and is kept."""
        return (public_key, digest) in self._kept

    def seal(self, content: Content, public_key: bytes) -> bytes:
        """Build the box for the host of a key. Raises as `Content.open` does."""
        place = (public_key, content.digest)
        # Put at the end again: those at the beginning are the ones that nobody has asked for.
        box = self._kept.pop(place, None)
        if box is None:
            box = nacl.public.SealedBox(nacl.public.PublicKey(public_key)).encrypt(content.open())
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[place] = box
        return box


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals credentials to one host, reading those of each repository once.

    `contents` may be shared with the sealers of other hosts, in one look.
    """

    connection: AsyncConnection
    keys: KeyRing
    boxes: Boxes
    host_id: UUID
    public_key: bytes
    contents: dict[tuple[UUID, Access], Content] = field(default_factory=dict)

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
        if key not in self.contents:
            closed = await fetch_closed(self.connection, repository_id, access)
            self.contents[key] = Content(self.keys, closed)
        return self.boxes.seal(self.contents[key], self.public_key)

    async def _check_upkeep(self, repository_id: UUID) -> None:
        """The upkeep host may have become another one since the job was made."""
        query = sa.select(repositories.c.upkeep_host_id).where(repositories.c.id == repository_id)
        upkeep_host_id = await self.connection.scalar(query)
        if upkeep_host_id not in {None, self.host_id}:
            raise ConflictError(
                "Another host is the repository's upkeep host: only that may do it."
            )
