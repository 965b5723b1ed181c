"""One process at a time has the state folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backhaul_agent.errors import StateFileError


@contextmanager
def only_process(state_dir: Path) -> Iterator[None]:
    """Hold an existing state folder for this process; its end lets go, however it ends.

    Raises:
        StateFileError: another agent has it.
    """
    path = state_dir / "agent.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateFileError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        _lock(descriptor, state_dir)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, state_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StateFileError(f"another agent runs with the state folder {state_dir}") from error
