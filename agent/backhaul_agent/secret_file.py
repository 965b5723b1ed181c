"""A file for one secret, that is in memory only and gone with the process that made it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hold_secret(secret: str) -> Iterator[str]:
    """Give the path under which a program that is started by this user can read the secret.

    It leads through this process: nothing has to be inherited, and no crash can leave it behind.
    """
    descriptor = os.memfd_create("backhaul-secret", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret.encode())
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"
