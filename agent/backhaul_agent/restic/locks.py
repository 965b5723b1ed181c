"""restic's lock of another process: whose it is, and whether that one is gone.

restic says it on stderr, since 0.14.0 at the latest (tests/data/restic/locked-*):

    repository is already locked by PID 1967 on web-1 by root (UID 0, GID 0)
    lock was created at 2026-11-23 02:47:40 (4.775909033s ago)

`restic cat lock` shows any lock in JSON (tests/data/restic/locked-exclusive-cat-lock).

A restic that lives writes its lock anew every five minutes, and takes one of more than 30 minutes
for stale; so do we.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

STALE_AFTER_S = 30 * 60.0

_OWNER = re.compile(r"already locked (?:exclusively )?by PID (\d+) on (\S+) by")
_AGE = re.compile(r"lock was created at .* \(((?:\d+h)?(?:\d+m)?[\d.]+(?:m?s|µs|ns)) ago\)")
_PART = re.compile(r"([\d.]+)(h|ms|µs|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a lock is."""

    hostname: str
    pid: int


def build_show_arguments(lock_id: str) -> list[str]:
    """Build the command line that shows a lock, without one of its own."""
    return ["cat", "lock", lock_id, "--no-lock"]


def read_owner(lines: Iterable[str]) -> Owner | None:
    """Read a lock that restic shows; None when it is none that we know."""
    try:
        return msgspec.json.decode("\n".join(lines), type=Owner)
    except (msgspec.DecodeError, UnicodeError):
        return None


class Lock(NamedTuple):
    """A lock in the way."""

    pid: int
    host: str
    age_s: float


def read_lock(stderr: Iterable[str]) -> Lock | None:
    """Read what restic says of the lock in its way."""
    text = "\n".join(stderr)
    owner, age = _OWNER.search(text), _AGE.search(text)
    if owner is None or age is None:
        return None
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(age[1]))
    return Lock(int(owner[1]), owner[2], seconds)


def explain_lock(
    lock: Lock,
    *,
    hostname: str | None = None,
    is_there: Callable[[int], bool] = lambda pid: Path(f"/proc/{pid}").exists(),
) -> str:
    """Tell what to do about a lock: wait for its owner, or remove it."""
    is_ours = lock.host == (socket.gethostname() if hostname is None else hostname)
    if lock.age_s > STALE_AFTER_S:
        why = f"its restic has not renewed it for {lock.age_s // 60:.0f} minutes"
    elif is_ours and not is_there(lock.pid):
        why = f"process {lock.pid} of this host is gone"
    else:
        return (
            f"restic works on the repository on {lock.host} (process {lock.pid}): wait for it. If "
            "it is gone, a job of the kind unlock removes its lock once that is 30 minutes old."
        )
    return f"The lock is stale: {why}. A job of the kind unlock removes it."
