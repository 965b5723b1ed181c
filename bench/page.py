"""Write what was measured last into docs/performance.md, and draw its picture.

    .venv/bin/python -m bench.page                   # or: make bench-page

Reads bench/results/suite.jsonl and memory.jsonl, and replaces what stands between the marks on the
page: `<!-- limits -->` … `<!-- end -->`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import memory, results
from bench.__main__ import FILE, GROWN, LIMITS, POSTGRESQL, SQLITE
from bench.parked import UNITS
from bench.results import Result

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "growth.svg"

SERVERS = {
    "bare_asgi": "bare ASGI",
    "minimal_litestar": "minimal Litestar",
    "websockets": "WebSockets",
    "websockets_plain": "WebSockets, not compressed",
    "short_polls": "short polls",
    SQLITE: "Backhaul, SQLite",
    POSTGRESQL: "Backhaul, PostgreSQL",
}
MEASURES = {
    "memory": "memory of a parked agent",
    "first_poll": "CPU of an agent's first poll",
    "intake": "CPU to take in one that comes back",
    "repoll": "CPU of an empty poll that comes again",
    "dispatch_p50": "from making a job to its agent having it, p50",
    "dispatch_p99": "the same, p99",
    "jobs_16": "jobs with all their receipts, 16 clients",
    "jobs_64": "the same, 64 clients",
    "broadcast": "a job for each agent, made and received",
    "lost": "jobs lost",
    "doubled": "jobs doubled",
}
GROWTH_TITLES = {
    "memory": "memory per agent, KiB",
    "repoll": "CPU per empty poll, µs",
    "dispatch_p50": "job to agent, p50, ms",
    "broadcast": "broadcast, µs per agent",
}
_COLOURS = {"bare ASGI": "#999999", "Backhaul, SQLite": "#0072B2"}


def draw(page: str, suite: Sequence[Result], parked: Sequence[Result]) -> str:
    """Put the tables into the page."""
    tables = {
        "servers": _build_servers(suite),
        "limits": results.build_table(
            [one for one in suite if one.name in {limit.name for limit in LIMITS}], LIMITS
        ),
        "memory": _build_memory(parked),
    }
    for name, rows in tables.items():
        begin, _, rest = page.partition(f"<!-- {name} -->")
        _, _, end = rest.partition("<!-- end -->")
        page = f"{begin}<!-- {name} -->\n\n{_format(rows)}\n\n<!-- end -->{end}"
    return page


def _build_servers(suite: Sequence[Result]) -> list[tuple[str, ...]]:
    by_name = {one.name: one for one in suite}
    names = [name for name in SERVERS if any(f"{one}.{name}" in by_name for one in UNITS)]
    rows: list[tuple[str, ...]] = [("", "", *(SERVERS[name] for name in names))]
    for measure, unit in UNITS.items():
        found = [by_name.get(f"{measure}.{name}") for name in names]
        shown = ["" if one is None else f"{one.value:g}" for one in found]
        rows.append((MEASURES[measure], unit, *shown))
    return rows


def _build_memory(parked: Sequence[Result]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("asked for by", "bytes", "part")]
    for one in parked:
        name = one.name.removeprefix("parked.")
        rows.append((name, f"{one.value:.0f}", f"{(one.ratio or 0):.0%}"))
    return rows


def _format(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([head, rule, *body])


def build_picture(suite: Sequence[Result]) -> Any:
    """Build the chart of how the cost per agent grows."""
    import altair

    points = [
        {"measure": measure, "server": SERVERS[server], "agents": int(agents), "value": one.value}
        for one in suite
        if one.name.startswith("growth.") and one.name.count(".") == 3
        for measure, server, agents in [one.name.split(".")[1:]]
    ]
    panels = []
    for measure in GROWN:
        mine = [point for point in points if point["measure"] == measure]
        panels.append(
            altair.Chart(altair.InlineData(values=mine), title=GROWTH_TITLES[measure])
            .mark_line(point=True)
            .encode(
                x=altair.X("agents:Q", title="parked agents").scale(type="log"),
                y=altair.Y("value:Q", title=None).scale(zero=True),
                color=altair.Color("server:N", title=None).scale(
                    domain=list(_COLOURS), range=list(_COLOURS.values())
                ),
            )
            .properties(width=240, height=140)
        )
    return altair.concat(*panels, columns=2).configure(background="white")


def main() -> int:
    """Run it. Gives the exit code."""
    suite, parked = results.read(FILE), results.read(memory.FILE)
    PAGE.write_text(draw(PAGE.read_text(), suite, parked))
    build_picture(suite).save(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
