"""What was measured, what it is held against, and which limits are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

FOLDER = Path(__file__).parent / "results"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the results."""

    name: str
    """The measure, and whose: `memory.backhaul`."""
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    """The value by the baseline."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What a result must keep."""

    name: str
    bound: float
    of: Literal["value", "ratio"] = "ratio"
    is_least: bool = False
    """Whether the bound is a floor instead of a ceiling."""

    def is_kept(self, result: Result) -> bool:
        value = result.value if self.of == "value" else result.ratio
        if value is None:
            return False
        return value >= self.bound if self.is_least else value <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.is_least else "≤"
        return f"{sign} {self.bound:g}{' ×' if self.of == 'ratio' else ''}"


def compare(name: str, value: float, unit: str, baseline: float | None = None) -> Result:
    """Build a result, rounded to what can be believed of it."""
    value = _round(value)
    if not baseline:
        return Result(name=name, value=value, unit=unit, baseline=baseline)
    baseline = _round(baseline)
    return Result(
        name=name, value=value, unit=unit, baseline=baseline, ratio=_round(value / baseline)
    )


def build_table(results: Iterable[Result], limits: Sequence[Limit]) -> list[tuple[str, ...]]:
    """Build the rows of the table, the one with the names of the columns first."""
    by_name = {limit.name: limit for limit in limits}
    rows: list[tuple[str, ...]] = [
        ("measure", "value", "unit", "baseline", "ratio", "limit", "kept")
    ]
    for one in results:
        limit = by_name.get(one.name)
        kept = "" if limit is None else ("yes" if limit.is_kept(one) else "NO")
        shown = [f"{one.value:g}", one.unit, _show(one.baseline), _show(one.ratio)]
        rows.append((one.name, *shown, "" if limit is None else str(limit), kept))
    return rows


def print_table(results: Iterable[Result], limits: Sequence[Limit]) -> None:
    rows = build_table(results, limits)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        name, *rest = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print(name, *rest, sep="  ")


def find_broken(results: Iterable[Result], limits: Sequence[Limit]) -> list[str]:
    """Say which limits are not kept. One whose measure is missing is no limit of this run."""
    by_name = {one.name: one for one in results}
    return [
        f"{limit.name}: {limit} is not kept"
        for limit in limits
        if limit.name in by_name and not limit.is_kept(by_name[limit.name])
    ]


def write(results: Iterable[Result], file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in results))


def read(file: Path) -> list[Result]:
    return [msgspec.json.decode(line, type=Result) for line in file.read_bytes().splitlines()]


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
