"""What a parked poll costs, and how soon one is woken, beside servers that do less.

    .venv/bin/python -m bench.parked                 # or: make bench-poll
    .venv/bin/python -m bench.parked --agents 1000 --rounds 1

Each server runs alone on one core and its clients on another, one server after the other, in
rounds; the median counts. Backhaul's agents have real tokens, and its jobs are on disk before they
are answered; the baselines store nothing. Prints a table and writes bench/results/parked.jsonl;
`ratio` is by the bare ASGI app.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from bench.made_fleet import MadeFleet, make_fleet
from bench.poll_client import PollConnection, build_request, connect

AGENTS = 10_000
ROUNDS = 3
SERVER_CORE, CLIENT_CORE = 0, 1
DISPATCHES = 200
REPOLLING = 2000
"""Agents whose empty polls come again and again."""
REPOLL_HOLD_S = 4.0
LONG_S = 600.0
RESULTS = Path(__file__).parent / "results" / "parked.jsonl"

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Figures:
    """What one round saw of one server; the names are those of the results."""

    memory_kib: float = 0.0
    """Per parked poll."""
    intake_us: float = 0.0
    """CPU to take in an agent that connects and parks."""
    repoll_us: float = 0.0
    """CPU of an empty poll that ends and comes again."""
    dispatch_p50_ms: float = 0.0
    """From the request that makes a job to the agent having it."""
    dispatch_p99_ms: float = 0.0
    broadcast_ms: float = 0.0
    """Until every agent has a job of its own, the making of the jobs included."""


@dataclass(kw_only=True)
class Contender:
    """A server, and how its agents and its operator speak."""

    name: str
    command: Callable[[int], list[str]]
    fleet: MadeFleet
    make_job: Callable[[int], bytes]
    environment: Mapping[str, str] = field(default_factory=dict)

    def poll(self, number: int, hold_s: float) -> bytes:
        body = self.fleet.build_poll(number, hold_s)
        return build_request("POST", "/v1/agent/poll", body, token=self.fleet.tokens[number])


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the results."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None


class Server:
    """The process that is measured."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def read_memory_kib(self) -> float:
        statm = Path(f"/proc/{self._process.pid}/statm").read_text()
        return int(statm.split()[1]) * _PAGE_KIB

    def read_cpu_s(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS

    async def settle(self) -> None:
        """Wait until it has nothing to do."""
        last = self.read_cpu_s()
        while True:
            await asyncio.sleep(0.5)
            now = self.read_cpu_s()
            if now - last < 0.02:
                return
            last = now


async def measure(contender: Contender, *, agents: int) -> Figures:
    """Measure one server, once."""
    figures = Figures()
    with _running(contender) as (port, server):
        await _wait_for(port)
        # Each has polled before, as it has in a server that has run for a minute.
        await _poll_once(contender, port, agents + min(agents, REPOLLING))
        await server.settle()
        memory, cpu = server.read_memory_kib(), server.read_cpu_s()
        connections = await connect(port, [contender.poll(n, LONG_S) for n in range(agents)])
        polls = [one.poll() for one in connections]
        await server.settle()
        figures.intake_us = (server.read_cpu_s() - cpu) / agents * 1e6
        figures.memory_kib = (server.read_memory_kib() - memory) / agents
        await _dispatch(contender, port, polls, figures)
        await _broadcast(contender, port, polls, figures)
        _hang_up(connections)
        await server.settle()
        figures.repoll_us = await _repoll(contender, port, server, agents)
    return figures


async def _poll_once(contender: Contender, port: int, count: int) -> None:
    for begin in range(0, count, 500):
        some = range(begin, min(begin + 500, count))
        connections = await connect(port, [contender.poll(n, 0.1) for n in some])
        await asyncio.wait([one.poll() for one in connections])
        _hang_up(connections)


async def _dispatch(
    contender: Contender,
    port: int,
    polls: Sequence[asyncio.Future[tuple[bytes, float]]],
    figures: Figures,
) -> None:
    (operator,) = await connect(port, [b""])
    seen = []
    for number in random.sample(range(len(polls)), min(DISPATCHES, len(polls) // 4)):
        begun = time.perf_counter()
        made = operator.poll(contender.make_job(number))
        body, at = await asyncio.wait_for(polls[number], 10)
        assert b"command.run" in body, body
        await made
        seen.append((at - begun) * 1000)
        await asyncio.sleep(0.005)
    figures.dispatch_p50_ms = statistics.median(seen)
    figures.dispatch_p99_ms = statistics.quantiles(seen, n=100)[98]
    _hang_up([operator])


async def _broadcast(
    contender: Contender,
    port: int,
    polls: Sequence[asyncio.Future[tuple[bytes, float]]],
    figures: Figures,
) -> None:
    waiting = [number for number, poll in enumerate(polls) if not poll.done()]
    operators = await connect(port, [b""] * 16)
    numbers = iter(waiting)

    async def make(operator: PollConnection) -> None:
        for number in numbers:
            await operator.poll(contender.make_job(number))

    begun = time.perf_counter()
    await asyncio.gather(*map(make, operators))
    await asyncio.wait([polls[number] for number in waiting], timeout=300)
    bodies = [polls[number].result() for number in waiting]
    assert all(b"command.run" in body for body, _ in bodies)
    figures.broadcast_ms = (max(at for _, at in bodies) - begun) * 1000
    _hang_up(operators)


async def _repoll(contender: Contender, port: int, server: Server, agents: int) -> float:
    """Let a fleet poll again and again, with a hold that is short enough to see many."""
    numbers = range(agents, agents + min(agents, REPOLLING))
    connections = await connect(port, [contender.poll(n, REPOLL_HOLD_S) for n in numbers])
    ends = time.perf_counter() + 4 * REPOLL_HOLD_S
    polled = 0

    async def again(connection: PollConnection) -> None:
        nonlocal polled
        await asyncio.sleep(random.random() * REPOLL_HOLD_S)
        while time.perf_counter() < ends:
            await connection.poll()
            polled += 1

    running = asyncio.gather(*map(again, connections))
    await asyncio.sleep(REPOLL_HOLD_S * 1.2)
    cpu, before = server.read_cpu_s(), polled
    await asyncio.sleep(REPOLL_HOLD_S * 2.5)
    spent, seen = server.read_cpu_s() - cpu, polled - before
    await running
    _hang_up(connections)
    return spent / seen * 1e6


def _hang_up(connections: Sequence[PollConnection]) -> None:
    for one in connections:
        if one.transport is not None:
            one.transport.abort()


@contextmanager
def _running(contender: Contender) -> Iterator[tuple[int, Server]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    process = subprocess.Popen(
        contender.command(port),
        env=os.environ | dict(contender.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )
    try:
        yield port, Server(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def _wait_for(port: int) -> None:
    deadline = time.perf_counter() + 60
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert time.perf_counter() < deadline
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def build_contenders(folder: Path, fleet: MadeFleet) -> list[Contender]:
    """Build the servers; Backhaul's has its data in the folder."""

    def build_baseline(name: str) -> Contender:
        def make_job(number: int) -> bytes:
            body = json.dumps({"host": fleet.tokens[number]}).encode()
            return build_request("POST", "/v1/jobs", body, token="-")

        command = [sys.executable, "-m", f"bench.baselines.{name}"]
        return Contender(
            name=name,
            command=lambda port: [*command, str(port)],
            fleet=fleet,
            make_job=make_job,
        )

    def make_real_job(number: int) -> bytes:
        job = {"kind": "backup", "host": fleet.names[number], "repository": "nas"}
        body = json.dumps({**job, "paths": ["/etc"]}).encode()
        return build_request("POST", "/v1/jobs", body, token=fleet.operator_token)

    serve = [sys.executable, "-m", "backhaul", "serve", "--data-dir", str(folder)]
    return [
        build_baseline("bare_asgi"),
        build_baseline("minimal_litestar"),
        Contender(
            name="backhaul",
            command=lambda port: [*serve, "--port", str(port)],
            fleet=fleet,
            make_job=make_real_job,
            # As the baselines are told by their polls: none must end while it is measured.
            environment={"BACKHAUL_API_POLL_HOLD": str(LONG_S)},
        ),
    ]


def run(agents: int, rounds: int) -> dict[str, list[Figures]]:
    """Measure all of them, in rounds."""
    seen: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as name:
        made = Path(name) / "made"
        made.mkdir()
        fleet = asyncio.run(make_fleet(made, agents + min(agents, REPOLLING)))
        for number in range(rounds):
            folder = Path(name) / f"round-{number}"
            shutil.copytree(made, folder)
            for contender in build_contenders(folder, fleet):
                figures = asyncio.run(measure(contender, agents=agents))
                seen.setdefault(contender.name, []).append(figures)
                print(f"round {number + 1}: {contender.name}: {_describe(figures)}", flush=True)
    return seen


def _describe(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in asdict(figures).items())


def summarise(seen: Mapping[str, Sequence[Figures]]) -> list[Result]:
    """Take the medians, and Backhaul's by those of the bare ASGI app."""
    medians = {
        name: {key: statistics.median(getattr(one, key) for one in rounds) for key in _KEYS}
        for name, rounds in seen.items()
    }
    return [
        Result(
            name=f"parked.{key}",
            value=round(medians["backhaul"][key], 4),
            unit=key.rpartition("_")[2],
            baseline=round(medians["bare_asgi"][key], 4),
            ratio=round(medians["backhaul"][key] / medians["bare_asgi"][key], 3),
        )
        for key in _KEYS
    ]


_KEYS = tuple(asdict(Figures()))


def main() -> int:
    """Run it. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="make bench-poll", description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    results = summarise(run(options.agents, options.rounds))
    print(f"{'':26}{'backhaul':>12}{'bare ASGI':>12}{'ratio':>8}")
    for one in results:
        print(f"{one.name:26}{one.value:>12}{one.baseline:>12}{one.ratio:>8}")
    RESULTS.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
