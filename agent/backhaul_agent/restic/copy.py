"""`restic copy`: copies snapshots to a second repository. Text, judged by its exit code.

The repository of the environment is the one that is copied to; the other one has variables of its
own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from backhaul.wire.commands import Credentials
from backhaul.wire.kinds import CopyArguments, CopyResult
from backhaul_agent.restic.environment import name_source

_SAVED = re.compile(r"snapshot [0-9a-f]+ saved\b")
_SKIPPED = re.compile(r"skipping (source )?snapshot ")
_IGNORED = re.compile(r'Ignoring "([^"]*)"')


def build_arguments(arguments: CopyArguments) -> list[str]:
    # Verbose: since 0.17 it is not told otherwise what was there already.
    line = ["copy", "--verbose"]
    if arguments.tags:
        line.append(f"--tag={','.join(arguments.tags)}")
    if arguments.of_host is not None:
        line.append(f"--host={arguments.of_host}")
    return [*line, "--", *arguments.snapshots] if arguments.snapshots else line


def build_environment(source: Credentials, to: Mapping[str, str]) -> dict[str, str]:
    """Build the environment for a copy, of that for work on the destination alone."""
    return {**source.environment, **to, **name_source(source)}


def tells(line: str) -> bool:
    """Tell whether a line says what became of a snapshot."""
    return bool(_SAVED.match(line) or _SKIPPED.match(line))


def read_result(told: Iterable[str]) -> CopyResult:
    """Count what such lines say."""
    are_copies = [_SAVED.match(line) is not None for line in told]
    return CopyResult(copied=sum(are_copies), skipped=len(are_copies) - sum(are_copies))


def find_ignored(stderr: Iterable[str]) -> list[str]:
    """Find the snapshots that there are not: restic goes on without them, and exits with 0."""
    return [found[1] for line in stderr if (found := _IGNORED.search(line))]
