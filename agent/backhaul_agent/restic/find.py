"""`restic find`: a pattern in one snapshot. One JSON array on one line, with an object for each
snapshot in which something matched."""

from __future__ import annotations

from backhaul.wire.snapshots import FindFiles
from backhaul_agent.restic.files import EntryPage, read_entry
from backhaul_agent.restic.output import parse_array


def build_arguments(arguments: FindFiles) -> list[str]:
    line = ["find", "--json", "--no-lock", f"--snapshot={arguments.snapshot}"]
    return [*line, "--", arguments.pattern]


class FindReader:
    """Reads the list onto a page."""

    def __init__(self, page: EntryPage) -> None:
        self._page = page
        self.has_list = False

    def read(self, line: str) -> None:
        found = parse_array(line)
        if found is None:
            return
        self.has_list = True
        for snapshot in found:
            matches = snapshot.get("matches") if isinstance(snapshot, dict) else None
            for match in matches if isinstance(matches, list) else ():
                entry = read_entry(match) if isinstance(match, dict) else None
                if entry is not None:
                    self._page.take(entry)
