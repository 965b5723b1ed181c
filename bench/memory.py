"""What the memory of a parked poll consists of.

    .venv/bin/python -m bench.memory                 # or: make bench-memory
    .venv/bin/python -m bench.memory --agents 1000

`backhaul serve` runs under tracemalloc. What it holds with its agents parked, less what it held
before, is told by the file that asked for it; a second server, which is not watched, tells how much
the process takes in all, and so what C libraries and the allocator take besides. The agents have
polled before. Prints a table and writes bench/results/memory.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from backhaul_api.settings import Settings
from bench import results
from bench.contenders import Backhaul, build_backhaul
from bench.made_fleet import MadeFleet, make_fleet
from bench.parked import park, poll_once
from bench.processes import Server, become_client, build_runner, run_server
from bench.results import Result, compare

AGENTS = 2000
FILE = results.FOLDER / "memory.jsonl"
REST, BESIDES, ALL = "many others", "C libraries, and what the allocator rounds up", "all"

_LEAST_BYTES = 24
"""Per poll: what is less is told as one."""
_PATIENCE_S = 60.0


T = TypeVar("T")


async def measure(fleet: MadeFleet, folder: Path, agents: int) -> list[Result]:
    """Park agents at both servers; gives what each poll takes, the most first, in bytes."""
    url = f"sqlite+aiosqlite:///{folder / 'backhaul.sqlite3'}"
    contender = build_backhaul("backhaul", fleet, folder, url)

    async def read_size(server: Server) -> float:
        return server.read_memory_kib() * 1024

    with run_server(contender.command, contender.environment) as server:
        before, after = await _park(contender, server, agents, read_size)
    total = (after - before) / agents

    output = folder / "held.json"
    command = [sys.executable, "-m", "bench.traced_server", str(output), str(folder)]

    async def read_held(server: Server) -> Counter[str]:
        server.send_signal(signal.SIGUSR1)
        return await asyncio.to_thread(_wait_for, output)

    with run_server(lambda port: [*command, str(port)], contender.environment) as server:
        held_before, held = await _park(contender, server, agents, read_held)
    held.subtract(held_before)
    return _build(total, {name: size / agents for name, size in held.items() if size > 0})


async def _park(
    contender: Backhaul, server: Server, agents: int, read: Callable[[Server], Awaitable[T]]
) -> tuple[T, T]:
    """Park the agents at a server that knows them; gives what is read before and after."""
    await server.wait_until_it_listens()
    await poll_once(contender, server, range(agents))
    await server.settle()
    before = await read(server)
    parked = await park(contender, server, agents)
    after = await read(server)
    parked.hang_up()
    return before, after


def _wait_for(output: Path) -> Counter[str]:
    """Give what a traced server told."""
    deadline = time.monotonic() + _PATIENCE_S
    while not output.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    held: Counter[str] = Counter(json.loads(output.read_text()))
    output.unlink()
    return held


def _build(total: float, per_poll: Mapping[str, float]) -> list[Result]:
    largest = {name: size for name, size in per_poll.items() if size >= _LEAST_BYTES}
    known = sum(per_poll.values())
    rows = sorted(largest.items(), key=lambda row: -row[1])
    rows += [(REST, known - sum(largest.values())), (BESIDES, total - known), (ALL, total)]
    return [compare(f"parked.{name}", size, "B", total) for name, size in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="make bench-memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=AGENTS)
    options = parser.parse_args(arguments)
    become_client()
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as name, build_runner() as runner:
        folder = Path(name) / "data"
        folder.mkdir()
        fleet = runner.run(make_fleet(Settings(data_dir=folder), options.agents))
        found = runner.run(measure(fleet, folder, options.agents))
    results.print_table(found, ())
    results.write(found, FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
