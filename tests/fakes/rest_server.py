"""A server of restic's REST protocol, which asks for a user and a password.

rclone's, which obeys `--append-only` as restic's own rest-server does: whoever uses it may add and
read, and delete nothing but locks.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.rclone import run_rclone
from tests.fakes.storage import Storage


@contextmanager
def run_rest_server(folder: Path, *, is_append_only: bool = False) -> Iterator[Storage]:
    """Serve what lies in `folder`, the repository itself.

    Raises:
        ServerMissingError: there is no rclone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    password = secrets.token_hex(16)
    options = ["--append-only"] if is_append_only else []
    environment = {"RCLONE_USER": "backup", "RCLONE_PASS": password}
    with run_rclone("restic", folder, *options, logs=folder.parent, environment=environment) as url:
        # Not in RESTIC_REST_PASSWORD, which restic before 0.16.1 does not read.
        yield Storage(location=f"rest:{url.replace('//', f'//backup:{password}@', 1)}")
