"""The folders that drills restore to: private, one for each job, and gone when it is over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

_PREFIX = "backhaul-drill-"
"""The scratch folder may be one that others use, too."""


def make_scratch(parent: Path, job_id: UUID) -> Path:
    """Make the folder of a job.

    Raises:
        OSError: that is not possible.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = parent / f"{_PREFIX}{job_id}"
    remove_scratch(folder)  # An earlier attempt's, which could not be removed then.
    folder.mkdir(mode=0o700)
    return folder


def remove_scratch(folder: Path) -> None:
    """Remove the folder of a job, if it is there, with all that was restored to it.

    Raises:
        OSError: that is not possible.
    """
    if folder.is_symlink() or not folder.exists():
        return
    shutil.rmtree(folder, onerror=_try_harder)


def remove_left_behind(parent: Path) -> list[Path]:
    """Remove what drills left that were cut off. Gives what could not be removed."""
    left = []
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            remove_scratch(folder)
        except OSError:
            left.append(folder)
    return left


def _try_harder(remove: Callable[..., object], path: str, _: object) -> None:
    """Remove from a folder that was restored read-only, too."""
    os.chmod(os.path.dirname(path), 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        shutil.rmtree(path)
        return
    remove(path)
