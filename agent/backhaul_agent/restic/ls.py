"""`restic ls`: a folder of a snapshot. One JSON object on each line: the snapshot, then its nodes.

restic 0.14 exits with 0 when there is no such snapshot, and every version does when there is no
such path: only what is printed tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backhaul.wire.snapshots import FileEntry, ListFiles
from backhaul_agent.restic.files import read_entry
from backhaul_agent.restic.output import JsonObject, parse_object, read_text


def build_arguments(arguments: ListFiles) -> list[str]:
    # Without a lock: looking must neither wait for a prune nor leave anything behind.
    line = ["ls", "--json", "--no-lock"]
    if arguments.is_recursive:
        line.append("--recursive")
    return [*line, "--", arguments.snapshot, arguments.path]


def build_paths_arguments(
    snapshot_id: str, paths: Iterable[str] = (), *, is_recursive: bool = False
) -> list[str]:
    """Build the command line of a job: for paths and what is right below, or all below; without
    paths, for the whole snapshot."""
    line = ["ls", "--json"]
    if is_recursive:
        line.append("--recursive")
    return [*line, "--", snapshot_id, *paths]


class NodeLines:
    """Tells the lines of files and folders from that of the snapshot, which comes first."""

    def __init__(self) -> None:
        self.has_snapshot = False

    def read_node(self, line: str) -> JsonObject | None:
        found = parse_object(line)
        kind = "" if found is None else _read_kind(found)
        if kind == "snapshot":
            self.has_snapshot = True
        return found if kind == "node" else None


def _read_kind(line: JsonObject) -> str:
    """Tell what a line is about: struct_type up to 0.16, message_type beside it since 0.17."""
    return read_text(line, "message_type") or read_text(line, "struct_type")


class NodeReader(NodeLines):
    """Reads the lines, as they come, and hands each file and folder on."""

    def __init__(self, take: Callable[[FileEntry], None]) -> None:
        super().__init__()
        self._take = take

    def read(self, line: str) -> None:
        node = self.read_node(line)
        entry = None if node is None else read_entry(node)
        if entry is not None:
            self._take(entry)


class LsReader(NodeLines):
    """Reads the lines, as they come, and hands the entries on."""

    def __init__(self, path: str, take: Callable[[FileEntry], object]) -> None:
        super().__init__()
        self._path = path
        self._take = take
        self.has_path = path == "/"
        """The path was seen; an empty root shows nothing."""

    def read(self, line: str) -> None:
        node = self.read_node(line)
        entry = None if node is None else read_entry(node)
        if entry is None:
            return
        is_folder_itself = entry.path == self._path and entry.type == "dir"
        self.has_path = self.has_path or entry.path == self._path or self._is_below(entry.path)
        if not is_folder_itself:
            self._take(entry)

    def _is_below(self, path: str) -> bool:
        return path.startswith(f"{self._path}/")
