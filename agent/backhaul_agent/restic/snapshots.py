"""`restic snapshots`: what is in the repository. One JSON array, on one line however long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backhaul.wire.snapshots import ReportedSnapshot
from backhaul_agent.restic.output import (
    clean_line,
    parse_array,
    parse_time,
    read_text,
    read_texts,
)

# As 0.14.0 says it, and as 0.18.0 and 0.19.1 do.
_UNREADABLE = ("could not load snapshot", "failed to load snapshot")


def build_arguments(
    snapshot: str | None = None, *, host: str | None = None, tag: str | None = None
) -> list[str]:
    """Build the command line, for all snapshots or for one id (or `latest`).

    With a host, only among its own: without, `latest` is the newest of anybody who writes there.
    """
    line = ["snapshots", "--json"]
    if host is not None:
        line.append(f"--host={host}")
    if tag is not None:
        line.append(f"--tag={tag}")
    return line if snapshot is None else [*line, "--", snapshot]


class SnapshotList(msgspec.Struct, frozen=True, kw_only=True):
    """What restic listed."""

    snapshots: tuple[ReportedSnapshot, ...]
    is_whole: bool
    """Every snapshot is named. restic leaves out what it cannot read, and exits with 0."""


def read_snapshots(stdout: Iterable[str], stderr: Iterable[str]) -> SnapshotList | None:
    """Read the list; None when restic printed none."""
    for line in stdout:
        found = parse_array(line)
        if found is not None:
            read = [_read_snapshot(item) for item in found]
            known = tuple(snapshot for snapshot in read if snapshot is not None)
            is_whole = len(known) == len(read) and not _has_left_out(stderr)
            return SnapshotList(snapshots=known, is_whole=is_whole)
    return None


def _has_left_out(stderr: Iterable[str]) -> bool:
    return any(words in line for line in stderr for words in _UNREADABLE)


def _read_snapshot(item: Any) -> ReportedSnapshot | None:
    if not isinstance(item, dict):
        return None
    time, id_ = parse_time(read_text(item, "time")), read_text(item, "id")
    if time is None or not id_:
        return None
    return ReportedSnapshot(
        id=id_,
        time=time,
        hostname=clean_line(read_text(item, "hostname")),
        paths=tuple(map(clean_line, read_texts(item, "paths"))),
        username=clean_line(read_text(item, "username")),
        tags=tuple(map(clean_line, read_texts(item, "tags"))),
        tree=read_text(item, "tree"),
        parent=read_text(item, "parent") or None,
        original=read_text(item, "original") or None,
        program_version=read_text(item, "program_version") or None,
    )
