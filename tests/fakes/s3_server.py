"""A server of the S3 protocol with one bucket, which asks for signed requests: rclone's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.rclone import run_rclone
from tests.fakes.storage import Storage

BUCKET = "backups"


@contextmanager
def run_s3_server(folder: Path) -> Iterator[Storage]:
    """Serve what lies in `folder`; each folder in it is a bucket.

    Raises:
        ServerMissingError: there is no rclone.
    """
    (folder / BUCKET).mkdir(parents=True)
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    # A list of pairs to rclone, so that the comma of one pair stands in quotation marks.
    environment = {"RCLONE_AUTH_KEY": f'"{key},{secret}"'}
    with run_rclone("s3", folder, logs=folder.parent, environment=environment) as url:
        yield Storage(
            location=f"s3:{url}{BUCKET}",
            environment={"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret},
        )
