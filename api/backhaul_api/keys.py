"""The server's keys: what it encrypts secrets with at rest, and what it signs with.

The key file holds one key a line, 32 bytes in base64. The first encrypts; all decrypt, so a new
key is put first and the old one stays until everything was encrypted again. The file is made once
with mode 0600 and never overwritten: without it no stored secret can be opened again. Whether it
may be made at all, the database decides: see `server_identity`.

A ciphertext is: format byte 1, key id (8 bytes), nonce (24 bytes), XChaCha20-Poly1305 ciphertext.
Its associated data names the table, row and column that own it, so that a ciphertext which was
moved to another row does not open.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from uuid import UUID

import nacl.exceptions
import nacl.secret
import nacl.signing
import nacl.utils

_FORMAT = b"\x01"
_KEY_SIZE = 32
_KEY_ID_SIZE = 8
_NONCE_SIZE = 24


class KeyFileError(Exception):
    """The key file cannot be used as it is."""


class SecretDoesNotOpenError(Exception):
    """A ciphertext was changed, was moved, or belongs to a key that is not in the key file."""


class KeyRing:
    """The keys of a control plane."""

    def __init__(self, keys: list[bytes]) -> None:
        if not keys or any(len(key) != _KEY_SIZE for key in keys):
            raise KeyFileError(f"a key ring needs at least one key, each of {_KEY_SIZE} bytes")
        self._keys = {_key_id(key): key for key in keys}
        self._first = keys[0]
        # The signing key must outlive a rotation: agents know its public half from enrolment. It
        # comes from the oldest key, which is the last line.
        seed = hashlib.blake2b(keys[-1], digest_size=32, person=b"bh-signing").digest()
        self._signing_key = nacl.signing.SigningKey(seed)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._keys)}>"

    @property
    def key_ids(self) -> list[str]:
        """The names of the keys, in hex and sorted: they tell key rings apart, and nothing else."""
        return sorted(key_id.hex() for key_id in self._keys)

    @property
    def verify_key(self) -> bytes:
        """Ed25519, 32 bytes: checks what `sign` signs."""
        return bytes(self._signing_key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """Build the 64-byte Ed25519 signature of a message."""
        return self._signing_key.sign(message).signature

    def encrypt(self, plaintext: bytes, *, table: str, row_id: UUID, column: str) -> bytes:
        """Encrypt what stands in one place of the database."""
        nonce = nacl.utils.random(_NONCE_SIZE)
        sealed = nacl.secret.Aead(self._first).encrypt(
            plaintext, _associated_data(table, row_id, column), nonce
        )
        return _FORMAT + _key_id(self._first) + nonce + sealed.ciphertext

    def decrypt(self, ciphertext: bytes, *, table: str, row_id: UUID, column: str) -> bytes:
        """Open what `encrypt` made for the same place.

        Raises:
            SecretDoesNotOpenError: see there.
        """
        where = f"{table}.{column} of {row_id}"
        if ciphertext[:1] != _FORMAT:
            raise SecretDoesNotOpenError(f"{where}: unknown ciphertext format")
        key_id, rest = ciphertext[1 : 1 + _KEY_ID_SIZE], ciphertext[1 + _KEY_ID_SIZE :]
        key = self._keys.get(key_id)
        if key is None:
            raise SecretDoesNotOpenError(
                f"{where}: encrypted with key {key_id.hex()}, which is not in the key file"
            )
        try:
            return nacl.secret.Aead(key).decrypt(
                rest[_NONCE_SIZE:], _associated_data(table, row_id, column), rest[:_NONCE_SIZE]
            )
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise SecretDoesNotOpenError(f"{where}: changed, or moved from elsewhere") from error


def create_keys(path: Path) -> None:
    """Make a key file with one new key, and its folder; leave alone what is there already.

    Raises:
        KeyFileError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
            file.write(base64.b64encode(nacl.utils.random(_KEY_SIZE)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            # A link appears whole or not at all, and takes nobody's place: two servers that start
            # at once agree on one file, and neither reads half of it.
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be made: {error}") from error


def load_keys(path: Path) -> KeyRing:
    """Load the key file.

    Raises:
        KeyFileError: it is missing, is not a key file, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error}") from error
    if mode & 0o077:
        raise KeyFileError(f"the key file {path} can be read by others; run: chmod 600 {path}")
    try:
        return parse_keys(text)
    except KeyFileError as error:
        raise KeyFileError(
            f"the key file {path} is damaged ({error}). Restore it from a backup: without it the "
            "stored repository passwords cannot be opened"
        ) from error


def parse_keys(text: str) -> KeyRing:
    """Read keys from text: one a line, base64 of 32 bytes, the encrypting one first."""
    try:
        keys = [base64.b64decode(line, validate=True) for line in text.split()]
    except binascii.Error as error:
        raise KeyFileError("a line is not base64") from error
    return KeyRing(keys)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _key_id(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=_KEY_ID_SIZE, person=b"bh-key-id").digest()


def _associated_data(table: str, row_id: UUID, column: str) -> bytes:
    return f"backhaul/1/{table}/{row_id}/{column}".encode()
