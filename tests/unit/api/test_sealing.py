"""Boxes for hosts: sealed once for what is in them, and never for what is not there any more."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID, uuid4

import msgspec
import nacl.public
import pytest

from backhaul.wire.commands import Credentials
from backhaul_api.errors import NotFoundError
from backhaul_api.keys import KeyRing
from backhaul_api.polling.sealing import Boxes, Content
from backhaul_api.repositories.rules import Access
from backhaul_api.repositories.secrets import LOCATION, NEXT_PASSWORD, PASSWORD, Closed

KEYS = KeyRing([bytes(range(32))])
HOST, OTHER = nacl.public.PrivateKey.generate(), nacl.public.PrivateKey.generate()
REPOSITORY = uuid4()


def close(secrets: Mapping[str, str]) -> Closed:
    rows: list[tuple[str, UUID, bytes]] = []
    for name, secret in sorted(secrets.items()):
        row_id = UUID(int=len(rows))
        ciphertext = KEYS.encrypt(
            secret.encode(), table="repository_secrets", row_id=row_id, column="ciphertext"
        )
        rows.append((name, row_id, ciphertext))
    return Closed(REPOSITORY, Access.EVERYDAY, tuple(rows))


def unseal(box: bytes, host: nacl.public.PrivateKey) -> Credentials:
    return msgspec.json.decode(nacl.public.SealedBox(host).decrypt(box), type=Credentials)


def seal(boxes: Boxes, closed: Closed, host: nacl.public.PrivateKey = HOST) -> bytes:
    return boxes.seal(Content(KEYS, closed), bytes(host.public_key))


def test_box_of_the_same_content_is_sealed_and_opened_once() -> None:
    boxes, closed = Boxes(), close({LOCATION: "/srv/nas", PASSWORD: "secret"})
    first = seal(boxes, closed)
    # It could not be opened any more.
    without_keys = Content(KeyRing([bytes(32)]), closed)

    assert boxes.seal(without_keys, bytes(HOST.public_key)) == first
    assert unseal(first, HOST).password == "secret"


def test_each_host_has_a_box_of_its_own() -> None:
    boxes, closed = Boxes(), close({LOCATION: "/srv/nas", PASSWORD: "secret"})

    assert unseal(seal(boxes, closed), HOST) == unseal(seal(boxes, closed, OTHER), OTHER)


def test_changed_secret_is_in_the_next_box() -> None:
    boxes = Boxes()
    seal(boxes, close({LOCATION: "/srv/nas", PASSWORD: "secret"}))

    changed = seal(boxes, close({LOCATION: "/srv/nas", PASSWORD: "changed"}))

    assert unseal(changed, HOST).password == "changed"


def test_more_access_is_another_box() -> None:
    boxes = Boxes()
    secrets = {LOCATION: "/srv/nas", PASSWORD: "secret", NEXT_PASSWORD: "next"}
    everyday = close(secrets)
    adding = Closed(REPOSITORY, Access.ADD_PASSWORD, everyday.rows)

    assert unseal(seal(boxes, everyday), HOST).new_password is None
    assert unseal(seal(boxes, adding), HOST).new_password == "next"


def test_repository_that_is_gone_has_no_box_any_more() -> None:
    boxes = Boxes()
    seal(boxes, close({LOCATION: "/srv/nas", PASSWORD: "secret"}))

    with pytest.raises(NotFoundError):
        seal(boxes, close({}))
