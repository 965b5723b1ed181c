"""`restic prune`: deletes the data that no snapshot refers to. Text, judged by its exit code."""

from __future__ import annotations


def build_arguments() -> list[str]:
    """Build the command line. Without `--json`, with which 0.19 says nothing at all."""
    return ["prune"]
