"""What `restic ls` and `restic find` say of one file, in every version."""

from __future__ import annotations

import posixpath
from typing import Any

import msgspec

from backhaul.wire.snapshots import FileEntry
from backhaul_agent.restic.output import JsonObject, parse_time, read_count, read_text

# Go's FileMode, which restic writes, keeps these three where no system has them.
_SPECIAL_BITS = {1 << 23: 0o4000, 1 << 22: 0o2000, 1 << 20: 0o1000}


class EntryPage:
    """Collects one page of what restic prints: so many entries are skipped, and so many taken."""

    def __init__(self, *, skip: int, limit: int, max_bytes: int) -> None:
        self._to_skip = skip
        self._limit = limit
        self._bytes_left = max_bytes
        self.entries: list[FileEntry] = []
        self.is_full = False
        """There was an entry more than fits; what comes after it is not looked at."""

    def take(self, entry: FileEntry) -> bool:
        """Take an entry, or skip it; False when it is another page's."""
        if self.is_full:
            return False
        if self._to_skip:
            self._to_skip -= 1
            return True
        size = len(msgspec.json.encode(entry)) + 1
        # A page of at least one entry, however long its path: else nobody would ever get past it.
        if self.entries and (len(self.entries) == self._limit or size > self._bytes_left):
            self.is_full = True
            return False
        self.entries.append(entry)
        self._bytes_left -= size
        return True


def read_entry(node: JsonObject) -> FileEntry | None:
    """Read a node, or give None when it has no path."""
    path = read_text(node, "path")
    if not path:
        return None
    kind = read_text(node, "type")
    return FileEntry(
        path=path,
        name=read_text(node, "name") or posixpath.basename(path),
        type=kind,
        # restic leaves a size of 0 out.
        size=read_count(node, "size") if kind == "file" else None,
        mode=_read_mode(node.get("mode")),
        mtime=parse_time(read_text(node, "mtime")),
        uid=_read_id(node.get("uid")),
        gid=_read_id(node.get("gid")),
        user=read_text(node, "user"),
        group=read_text(node, "group"),
        link_target=read_text(node, "linktarget") or None,
    )


def _read_mode(value: Any) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return None
    return value & 0o777 | sum(bit for go, bit in _SPECIAL_BITS.items() if value & go)


def _read_id(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 2**32 else None
