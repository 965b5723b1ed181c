"""A repository that costs little: restic's own, but for what a guess at its password costs.

`restic init` takes half a second of work to find out how much scrypt this machine can bear, and
every later command as much as that allows. Of the key here, scrypt's parameters were lowered to
N = 2, r = 1, p = 1; the rest of it, and everything else, is as restic 0.14.0 wrote it (tried with
0.14.0, 0.18.0 and 0.19.1). All such repositories have the same id and the same keys.

What is about making a repository, or about its keys, has to use a real one.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

PASSWORD = "correct-horse"

_DATA = Path(__file__).resolve().parents[1] / "data" / "light-repository"
_FOLDERS = ("data", "index", "keys", "locks", "snapshots")


def make_light_repository(folder: Path) -> None:
    """Make a repository that is empty, in a folder that is not there, and opened by `PASSWORD`."""
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True)
    shutil.copyfile(_DATA / "config", folder / "config")
    key = (_DATA / "key").read_bytes()
    (folder / "keys" / hashlib.sha256(key).hexdigest()).write_bytes(key)
