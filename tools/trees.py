"""A tree of files to back up, and the comparison of two trees byte for byte."""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_LARGE_FILE_BYTES = 24 * 1024 * 1024


class TreesDifferError(Exception):
    """The first difference between two trees."""


@dataclass(frozen=True)
class TreeSize:
    """How much is in a tree."""

    files: int
    bytes: int


def make_tree(tree: Path) -> None:
    """Make a tree of real files: Python's standard library, and what makes restoring hard."""
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        tree / "python",
        symlinks=True,
        ignore=shutil.ignore_patterns(
            *("__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib"),
            *("config-*", "*.so", "*.a", "lib2to3", "ensurepip", "EXTERNALLY-MANAGED"),
        ),
    )
    odd = tree / "odd ones"
    odd.mkdir()
    (odd / "empty").touch()
    (odd / "empty folder").mkdir()
    (odd / "Grüße, 世界").write_text("a name beyond ASCII\n")
    (odd / "private").write_text("for its owner only\n")
    (odd / "private").chmod(0o600)
    (odd / "program").write_text("#!/bin/sh\necho ok\n")
    (odd / "program").chmod(0o755)
    (odd / "link").symlink_to("program")
    (odd / "broken link").symlink_to("/nowhere/at all")
    # Random, so that it takes restic some time: nothing in it is the same twice.
    (odd / "large").write_bytes(os.urandom(_LARGE_FILE_BYTES))


def compare_trees(original: Path, restored: Path) -> TreeSize:
    """Compare names, types, modes, contents and the targets of links.

    Raises:
        TreesDifferError: they are not the same; names the first difference.
    """
    files = size = 0
    names = _list_names(original)
    for name in sorted(names ^ _list_names(restored)):
        where = "missing from the restored tree" if name in names else "only in the restored tree"
        raise TreesDifferError(f"{name} is {where}")
    for name in sorted(names):
        one, other = original / name, restored / name
        _compare_entry(name, one, other)
        if one.is_file() and not one.is_symlink():
            files += 1
            size += one.stat().st_size
    return TreeSize(files=files, bytes=size)


def _list_names(tree: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(folder, name), tree)
        for folder, folders, files in os.walk(tree)
        for name in (*folders, *files)
    }


def _compare_entry(name: str, one: Path, other: Path) -> None:
    mode, other_mode = one.lstat().st_mode, other.lstat().st_mode
    if mode != other_mode:
        raise TreesDifferError(f"{name} has the mode {other_mode:o} instead of {mode:o}")
    if stat.S_ISLNK(mode):
        if os.readlink(one) != os.readlink(other):
            raise TreesDifferError(f"{name} leads to {os.readlink(other)}")
    elif stat.S_ISREG(mode) and one.read_bytes() != other.read_bytes():
        raise TreesDifferError(f"{name} has other contents")
