"""Secrets at rest: what opens, what does not, and the key file."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path
from uuid import UUID

import nacl.signing
import pytest

from backhaul_api.keys import KeyFileError, KeyRing, SecretDoesNotOpenError, create_keys, load_keys

ROW = UUID(int=1)
KEYS = KeyRing([bytes(range(32))])


def _encrypt(keys: KeyRing = KEYS, *, row_id: UUID = ROW) -> bytes:
    return keys.encrypt(b"hunter2", table="repository_secrets", row_id=row_id, column="ciphertext")


def _decrypt(ciphertext: bytes, keys: KeyRing = KEYS, *, row_id: UUID = ROW) -> bytes:
    return keys.decrypt(ciphertext, table="repository_secrets", row_id=row_id, column="ciphertext")


def test_what_was_encrypted_for_a_place_opens_there() -> None:
    assert _decrypt(_encrypt()) == b"hunter2"


def test_two_encryptions_of_one_secret_differ() -> None:
    assert _encrypt() != _encrypt()


@pytest.mark.parametrize(
    ("table", "row_id", "column"),
    [
        ("repository_secrets", UUID(int=2), "ciphertext"),
        ("repositories", ROW, "ciphertext"),
        ("repository_secrets", ROW, "other"),
    ],
    ids=["row", "table", "column"],
)
def test_ciphertext_moved_elsewhere_does_not_open(table: str, row_id: UUID, column: str) -> None:
    with pytest.raises(SecretDoesNotOpenError):
        KEYS.decrypt(_encrypt(), table=table, row_id=row_id, column=column)


@pytest.mark.parametrize("position", [0, 1, 9, 40, -1])
def test_changed_ciphertext_does_not_open(position: int) -> None:
    changed = bytearray(_encrypt())
    changed[position] ^= 1

    with pytest.raises(SecretDoesNotOpenError):
        _decrypt(bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 9, 20, 33, 40])
def test_cut_ciphertext_does_not_open(length: int) -> None:
    with pytest.raises(SecretDoesNotOpenError):
        _decrypt(_encrypt()[:length])


def test_ciphertext_of_another_key_does_not_open_and_names_the_key() -> None:
    with pytest.raises(SecretDoesNotOpenError, match="not in the key file"):
        _decrypt(_encrypt(KeyRing([bytes(32)])))


def test_old_key_still_opens_after_a_new_one_was_put_first() -> None:
    old, new = bytes(32), bytes(range(32))
    before, after = KeyRing([old]), KeyRing([new, old])

    assert _decrypt(_encrypt(before), after) == b"hunter2"
    with pytest.raises(SecretDoesNotOpenError):
        _decrypt(_encrypt(after), before)


def test_signing_key_outlives_a_rotation() -> None:
    old = bytes(32)

    assert KeyRing([bytes(range(32)), old]).verify_key == KeyRing([old]).verify_key


def test_new_key_reaches_instances_in_two_rounds_without_one_that_cannot_read() -> None:
    old, new = bytes(32), bytes(range(32))
    rounds = [KeyRing([old]), KeyRing([old, new, old]), KeyRing([new, old])]

    for earlier, later in itertools.pairwise(rounds):
        assert _decrypt(_encrypt(earlier), later) == b"hunter2"
        assert _decrypt(_encrypt(later), earlier) == b"hunter2"
    assert len({ring.verify_key for ring in rounds}) == 1


def test_signature_is_checked_by_the_verify_key() -> None:
    signature = KEYS.sign(b"message")

    assert nacl.signing.VerifyKey(KEYS.verify_key).verify(b"message", signature) == b"message"


def test_key_ring_shows_no_key() -> None:
    assert repr(KEYS) == "<KeyRing of 1>"


def test_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret.key"
    create_keys(path)
    text = path.read_bytes()

    create_keys(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes() == text
    assert list(path.parent.iterdir()) == [path]
    load_keys(path)


def test_key_file_is_whole_as_soon_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.key"
    link = os.link
    seen: list[object] = []

    def look_around(*names: str) -> None:
        seen.append(path.exists())
        link(*names)
        seen.append(load_keys(path).verify_key)

    monkeypatch.setattr(os, "link", look_around)
    create_keys(path)

    assert seen == [False, load_keys(path).verify_key]


def test_missing_key_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"secret\.key"):
        load_keys(tmp_path / "secret.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_file_that_others_may_read_is_refused_with_the_remedy(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "secret.key"
    create_keys(path)
    path.chmod(mode)

    with pytest.raises(KeyFileError, match="chmod 600"):
        load_keys(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not base64!\n", b"c2hvcnQ=\n", b"\xff\xfe\n"],
    ids=["empty", "not-base64", "short", "not-ascii"],
)
def test_damaged_key_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    path.chmod(0o600)

    create_keys(path)

    with pytest.raises(KeyFileError):
        load_keys(path)
    assert path.read_bytes() == content
