"""`restic unlock`: removes locks that dead processes have left. Never JSON.

Stale is what is older than 30 minutes, or of this host with a process that is gone (0.14.0). What
0.14 prints says nothing of what it removed, so the locks are counted afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

from backhaul.wire.kinds import UnlockArguments


def build_arguments(arguments: UnlockArguments = UnlockArguments()) -> list[str]:  # noqa: B008 (frozen)
    return ["unlock", "--remove-all"] if arguments.remove_all else ["unlock"]


def build_list_arguments() -> list[str]:
    """Build the command line that lists what is left, without a lock of its own."""
    return ["list", "locks", "--no-lock"]


def list_locks(lines: Iterable[str]) -> list[str]:
    """Read the ids of a list of locks: one a line."""
    return [line.strip() for line in lines if len(line.strip()) == 64]
