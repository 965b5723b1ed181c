"""`restic stats`: how large a repository, or a snapshot, is. One JSON object.

restic 0.19.0 alone mixes the text of a progress bar in.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from backhaul_agent.restic.output import JsonObject, clean_line, parse_object, read_count


def build_size_arguments() -> list[str]:
    """Build the command line that measures what all snapshots take in the storage."""
    return ["stats", "--json", "--mode=raw-data"]


def build_restore_arguments(snapshot_id: str) -> list[str]:
    """Build the command line that measures what a restore of one snapshot would write."""
    return ["stats", "--json", "--mode=restore-size", "--", snapshot_id]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What restic measured. Sizes in bytes."""

    total_size: int
    files: int
    snapshots: int
    blobs: int
    uncompressed_size: int | None
    """None from 0.14, which does not tell."""


def read_figures(stdout: Iterable[str]) -> Figures | None:
    """Read the figures; None when restic printed none."""
    for line in stdout:
        text = clean_line(line)
        found = parse_object(text[max(text.find("{"), 0) :])
        if found is not None and "total_size" in found:
            return Figures(
                total_size=read_count(found, "total_size"),
                files=read_count(found, "total_file_count"),
                snapshots=read_count(found, "snapshots_count"),
                blobs=read_count(found, "total_blob_count"),
                uncompressed_size=_read_uncompressed(found),
            )
    return None


def _read_uncompressed(found: JsonObject) -> int | None:
    return read_count(found, "total_uncompressed_size") or None
