"""How important a backup is to the host: restic is started through `nice` and `ionice`.

Each of them becomes the program that it starts, so the number of the process, its session and its
signals stay what they are (coreutils 9.1, util-linux 2.38).
"""

from __future__ import annotations

import shutil

from backhaul.wire.kinds import BackupArguments, IoClass
from backhaul_agent.errors import NotSupportedError

_IO_CLASSES: dict[IoClass, tuple[str, ...]] = {
    "idle": ("-c", "3"),
    # The last of the eight levels.
    "best-effort": ("-c", "2", "-n", "7"),
}


def build_prefix(arguments: BackupArguments, *, path: str | None) -> list[str]:
    """Build what stands before the program; `path` is where to look for nice and ionice.

    Raises:
        NotSupportedError: one of them is not installed.
    """
    prefix: list[str] = []
    if arguments.nice:
        prefix += [_find("nice", "coreutils", path), "-n", str(arguments.nice)]
    if arguments.ionice is not None:
        prefix += [_find("ionice", "util-linux", path), *_IO_CLASSES[arguments.ionice]]
    return prefix


def _find(program: str, package: str, path: str | None) -> str:
    found = shutil.which(program, path=path)
    if found is None:
        raise NotSupportedError(
            f"the backup is to run under {program}, which this host does not have; install "
            f"{package}, or leave the priority out"
        )
    return found
