"""`restic check`: looks for errors in a repository. Text, judged by its exit code.

Without reading data, flipped bytes in a pack pass (0.14.0): `--read-data-subset` finds them.
"""

from __future__ import annotations

from backhaul.wire.kinds import CheckArguments


def build_arguments(arguments: CheckArguments) -> list[str]:
    """Build the command line. Text in every version: `--json` is ignored before 0.18."""
    if arguments.read_data_subset is None:
        return ["check"]
    return ["check", f"--read-data-subset={arguments.read_data_subset}"]
