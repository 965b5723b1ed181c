"""Which files a restore in place may touch. Decides; touches nothing but the file system's names.

restic restores in place by writing below `/`: it follows a symbolic link that it finds where the
snapshot has a folder or a file, and gives every folder above what it restores the mode and the
owner that it had (0.14.0). So each file is looked at by its name and by where that leads today, and
so is each folder above that is not given free.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from backhaul.wire.snapshots import FileEntry

PATTERN_SIGNS = frozenset("*?[\\")
_UNNAMEABLE = "\N{REPLACEMENT CHARACTER}"


class InPlaceRules:
    """What is given free to restores in place: folders that are named, without what is protected.

    A system folder, or one in it, is given free only by its own name or that of one in it.
    """

    def __init__(self, free: Iterable[str], *, own: Iterable[str], system: Iterable[str]) -> None:
        self._free = tuple(_all_names(free))
        self._own = tuple(_all_names(own))
        self._system = tuple(_all_names(system))
        # A folder's files come one after the other.
        self._last_folder = ("", "")

    def include_refusal(self, path: str) -> str | None:
        """Say why a path may not be put back with all that is below, or None when it may.

        What is below has to be looked at one by one.
        """
        if not path.startswith("/") or PATTERN_SIGNS & set(path):
            return f"{path!r} is not an absolute path, or is a pattern"
        if posixpath.normpath(path) != path or path in {"/", "//"}:
            return f"{path!r} is not a path that can be put back"
        return self._refusal(path, os.path.realpath(path))

    def entry_refusal(self, entry: FileEntry) -> str | None:
        """Say why one file or folder of a snapshot may not be put back, or None when it may."""
        path = entry.path
        if _UNNAMEABLE in path or posixpath.normpath(path) != path:
            return f"the name of {path!r} is not known in full; restore it into a new folder"
        return self._refusal(path, self._find_real(path, is_link=entry.type == "symlink"))

    def above_refusal(self, entry: FileEntry) -> str | None:
        """Say why a folder above may not be touched: outside of what is free, its mode and its
        owner must be what the snapshot has."""
        if self.is_free(entry.path):
            return None
        try:
            here = os.stat(entry.path)
        except OSError:
            return f"{entry.path} does not exist here; make it first"
        known = (stat.S_IMODE(here.st_mode), here.st_uid, here.st_gid)
        if known == (entry.mode, entry.uid, entry.gid):
            return None
        return f"{entry.path} has another mode or owner in the snapshot, which restic would set"

    def is_free(self, path: str) -> bool:
        return all(_is_below(name, self._free) for name in (PurePosixPath(path), _resolve(path)))

    def _refusal(self, path: str, real: str) -> str | None:
        for name in (PurePosixPath(path), PurePosixPath(real)):
            if not _is_below(name, self._free):
                return (
                    f"the policy of this host does not allow to restore {path} in place: only what"
                    " is below a folder that its restore_paths name (/ is no such name)"
                )
            if _is_below(name, self._own) or ".ssh" in name.parts or self._is_system(name):
                return (
                    f"restoring {path} in place could change how this host works; name the paths"
                    " beside it"
                )
        return None

    def _is_system(self, name: PurePosixPath) -> bool:
        for system in self._system:
            if name.is_relative_to(system):
                named = [free for free in self._free if free.is_relative_to(system)]
                return not _is_below(name, named)
        return False

    def _find_real(self, path: str, *, is_link: bool) -> str:
        folder, name = posixpath.split(path)
        if folder != self._last_folder[0]:
            self._last_folder = (folder, os.path.realpath(folder))
        real = posixpath.join(self._last_folder[1], name)
        # A link is put in the place of another one; anything else is written through it.
        return os.path.realpath(real) if not is_link and os.path.islink(real) else real


class Survey:
    """Reads what a snapshot holds of the included paths: how much, and what is not allowed."""

    def __init__(self, rules: InPlaceRules) -> None:
        self._rules = rules
        self.refusal: str | None = None
        """The first."""
        self.files = 0
        """Everything but folders."""
        self.bytes = 0
        self.is_empty = True

    def take(self, entry: FileEntry) -> None:
        self.is_empty = False
        self.refusal = self.refusal or self._rules.entry_refusal(entry)
        if entry.type != "dir":
            self.files += 1
            self.bytes += entry.size or 0


def list_above(paths: Iterable[str], rules: InPlaceRules) -> Sequence[str]:
    """List the folders above paths that are not free: there, restic must not change anything."""
    above = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    return sorted(folder for folder in above if folder != "/" and not rules.is_free(folder))


def _all_names(paths: Iterable[str]) -> Iterator[PurePosixPath]:
    for path in paths:
        yield PurePosixPath(os.path.normpath(path))
        yield _resolve(path)


def _resolve(path: str) -> PurePosixPath:
    return PurePosixPath(os.path.realpath(path))


def _is_below(name: PurePosixPath, folders: Iterable[PurePosixPath]) -> bool:
    return any(name.is_relative_to(folder) for folder in folders)
