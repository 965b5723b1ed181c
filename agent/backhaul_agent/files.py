"""Writes small files so that a crash leaves the old or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def save_privately(file: Path, content: bytes) -> None:
    """Replace a file atomically, with mode 0600; its folder is made with mode 0700."""
    make_private_folder(file.parent)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter; an existing one is closed to others.

    Raises:
        OSError: also for a folder that others share, like /tmp, or that is another user's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_mode & stat.S_ISVTX or found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the folder is not this user's own", str(folder))
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def sync_folder(folder: Path) -> None:
    """Make a rename or a removal in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
