"""The standard streams as a command finds them: some are closed, some cannot write every name."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Literal, TextIO


def prepare_streams() -> None:
    """Put nothing in the place of each closed stream, and let no character be one too many.

    A service or a timer may start a command with closed streams, for which Python has None. In a
    locale that is not UTF-8, what it has no letters for is written as `\\u2603` instead of failing
    in the midst of a list.
    """
    # In the order of their numbers, for a file takes the lowest one that is free.
    sys.stdin = sys.stdin or _open_nothing("r")
    sys.stdout = sys.stdout or _open_nothing("w")
    sys.stderr = sys.stderr or _open_nothing("w")
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _open_nothing(mode: Literal["r", "w"]) -> TextIO:
    return open(os.devnull, mode, encoding="utf-8")
