"""A private OpenSSH server on loopback, with keys of its own, for `sftp:` repositories.

restic runs `ssh` as it finds it on PATH, and ssh looks for keys and known hosts where the user
database says that the user's home is, whatever HOME says. So that the test needs nothing of the
user's own `~/.ssh` and leaves nothing there, `path` has an `ssh` that reads a configuration of the
test instead.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.storage import ServerMissingError, Storage
from tools.children import Child

_START_LIMIT_S = 10.0

_SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
ForceCommand internal-sftp
"""

_SSH = """\
IdentityFile {folder}/user_key
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
BatchMode yes
"""


@dataclass(frozen=True, kw_only=True)
class SftpStorage(Storage):
    """A place for repositories behind SFTP."""

    path: Path
    """A folder to put before everything in PATH of whoever runs restic."""
    files: Path
    """Where the repository is."""


@contextmanager
def run_sftp_server(folder: Path) -> Iterator[SftpStorage]:
    """Serve this machine's files, for the user who runs this and has the key in `folder`.

    Raises:
        ServerMissingError: there is no sshd, or no ssh.
    """
    # sshd starts itself again for each connection, and wants to be named in full.
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    ssh = shutil.which("ssh")
    if sshd is None or ssh is None:
        raise ServerMissingError("OpenSSH (sshd, ssh)")
    folder.mkdir(parents=True)
    port = _find_port()
    _write_keys(folder, port)
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder, port=port))
    _write_ssh(folder, ssh)
    if os.geteuid() == 0:
        # Where sshd locks itself in; a service would make it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = Child(
        "sshd",
        [sshd, "-D", "-e", "-f", str(folder / "sshd_config")],
        logs=folder,
        environment=os.environ,
    )
    try:
        server.wait_for_error(r"(Server listening on 127\.0\.0\.1)", limit_s=_START_LIMIT_S)
        yield SftpStorage(
            location=f"sftp://{getpass.getuser()}@127.0.0.1:{port}/{folder}/repository",
            path=folder / "bin",
            files=folder / "repository",
        )
    finally:
        server.stop(signal.SIGTERM)


def _find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _write_keys(folder: Path, port: int) -> None:
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")


def _write_ssh(folder: Path, ssh: str) -> None:
    (folder / "ssh_config").write_text(_SSH.format(folder=folder))
    (folder / "bin").mkdir()
    program = folder / "bin" / "ssh"
    program.write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/ssh_config "$@"\n')
    program.chmod(0o755)
