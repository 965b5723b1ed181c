"""Idempotency-Key: a creating request that is sent again creates once, and is answered alike.

Whoever loses an answer on its way cannot know whether the request came through. With a key, it may
ask again: what was asked and answered is kept for 24 hours, written in the transaction that
creates, so there is never one without the other. The answer can hold a new token and is encrypted;
with it, so that nobody can guess at a password in it, the hash of what was asked. A request that
was refused leaves nothing, and may be mended under the same key.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import msgspec
import sqlalchemy as sa
from litestar.params import HeaderParameter
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.base import REQUEST_KEY_PATTERN
from backhaul_api.auth import OperatorRequest
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import idempotency_keys
from backhaul_api.db.types import Moment
from backhaul_api.errors import ConflictError, InvalidError
from backhaul_api.identity import Actor
from backhaul_api.keys import SecretDoesNotOpenError
from backhaul_api.services import Services

T = TypeVar("T")

HEADER = "Idempotency-Key"

KEPT_FOR = timedelta(hours=24)

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name=HEADER,
        min_length=1,
        max_length=255,
        pattern=REQUEST_KEY_PATTERN,
        description=(
            "Any text that is new for each thing to create, like a UUID. Sent again within 24 "
            "hours, nothing more is created and the answer is the same."
        ),
    ),
]

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


def is_key(header: bytes) -> bool:
    """Tell whether the header holds what `IdempotencyKey` takes."""
    return _KEY.fullmatch(header) is not None


def _build_claim(insert: Any) -> Any:
    """Build what writes a key that is new, or takes the place of one that is too old to count."""
    columns = ("id", "user_id", "created_at")
    claim = insert(idempotency_keys).values({name: sa.bindparam(name) for name in columns})
    return constant(
        claim.on_conflict_do_update(
            index_elements=["id"],
            set_={"created_at": claim.excluded.created_at, "answer": None},
            where=idempotency_keys.c.created_at <= sa.bindparam("until", type_=Moment()),
        )
    )


# Built once: every request that makes something asks them.
_CLAIM: dict[str, Any] = {
    name: _build_claim(insert)
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
_KEEP = constant(
    sa.update(idempotency_keys)
    .where(idempotency_keys.c.id == sa.bindparam("wanted"))
    .values(answer=sa.bindparam("sealed"))
)
_HASH_BYTES = 32
_PLACE = {"table": "idempotency_keys", "column": "answer"}


class Once:
    """One creating request of an operator. Without a key, it remembers nothing."""

    def __init__(
        self, services: Services, actor: Actor, key: str | None, *, path: str, data: msgspec.Struct
    ) -> None:
        self._services = services
        self._user_id = actor.id
        # Keys of two operators have nothing to do with each other.
        self._id = None if key is None or self._user_id is None else uuid.uuid5(self._user_id, key)
        self._path = path
        self._data = data

    @classmethod
    def of(
        cls, request: OperatorRequest, services: Services, key: str | None, data: msgspec.Struct
    ) -> Once:
        """Build it for a request that a route handles."""
        return cls(services, request.user, key, path=request.scope["path"], data=data)

    async def recall(self, connection: AsyncConnection, type_: type[T]) -> T | None:
        """Give what was answered before; None when this is the first time. Of several who ask at
        the same time, the others wait here for the first one's transaction.

        Raises:
            InvalidError: the key was used for something else.
            ConflictError: what was answered cannot be read any more.
        """
        if self._id is None:
            return None
        now = self._services.clock.now()
        claim = {
            "id": self._id,
            "user_id": self._user_id,
            "created_at": now,
            "until": now - KEPT_FOR,
        }
        claimed = await connection.execute(_CLAIM[connection.dialect.name], claim)
        if claimed.rowcount == 1:
            return None
        sealed = await connection.scalar(
            sa.select(idempotency_keys.c.answer).where(idempotency_keys.c.id == self._id)
        )
        try:
            kept = self._services.keys.decrypt(sealed or b"", row_id=self._id, **_PLACE)
        except SecretDoesNotOpenError as error:
            raise ConflictError(
                "A request with this Idempotency-Key came through before, and its answer cannot be "
                "read any more. Look what it has created; for something new, use a new key."
            ) from error
        if kept[:_HASH_BYTES] != self._hash_asked():
            raise InvalidError.of(HEADER, "was used for another request; use a new one for each")
        return msgspec.json.decode(kept[_HASH_BYTES:], type=type_)

    async def keep(self, connection: AsyncConnection, answer: object) -> None:
        """Keep the answer, in the transaction that created what it tells of."""
        if self._id is not None:
            plain = self._hash_asked() + msgspec.json.encode(answer)
            sealed = self._services.keys.encrypt(plain, row_id=self._id, **_PLACE)
            await connection.execute(_KEEP, {"wanted": self._id, "sealed": sealed})

    def _hash_asked(self) -> bytes:
        asked = self._path.encode() + b"\n" + msgspec.json.encode(self._data)
        return hashlib.sha256(asked).digest()
