"""Who this host is: the identity file that enrolment writes. Its only secrets in the clear.

`identity.json` in the state folder, mode 0600, written atomically. A file that cannot be read
stops the agent; nothing but `enroll --force` replaces it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import msgspec
import nacl.exceptions
import nacl.public
import nacl.signing

from backhaul.wire.agents import PublicKey
from backhaul.wire.base import Name
from backhaul.wire.commands import CommandRun, Credentials, QueryRun
from backhaul.wire.problems import removal_message
from backhaul.wire.tokens import TokenKind, parse_token_kind
from backhaul_agent.errors import CredentialsError, NotEnrolledError, StateFileError
from backhaul_agent.files import save_privately, sync_folder

FILE_NAME = "identity.json"


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server knows this host by, and the key that only this host has."""

    server_url: str
    ca_file: str | None
    host_id: UUID
    name: Name
    agent_token: str
    private_key: PublicKey
    """X25519, 32 bytes like its public half."""
    signing_key: PublicKey
    """The server's, Ed25519."""

    def __repr__(self) -> str:
        return f"Identity(name={self.name!r}, host_id={self.host_id}, …)"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key in hex, which the server shows too."""
        return fingerprint_of(nacl.public.PrivateKey(self.private_key))

    def open_credentials(self, command: CommandRun | QueryRun) -> Credentials:
        """Open the sealed box of a command or a query.

        Raises:
            CredentialsError: it is missing, not for this host, or of another repository.
        """
        return self._open(command.credentials, command.repository_id)

    def open_second_credentials(self, command: CommandRun) -> Credentials | None:
        """Open those of the second repository; None when the job needs none.

        Raises:
            CredentialsError: as above.
        """
        if command.second_repository_id is None:
            return None
        return self._open(command.second_credentials, command.second_repository_id)

    def _open(self, sealed: bytes | None, repository_id: UUID | None) -> Credentials:
        if sealed is None:
            raise CredentialsError("the command carries no credentials for the repository")
        box = nacl.public.SealedBox(nacl.public.PrivateKey(self.private_key))
        try:
            credentials = msgspec.json.decode(box.decrypt(sealed), type=Credentials)
        except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
            raise CredentialsError(
                "the command's credentials are not sealed to this host's key"
            ) from error
        if credentials.repository_id != repository_id:
            raise CredentialsError("the command's credentials belong to another repository")
        return credentials

    def is_removal(self, signature: bytes) -> bool:
        """Tell whether the server really signed that this host was removed."""
        try:
            nacl.signing.VerifyKey(self.signing_key).verify(
                removal_message(self.host_id), signature
            )
        except (nacl.exceptions.BadSignatureError, ValueError, TypeError):
            return False
        return True


def fingerprint_of(private_key: nacl.public.PrivateKey) -> str:
    """Build the SHA-256 of the public half, in hex."""
    return hashlib.sha256(bytes(private_key.public_key)).hexdigest()


def identity_exists(state_dir: Path) -> bool:
    """Tell whether this host was enrolled, even if the file is damaged."""
    return (state_dir / FILE_NAME).exists()


def save_identity(state_dir: Path, identity: Identity) -> None:
    """Write the identity file.

    Raises:
        StateFileError: the state folder cannot be written.
    """
    file = state_dir / FILE_NAME
    try:
        save_privately(file, msgspec.json.encode(identity))
    except OSError as error:
        raise StateFileError(f"{file}: cannot be written: {error.strerror}") from error


def load_identity(state_dir: Path) -> Identity:
    """Read the identity file.

    Raises:
        NotEnrolledError: there is none.
        StateFileError: there is one and it cannot be used.
    """
    file = state_dir / FILE_NAME
    try:
        identity = msgspec.json.decode(file.read_bytes(), type=Identity)
    except FileNotFoundError as error:
        raise NotEnrolledError(
            f"this host is not enrolled ({file} is missing); run: backhaul agent enroll"
        ) from error
    except OSError as error:
        raise StateFileError(f"{file}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # msgspec's text names the field and never quotes a value.
        raise StateFileError(
            f"{file} is damaged ({error}); restore it, or enrol again with --force"
        ) from error
    if parse_token_kind(identity.agent_token) is not TokenKind.AGENT:
        raise StateFileError(f"{file} is damaged (agent_token); enrol again with --force")
    return identity


def delete_identity(state_dir: Path) -> None:
    """Remove the identity file, after the server removed the host."""
    (state_dir / FILE_NAME).unlink(missing_ok=True)
    sync_folder(state_dir)
