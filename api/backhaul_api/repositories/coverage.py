"""How much of a repository its checks have read, and what they read next. Touches no SQL.

A part of the data is written as restic's `--read-data-subset` has it. `n/t` are the packs of which
the first byte of the id leaves `n - 1` when divided by `t` (restic, cmd/restic/cmd_check.go,
selectPacksByBucket; t is at most 256, tried with 0.14.0, 0.18.0 and 0.19.1). A percentage is a
random choice of packs, another one each time. Ids are hashes, so each first byte stands for as
much of the data as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

WINDOW = timedelta(days=30)
MAX_PARTS = 256
_FIRST_BYTES = 256


def measure(reads: Mapping[str, int]) -> float:
    """Measure what share of the data was read, 0 to 1, by parts and how often each was.

    A random part counts as what it can be expected to have read of the rest.
    """
    covered: set[int] = set()
    left = 1.0
    for part, count in reads.items():
        if part.endswith("%"):
            left *= (1 - float(part[:-1]) / 100) ** count
        else:
            number, parts = read_part(part)
            covered.update(range(number - 1, _FIRST_BYTES, parts))
    return 1 - (1 - len(covered) / _FIRST_BYTES) * left


def choose_part(last: str | None, parts: int) -> str:
    """Choose which of so many parts is read next, after the one that was read last."""
    number = 0 if last is None else read_part(last)[0]
    return f"{number % parts + 1}/{parts}"


def read_part(part: str) -> tuple[int, int]:
    """Read `n/t`."""
    number, _, parts = part.partition("/")
    return int(number), int(parts)
