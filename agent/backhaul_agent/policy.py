"""What this host lets the server do. Decides; touches nothing but the file system's names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from backhaul.wire.kinds import (
    Arguments,
    BackupArguments,
    JobKind,
    RestoreArguments,
    kind_of,
)
from backhaul_agent.in_place import InPlaceRules
from backhaul_agent.settings import DumpSettings, PolicySettings

SYSTEM_FOLDERS = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/spool/cron",
)
"""A file that appears here can become a program that runs. Restores go there only where the policy
names such a folder, or one below it, among its `restore_paths`."""


class Policy:
    """The `[policy]` of the agent's settings file, and the dumps that it defines."""

    def __init__(
        self,
        settings: PolicySettings,
        *,
        own_folders: Iterable[Path] = (),
        dumps: Mapping[str, DumpSettings] | None = None,
    ) -> None:
        self._settings = settings
        self._dumps = dumps or {}
        # What the agent itself lives by is never a restore's target, whatever the file says.
        self._own_folders = tuple(str(folder) for folder in own_folders)
        self._named_paths = [path for path in settings.restore_paths if path != "/"]

    @property
    def kinds(self) -> tuple[JobKind, ...]:
        return self._settings.kinds

    @property
    def environment(self) -> tuple[str, ...]:
        return self._settings.environment

    def refusal(self, arguments: Arguments) -> str | None:
        """Say why a job is not allowed here, or None when it is."""
        kind = kind_of(arguments)
        if kind not in self._settings.kinds:
            return f"the policy of this host does not allow {kind} jobs"
        if "\\u0000" in msgspec.json.encode(arguments).decode():
            return "an argument holds a NUL, which no command line can"
        match arguments:
            case BackupArguments():
                return self._backup_refusal(arguments)
            case RestoreArguments(in_place=True):
                return self._in_place_refusal(arguments)
            case RestoreArguments():
                return self.target_refusal(arguments.target)
            case _:
                return None

    def query_refusal(self) -> str | None:
        """Say why nobody may look into snapshots through this host, or None when they may."""
        settings = self._settings
        is_allowed = settings.browse
        if is_allowed is None:
            # Whoever may not even list the snapshots is not shown the files in them.
            is_allowed = JobKind.SNAPSHOTS in settings.kinds
        return None if is_allowed else "the policy of this host does not allow to browse snapshots"

    def _backup_refusal(self, arguments: BackupArguments) -> str | None:
        if arguments.dump is not None:
            return self._dump_refusal(arguments, arguments.dump)
        if not arguments.paths:
            return "the job names no path to back up"
        # restic shows lines of an exclude file that are no patterns: whoever may not read a file
        # by a backup shall not read it that way.
        for path in (*arguments.paths, *arguments.exclude_files):
            if not _is_absolute(path):
                return f"{path!r} is not an absolute path"
            if not _is_below(path, self._settings.backup_paths):
                return f"the policy of this host does not allow backups of {path}"
        return None

    def _dump_refusal(self, arguments: BackupArguments, name: str) -> str | None:
        if arguments.paths or arguments.exclude_files:
            return "the job names both a dump and files"
        if name not in self._dumps:
            known = ", ".join(sorted(self._dumps)) or "none"
            return f"this host has no dump called {name!r}; its settings file defines {known}"
        return None

    @property
    def in_place(self) -> InPlaceRules:
        """Build the rules of restores in place, by where links lead now."""
        return InPlaceRules(self._named_paths, own=self._own_folders, system=SYSTEM_FOLDERS)

    def _in_place_refusal(self, arguments: RestoreArguments) -> str | None:
        if not self._settings.restore_in_place:
            return "the policy of this host does not allow restores in place"
        if not arguments.include:
            return "a restore in place names the paths that are put back"
        rules = self.in_place
        refusals = map(rules.include_refusal, arguments.include)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def target_refusal(self, target: str) -> str | None:
        """Say why nothing may be restored into a folder. Asked again right before restic starts."""
        if not _is_absolute(target):
            return f"the restore target {target!r} is not an absolute path"
        if not _is_below(target, self._settings.restore_paths):
            return f"the policy of this host does not allow restores to {target}"
        if self._is_protected(target):
            return f"restores to {target} could change how this host works; name another folder"
        folder = Path(target)
        try:
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                return f"the restore target {target} exists and is not a folder"
            if folder.exists() and any(folder.iterdir()):
                return f"the restore target {target} is not empty; name a new or empty folder"
        except OSError as error:
            return f"the restore target {target} cannot be looked at: {error.strerror}"
        return None

    def prepare_target(self, target: str) -> str | None:
        """Make the folder of a restore, right before restic starts; or say why not.

        It is the agent's own from then on: what was put in its place before is seen here.
        """
        refusal = self.target_refusal(target)
        if refusal is not None:
            return refusal
        try:
            os.makedirs(target, mode=0o700, exist_ok=True)
        except OSError as error:
            return f"the restore target {target} cannot be made: {error.strerror}"
        return self.target_refusal(target)

    def _is_protected(self, target: str) -> bool:
        if _touches(target, self._own_folders) or ".ssh" in PurePosixPath(target).parts:
            return True
        return _touches(target, SYSTEM_FOLDERS) and not _is_below(target, self._named_paths)


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and "\x00" not in path


def _is_below(path: str, allowed: Iterable[str]) -> bool:
    """Tell whether a path, and what it leads to through symbolic links, is below a prefix."""
    prefixes = [PurePosixPath(name) for prefix in allowed for name in _names(prefix)]
    return all(
        any(PurePosixPath(name).is_relative_to(prefix) for prefix in prefixes)
        for name in _names(path)
    )


def _touches(path: str, folders: Iterable[str]) -> bool:
    """Tell whether a path, as it is written or where it leads, is one of the folders or below."""
    known = [PurePosixPath(name) for folder in folders for name in _names(folder)]
    return any(PurePosixPath(name).is_relative_to(one) for name in _names(path) for one in known)


def _names(path: str) -> tuple[str, str]:
    return os.path.normpath(path), os.path.realpath(path)
