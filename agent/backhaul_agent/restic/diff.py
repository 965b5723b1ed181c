"""`restic diff`: what differs between two snapshots. JSON lines: the changes, then statistics."""

from __future__ import annotations

import msgspec

from backhaul.wire.kinds import DiffArguments, DiffChange, DiffCounts, DiffResult
from backhaul_agent.restic.output import (
    JsonObject,
    clean_line,
    parse_object,
    read_count,
    read_text,
)

MAX_CHANGES = 1000
MAX_CHANGES_BYTES = 128 * 1024
"""Of the changes in a result: lists of jobs carry it."""


def build_arguments(arguments: DiffArguments) -> list[str]:
    return ["diff", "--json", "--", arguments.snapshot, arguments.other]


class DiffReader:
    """Reads the lines, as they come; keeps the first changes."""

    def __init__(self) -> None:
        self._changes: list[DiffChange] = []
        self._bytes_left = MAX_CHANGES_BYTES
        self._is_cut = False
        self._statistics: JsonObject | None = None

    def read(self, line: str) -> None:
        found = parse_object(line)
        if found is None:
            return
        kind = read_text(found, "message_type")
        if kind == "statistics":
            self._statistics = found
        elif kind == "change":
            self._keep(
                DiffChange(
                    path=clean_line(read_text(found, "path")),
                    modifier=clean_line(read_text(found, "modifier")),
                )
            )

    def build_result(self, arguments: DiffArguments) -> DiffResult | None:
        """Build the result; None when restic came to no end."""
        if self._statistics is None:
            return None
        return DiffResult(
            source_snapshot=arguments.snapshot,
            target_snapshot=arguments.other,
            changed_files=read_count(self._statistics, "changed_files"),
            added=_read_counts(self._statistics, "added"),
            removed=_read_counts(self._statistics, "removed"),
            changes=tuple(self._changes),
            is_cut=self._is_cut,
        )

    def _keep(self, change: DiffChange) -> None:
        if self._is_cut:
            return
        size = len(msgspec.json.encode(change)) + 1
        if len(self._changes) == MAX_CHANGES or size > self._bytes_left:
            self._is_cut = True
            return
        self._changes.append(change)
        self._bytes_left -= size


def _read_counts(statistics: JsonObject, name: str) -> DiffCounts:
    found = statistics.get(name)
    counts = found if isinstance(found, dict) else {}
    return DiffCounts(
        **{field: read_count(counts, field) for field in DiffCounts.__struct_fields__}
    )
