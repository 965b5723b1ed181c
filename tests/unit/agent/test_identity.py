"""The identity file, sealed credentials, and what a removal must be signed with."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import nacl.signing
import pytest

from backhaul.wire.problems import removal_message
from backhaul_agent.errors import CredentialsError, NotEnrolledError, StateFileError
from backhaul_agent.identity import FILE_NAME, delete_identity, load_identity, save_identity
from tests.unit.agent.hosts import build_command, build_credentials, build_identity, seal


def test_identity_is_kept_privately(state_dir: Path) -> None:
    identity = build_identity()

    save_identity(state_dir, identity)

    assert load_identity(state_dir) == identity
    assert (state_dir / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in state_dir.iterdir()] == [FILE_NAME]


def test_repr_shows_no_secret() -> None:
    identity = build_identity()

    assert identity.agent_token not in repr(identity)
    assert "private_key" not in repr(identity)


def test_missing_identity_names_the_remedy(state_dir: Path) -> None:
    with pytest.raises(NotEnrolledError, match="backhaul agent enroll"):
        load_identity(state_dir)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"server_url": 1}', b"null"])
def test_damaged_identity_stops_the_agent_and_is_left_as_it_is(
    state_dir: Path, content: bytes
) -> None:
    state_dir.mkdir()
    (state_dir / FILE_NAME).write_bytes(content)

    with pytest.raises(StateFileError, match="damaged"):
        load_identity(state_dir)

    assert (state_dir / FILE_NAME).read_bytes() == content


def test_folder_that_others_share_is_not_closed_to_them(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)

    with pytest.raises(StateFileError, match="not this user's own"):
        save_identity(shared, build_identity())

    assert shared.stat().st_mode & 0o7777 == 0o1777


def test_deleted_identity_is_gone(state_dir: Path) -> None:
    save_identity(state_dir, build_identity())

    delete_identity(state_dir)

    assert list(state_dir.iterdir()) == []


def test_sealed_credentials_open_for_their_command() -> None:
    identity, credentials = build_identity(), build_credentials()
    command = build_command(
        repository_id=credentials.repository_id, credentials=seal(identity, credentials)
    )

    assert identity.open_credentials(command) == credentials


def test_credentials_for_another_host_do_not_open() -> None:
    credentials = build_credentials()
    command = build_command(
        repository_id=credentials.repository_id, credentials=seal(build_identity(), credentials)
    )

    with pytest.raises(CredentialsError, match="not sealed to this host"):
        build_identity().open_credentials(command)


def test_credentials_moved_to_another_command_do_not_serve() -> None:
    identity = build_identity()
    command = build_command(repository_id=uuid4(), credentials=seal(identity, build_credentials()))

    with pytest.raises(CredentialsError, match="another repository"):
        identity.open_credentials(command)


def test_command_without_credentials_is_refused() -> None:
    with pytest.raises(CredentialsError, match="no credentials"):
        build_identity().open_credentials(build_command())


def test_only_the_servers_signature_removes_a_host() -> None:
    key = nacl.signing.SigningKey.generate()
    identity = build_identity(signing_key=key)
    message = removal_message(identity.host_id)

    assert identity.is_removal(key.sign(message).signature)
    assert not identity.is_removal(nacl.signing.SigningKey.generate().sign(message).signature)
    assert not identity.is_removal(key.sign(removal_message(uuid4())).signature)
    assert not identity.is_removal(b"")
