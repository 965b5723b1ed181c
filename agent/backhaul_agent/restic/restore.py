"""`restic restore`: a snapshot into a new or empty folder, or in place.

restic prints text up to 0.15 and names no counts, so what was restored is counted in the target.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from backhaul.wire.kinds import RestoreArguments, RestoreResult


def build_arguments(arguments: RestoreArguments, *, snapshot_id: str) -> list[str]:
    line = ["restore", "--json", f"--target={arguments.target}"]
    line += [f"--include={pattern}" for pattern in arguments.include]
    line += [f"--exclude={pattern}" for pattern in arguments.exclude]
    if arguments.verify:
        line.append("--verify")
    return [*line, "--", snapshot_id]


def count_restored(target: str, *, snapshot_id: str) -> RestoreResult:
    """Count what lies below the target: everything but folders, and the bytes of regular files.

    Slow on large trees; run it in a thread.
    """
    files = size = 0
    for folder, _, names in os.walk(target):
        for name in names:
            found = _look_at(Path(folder, name))
            if found is None:
                continue
            files += 1
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
        files += sum(1 for name in _links_to_folders(folder))
    return RestoreResult(
        snapshot_id=snapshot_id, target=target, files_restored=files, bytes_restored=size
    )


def _links_to_folders(folder: str) -> list[str]:
    """os.walk lists a symbolic link to a folder among the folders; restic counts it as a file."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_symlink() and entry.is_dir()]
    except OSError:
        return []


def _look_at(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
