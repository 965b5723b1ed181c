"""How soon a job that one instance makes reaches a poll that another instance holds.

    .venv/bin/python -m bench.instances              # or: make bench-instances

Real instances serve one PostgreSQL that writes to disk. A fleet is parked on each of them, and jobs
are made on all: for a host that is parked where its job is made, and for one that is parked
elsewhere, in turns, so that both kinds meet the same machine. Writes bench/results/instances.jsonl;
`ratio` is across by within; the exit code is 1 when that of the medians is above its limit. `make
cluster` measures its own instances in the same way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

from backhaul_api.db.engine import Database
from backhaul_api.settings import Settings
from bench.contenders import LONG_S
from bench.made_fleet import MadeFleet, add_fleet, make_fleet
from bench.poll_client import PollConnection, build_request, connect
from bench.results import Result, write
from tests.fakes.postgresql import run_postgresql

INSTANCES = 3
SAMPLES = 1000
PARKED_EACH = 20
"""All of a round are to be told before the instances' hold is over."""
RATIO_LIMIT = 3.0
"""Of the medians."""
RESULTS = Path(__file__).parent / "results" / "instances.jsonl"

_ONCE_S = 0.1
_SETTLING_S = 1.0
_ANSWER_LIMIT_S = 20.0


@dataclass
class Latencies:
    """From the request that makes a job to its host having it, in milliseconds."""

    within: list[float] = field(default_factory=list)
    """The instance that makes the job holds the poll."""
    across: list[float] = field(default_factory=list)

    def find_ratio(self, percent: int) -> float:
        """Give how many times as long it takes across instances, at a percentile."""
        return round(_percentile(self.across, percent) / _percentile(self.within, percent), 3)

    def build_results(self) -> list[Result]:
        return [
            Result(
                name=f"instances.dispatch_p{percent}_ms",
                value=round(_percentile(self.across, percent), 3),
                unit="ms",
                baseline=round(_percentile(self.within, percent), 3),
                ratio=self.find_ratio(percent),
            )
            for percent in (50, 99)
        ]

    def __str__(self) -> str:
        p50, p99 = self.build_results()
        return (
            f"across instances p50 {p50.value} ms, p99 {p99.value} ms; within one p50 "
            f"{p50.baseline} ms, p99 {p99.baseline} ms; ratio of p50 {p50.ratio} "
            f"({len(self.across)} and {len(self.within)} jobs)"
        )


async def measure(
    url: str, ports: Sequence[int], *, samples: int, repository: str = "demo"
) -> Latencies:
    """Measure instances that serve on these ports of this machine. `samples` of each kind are
    taken, with hosts that are added to the database."""
    database = Database(url)
    try:
        fleet = await add_fleet(database, 2 * samples, name="measurer")
    finally:
        await database.close()
    seen = Latencies()
    at_once = PARKED_EACH * len(ports)
    for begin in range(0, 2 * samples, at_once):
        numbers = list(range(begin, min(begin + at_once, 2 * samples)))
        await _sample(fleet, numbers, ports, seen, repository=repository)
    return seen


async def _sample(
    fleet: MadeFleet,
    numbers: Sequence[int],
    ports: Sequence[int],
    seen: Latencies,
    *,
    repository: str,
) -> None:
    """Park hosts on the instances in turn, and make a job for each of them."""
    parked = {}
    for at, port in enumerate(ports):
        mine = [number for number in numbers if number % len(ports) == at]
        # Each has polled before, as it has in an instance that has run for a minute.
        connections = await connect(port, [_build_poll(fleet, n, _ONCE_S) for n in mine])
        await asyncio.gather(*(one.poll() for one in connections))
        for number, connection in zip(mine, connections, strict=True):
            parked[number] = (at, connection, connection.poll(_build_poll(fleet, number, LONG_S)))
    await asyncio.sleep(_SETTLING_S)
    # Only now: an instance hangs up on who says nothing for five seconds.
    operators = [(await connect(port, [b""]))[0] for port in ports]
    for number in random.sample(numbers, len(numbers)):
        at, _, poll = parked[number]
        is_across = len(seen.across) < len(seen.within)
        operator = operators[
            (at + random.randrange(1, len(ports))) % len(ports) if is_across else at
        ]
        begun = perf_counter()
        made = operator.poll(_build_job(fleet, number, repository))
        answer, _ = await asyncio.wait_for(made, _ANSWER_LIMIT_S)
        assert b'"queued"' in answer, answer
        body, got_at = await asyncio.wait_for(poll, _ANSWER_LIMIT_S)
        assert b"command.run" in body, body
        (seen.across if is_across else seen.within).append((got_at - begun) * 1000)
        await asyncio.sleep(0.005)
    _hang_up([*operators, *(connection for _, connection, _ in parked.values())])


def _build_poll(fleet: MadeFleet, number: int, hold_s: float) -> bytes:
    body = fleet.build_poll(number, hold_s)
    return build_request("POST", "/v1/agent/poll", body, token=fleet.tokens[number])


def _build_job(fleet: MadeFleet, number: int, repository: str) -> bytes:
    job = {"kind": "backup", "host": fleet.names[number], "repository": repository}
    body = json.dumps({**job, "paths": ["/etc"]}).encode()
    return build_request("POST", "/v1/jobs", body, token=fleet.operator_token)


def _hang_up(connections: Sequence[PollConnection]) -> None:
    for one in connections:
        if one.transport is not None:
            one.transport.abort()


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def _start_instance(folder: Path, url: str, log: BinaryIO) -> subprocess.Popen[bytes]:
    serve = [sys.executable, "-m", "backhaul", "serve", "--data-dir", str(folder), "--port=0"]
    return subprocess.Popen([*serve, "--database-url", url], stdout=subprocess.PIPE, stderr=log)


def _read_port(instance: subprocess.Popen[bytes]) -> int:
    assert instance.stdout is not None
    for line in instance.stdout:
        if line.startswith(b"Backhaul API on "):
            return int(line.rpartition(b":")[2])
    raise RuntimeError(f"an instance ended with {instance.wait()}")


def run(*, instances: int, samples: int) -> Latencies:
    """Start instances on a PostgreSQL of their own, and measure them."""
    with (
        tempfile.TemporaryDirectory(prefix="bh-pg-", ignore_cleanup_errors=True) as place,
        tempfile.TemporaryDirectory(prefix="bh-bench-") as name,
        run_postgresql(Path(place), is_durable=True) as server,
        (Path(name) / "log").open("wb") as log,
    ):
        url = server.create_database("bench")
        asyncio.run(make_fleet(Settings(data_dir=Path(name), database_url=url), 0))
        started = [_start_instance(Path(name), url, log) for _ in range(instances)]
        try:
            ports = [_read_port(one) for one in started]
            return asyncio.run(measure(url, ports, samples=samples, repository="nas"))
        finally:
            for one in started:
                one.send_signal(signal.SIGTERM)
            for one in started:
                one.communicate(timeout=30)


def main() -> int:
    """Run it. Gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="make bench-instances", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each kind")
    options = parser.parse_args()
    latencies = run(instances=options.instances, samples=options.samples)
    print(latencies)
    write(latencies.build_results(), RESULTS)
    return 0 if latencies.find_ratio(50) <= RATIO_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
