"""`restic cat config`: what a repository is. Prints JSON, with or without `--json`."""

from __future__ import annotations

from backhaul_agent.restic.output import parse_object, read_count

ARGUMENTS = ("cat", "config", "--json")


def read_format(lines: list[str]) -> int:
    """Read the version of the repository's format; 0 when restic told none."""
    found = parse_object("".join(lines))
    return 0 if found is None else read_count(found, "version")
