"""A real PgBouncer in transaction mode before a real PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

_LIMIT_S = 20.0
_PORT = 6432  # it only names the socket

_CONFIGURATION = """
[databases]
* = host={server} user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = 3
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = any
"""
"""Few connections, so that two transactions of one client are seldom on the same one."""


class PgbouncerMissingError(Exception):
    """The program is not installed."""


@contextmanager
def run_pgbouncer(url: str) -> Iterator[str]:
    """Run one before the server of this database; gives the database's URL through it.

    Raises:
        PgbouncerMissingError: there is none.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise PgbouncerMissingError
    parsed = sa.make_url(url)
    # A socket's path holds 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bh-pgb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        file = folder / "pgbouncer.ini"
        text = _CONFIGURATION.format(server=parsed.query["host"], port=_PORT, folder=folder)
        file.write_text(text)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=_give_away(folder) if os.geteuid() == 0 else None,
            )
        try:
            _wait_for_socket(folder, process)
            through = parsed.set(query={"host": str(folder), "port": str(_PORT)})
            yield through.render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait(_LIMIT_S)


def _give_away(folder: Path) -> str:
    """Let somebody else have the folder: PgBouncer does not run as root."""
    account = pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    return account.pw_name


def _wait_for_socket(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not (folder / f".s.PGSQL.{_PORT}").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PgBouncer did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.02)
