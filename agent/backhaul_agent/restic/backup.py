"""`restic backup`: one snapshot of some paths, or of what comes from stdin.

stdout has `status` lines and at last one `summary`; stderr has an `error` line per item that could
not be read, between lines of plain text.
"""

from __future__ import annotations

import os

from backhaul.wire.kinds import BackupArguments, BackupResult
from backhaul_agent.restic.capabilities import Feature
from backhaul_agent.restic.output import (
    JsonObject,
    parse_object,
    read_count,
    read_duration,
    read_text,
)

_MAX_ERRNO = 4095
_SKIPPED = " does not exist, skipping"


def list_features(arguments: BackupArguments) -> list[Feature]:
    """List what the backup needs that restic did not always have."""
    needed = {
        Feature.EXCLUDE_LARGER_THAN: arguments.exclude_larger_than is not None,
        Feature.DRY_RUN_OF_BACKUP: arguments.dry_run,
        Feature.COMPRESSION: arguments.compression is not None,
    }
    return [feature for feature, is_needed in needed.items() if is_needed]


def build_arguments(
    arguments: BackupArguments, *, host: str, stdin_name: str | None = None
) -> list[str]:
    """Build the command line; `stdin_name` is the file that stdin becomes.

    The order of paths is kept: restic groups snapshots by it. Values are joined to their options,
    and `--` ends the options, so that no value is read as one. Caches of repositories that nobody
    used for 30 days go: restic removes none unless it is told.
    """
    line = ["backup", "--json", "--cleanup-cache", f"--host={host}"]
    line += [f"--tag={tag}" for tag in arguments.tags]
    line += [f"--exclude={pattern}" for pattern in arguments.excludes]
    line += [f"--exclude-file={file}" for file in arguments.exclude_files]
    line += [f"--{name}={value}" for name, value in _values(arguments) if value is not None]
    line += [f"--{name}" for name, is_set in _switches(arguments) if is_set]
    if stdin_name is not None:
        return [*line, "--stdin", f"--stdin-filename={stdin_name}"]
    return [*line, "--", *arguments.paths]


def _values(arguments: BackupArguments) -> list[tuple[str, str | int | None]]:
    return [
        ("exclude-larger-than", arguments.exclude_larger_than),
        ("limit-upload", arguments.limit_upload),
        ("limit-download", arguments.limit_download),
        ("compression", arguments.compression),
    ]


def _switches(arguments: BackupArguments) -> list[tuple[str, bool]]:
    return [
        ("one-file-system", arguments.one_file_system),
        ("exclude-caches", arguments.exclude_caches),
        ("dry-run", arguments.dry_run),
    ]


def read_summary(line: JsonObject, *, unreadable: int = 0) -> BackupResult | None:
    """Read the `summary` line; None for any other."""
    if line.get("message_type") != "summary":
        return None
    # After a dry run the id names nothing.
    is_dry_run = line.get("dry_run") is True
    return BackupResult(
        snapshot_id=None if is_dry_run else read_text(line, "snapshot_id") or None,
        files_new=read_count(line, "files_new"),
        files_changed=read_count(line, "files_changed"),
        files_unmodified=read_count(line, "files_unmodified"),
        dirs_new=read_count(line, "dirs_new"),
        dirs_changed=read_count(line, "dirs_changed"),
        dirs_unmodified=read_count(line, "dirs_unmodified"),
        data_blobs=read_count(line, "data_blobs"),
        tree_blobs=read_count(line, "tree_blobs"),
        data_added=read_count(line, "data_added"),
        total_files_processed=read_count(line, "total_files_processed"),
        total_bytes_processed=read_count(line, "total_bytes_processed"),
        total_duration=read_duration(line, "total_duration"),
        unreadable=unreadable,
        dry_run=is_dry_run,
    )


class UnreadableItems:
    """Collects what restic could not read, each item once: scan and archival both report it."""

    def __init__(self) -> None:
        self._items: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._items)

    def read(self, line: str) -> str | None:
        """Give the log line for a line of stderr; None when it says nothing new.

        A source path that is missing counts as an item: restic before 0.19 skips it and exits
        with 0, which would pass for a complete backup.
        """
        found = parse_object(line)
        if found is None:
            if line.endswith(_SKIPPED):
                self._items.add(line.removesuffix(_SKIPPED))
            return line
        if found.get("message_type") != "error":
            return read_text(found, "message") or line
        item = read_text(found, "item")
        if item in self._items:
            return None
        self._items.add(item)
        return f"could not read {item or 'an item'}: {_reason(found.get('error'))}"


def _reason(error: object) -> str:
    """Read the error, which is a raw Go value before 0.17.1: often without any text."""
    if not isinstance(error, dict):
        return str(error) if error else "restic gave no reason"
    message = error.get("message")
    if isinstance(message, str) and message:
        return message
    number = error.get("Err")
    if isinstance(number, int) and 0 < number <= _MAX_ERRNO:
        return os.strerror(number)
    operation = error.get("Op")
    return f"{operation} failed" if operation else "restic gave no reason"
