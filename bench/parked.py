"""What one server with parked agents costs, and how soon they have their jobs.

`measure` runs a server and takes all the figures of it, in this order: the memory and CPU of
parking; empty polls that come again; single jobs; jobs as fast as some clients can; one job for
each agent. `measure_short_polls` does what agents did before polls were held.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from bench.contenders import LONG_S, Contender, read_jobs
from bench.poll_client import Answer, PollConnection, connect, hang_up
from bench.processes import Server, run_server

_AT_ONCE = 8
"""How many agents warm a server up at a time: what more of them left free would hide what the
parked ones take."""
_PARKING_AT_ONCE = 1000
_OPERATORS = 16
_PAUSE_S = 0.005
_PATIENCE_S = 300.0

Figures = dict[str, float]
"""What one run saw of one server, by the name of the measure."""

UNITS = {
    "memory": "KiB",
    "first_poll": "µs",
    "intake": "µs",
    "repoll": "µs",
    "dispatch_p50": "ms",
    "dispatch_p99": "ms",
    "jobs_16": "1/s",
    "jobs_64": "1/s",
    "broadcast": "ms",
    "lost": "",
    "doubled": "",
}
"""The measures. Memory is per parked agent; the CPU of the first poll since the server began, of
taking in an agent that connects and parks, and of an empty poll that ends and comes again, is per
poll; a dispatch is from the request that makes a job to the agent having it; `jobs_16` are jobs
that 16 clients make and 16 agents report on, to the last receipt; a broadcast is until each agent
has a job of its own, the making of the jobs included."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    agents: int
    repolling: int = 2000
    """Agents whose empty polls come again and again."""
    repoll_hold_s: float = 2.0
    repoll_s: float = 6.0
    dispatches: int = 300
    jobs_s: float = 3.0
    clients: tuple[int, ...] = (16, 64)
    """How many make jobs at a time."""

    @property
    def hosts(self) -> int:
        return self.agents + self.repolling


@dataclass
class Ledger:
    """Which jobs were made, and which were brought."""

    made: list[UUID] = field(default_factory=list)
    brought: Counter[UUID] = field(default_factory=Counter)
    reported: int = 0


class Agents:
    """The parked agents of a server, by number."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self.connections: list[PollConnection] = []
        self.polls: list[asyncio.Future[Answer]] = []
        self.ledger = Ledger()

    def __len__(self) -> int:
        return len(self.connections)

    def add(self, connections: Sequence[PollConnection]) -> None:
        """Take in more agents, who poll at once."""
        self.connections += connections
        self.polls += [one.poll() for one in connections]

    async def take(self, number: int) -> tuple[bytes, float]:
        """Give what comes for an agent, and when it was here."""
        body, at = await asyncio.wait_for(self.polls[number], _PATIENCE_S)
        self.read(body)
        return body, at

    def read(self, body: bytes) -> None:
        # What is pushed may be compressed, and is nothing but jobs.
        assert not self._contender.has_polls or b"command.run" in body, body
        self.ledger.brought.update(self._contender.read_delivered(body))

    async def report_and_park(self, number: int, command: bytes) -> None:
        """Report on a job, all of it, and poll again."""
        connection = self.connections[number]
        for report in self._contender.build_reports(number, command):
            body, _ = await connection.poll(report)
            assert not self._contender.has_polls or b'"receipts"' in body, body
            assert b"rejected" not in body, body
        self.ledger.reported += 1
        self.polls[number] = connection.poll()

    def hang_up(self) -> None:
        hang_up(self.connections)


async def measure(contender: Contender, scale: Scale) -> Figures:
    """Run a server and take its figures."""
    figures: Figures = {}
    with run_server(contender.command, contender.environment) as server:
        await server.wait_until_it_listens()
        agents = await _park(contender, server, scale, figures)
        if contender.has_polls:
            figures["repoll"] = await _repoll(contender, server, scale)
        await _dispatch(contender, server, agents, scale, figures)
        for clients in scale.clients:
            figures[f"jobs_{clients}"] = await _work(contender, server, agents, clients, scale)
        await _broadcast(contender, server, agents, figures)
        agents.hang_up()
    if contender.database_url is not None:
        await _count(contender.database_url, agents.ledger, figures)
    return figures


async def _park(contender: Contender, server: Server, scale: Scale, figures: Figures) -> Agents:
    """Park all agents."""
    if contender.has_polls:
        await poll_once(contender, server, range(scale.agents, scale.hosts))
    else:
        await _connect_once(contender, server, _AT_ONCE)
    await server.settle()
    memory, cpu = server.read_memory_kib(), server.read_cpu_s()
    if contender.has_polls:
        await poll_once(contender, server, range(scale.agents))
        await server.settle()
        figures["first_poll"] = (server.read_cpu_s() - cpu) / scale.agents * 1e6
        cpu = server.read_cpu_s()
    agents = await park(contender, server, scale.agents)
    figures["intake"] = (server.read_cpu_s() - cpu) / scale.agents * 1e6
    figures["memory"] = (server.read_memory_kib() - memory) / scale.agents
    return agents


async def park(contender: Contender, server: Server, count: int) -> Agents:
    """Connect agents and let them poll, so many at a time as come back to a server in a second."""
    agents = Agents(contender)
    for begin in range(0, count, _PARKING_AT_ONCE):
        numbers = range(begin, min(begin + _PARKING_AT_ONCE, count))
        requests = [contender.build_poll(number, LONG_S) for number in numbers]
        agents.add(await connect(server.port, requests, contender.connection))
        await server.settle()
    assert not any(poll.done() for poll in agents.polls), "a poll did not park"
    return agents


async def poll_once(contender: Contender, server: Server, numbers: Sequence[int]) -> None:
    """Let agents poll without a hold, a few at a time."""
    connections = await connect(server.port, [b""] * _AT_ONCE)
    waiting = iter(numbers)

    async def poll(connection: PollConnection) -> None:
        for number in waiting:
            await connection.poll(contender.build_poll(number, 0.0))
            assert connection.status == 200, connection.status

    await asyncio.gather(*map(poll, connections))
    hang_up(connections)


async def _connect_once(contender: Contender, server: Server, count: int) -> None:
    requests = [contender.build_poll(number, 0.0) for number in range(count)]
    hang_up(await connect(server.port, requests, contender.connection))


async def _repoll(contender: Contender, server: Server, scale: Scale) -> float:
    """Let some agents poll again and again, with a hold that is short enough to see many."""
    hold_s = scale.repoll_hold_s
    numbers = range(scale.agents, scale.hosts)
    requests = [contender.build_poll(number, hold_s) for number in numbers]
    connections = await connect(server.port, requests)
    begins = time.perf_counter() + 1.2 * hold_s
    ends = begins + scale.repoll_s
    polled = 0

    async def again(connection: PollConnection) -> None:
        nonlocal polled
        await asyncio.sleep(random.random() * hold_s)
        while time.perf_counter() < ends:
            await connection.poll()
            polled += 1

    running = asyncio.gather(*map(again, connections))
    await asyncio.sleep(begins - time.perf_counter())
    cpu, before = server.read_cpu_s(), polled
    await asyncio.sleep(ends - time.perf_counter())
    spent, seen = server.read_cpu_s() - cpu, polled - before
    await running
    hang_up(connections)
    await server.settle()
    return spent / seen * 1e6


async def _dispatch(
    contender: Contender, server: Server, agents: Agents, scale: Scale, figures: Figures
) -> None:
    """Make one job after the other, each for an idle agent of an idle server."""
    (operator,) = await _connect_operators(contender, server, 1)
    seen = []
    for _ in range(scale.dispatches):
        number = random.randrange(len(agents))
        (request,) = contender.build_jobs([number])
        begun = time.perf_counter()
        made = operator.poll(request)
        command, at = await agents.take(number)
        seen.append((at - begun) * 1000)
        _note(contender, operator, (await made)[0], agents.ledger)
        await agents.report_and_park(number, command)
        await asyncio.sleep(_PAUSE_S)
    figures["dispatch_p50"] = statistics.median(seen)
    figures["dispatch_p99"] = statistics.quantiles(seen, n=100)[98]
    hang_up([operator])


async def _work(
    contender: Contender, server: Server, agents: Agents, clients: int, scale: Scale
) -> float:
    """Make jobs as fast as some clients can, each for an agent that reports on them."""
    operators = await _connect_operators(contender, server, min(clients, len(agents)))
    ends = time.perf_counter() + scale.jobs_s
    done = 0

    async def work(number: int, operator: PollConnection) -> None:
        nonlocal done
        while time.perf_counter() < ends:
            (request,) = contender.build_jobs([number])
            made = operator.poll(request)
            command, _ = await agents.take(number)
            _note(contender, operator, (await made)[0], agents.ledger)
            await agents.report_and_park(number, command)
            done += 1

    begun = time.perf_counter()
    await asyncio.gather(*(work(number, one) for number, one in enumerate(operators)))
    took_s = time.perf_counter() - begun
    hang_up(operators)
    return done / took_s


async def _broadcast(
    contender: Contender, server: Server, agents: Agents, figures: Figures
) -> None:
    """Give each agent a job, in the way that the server has for it."""
    await server.settle()
    operators = await _connect_operators(contender, server, _OPERATORS)
    requests = iter(contender.build_jobs(range(len(agents))))
    begun = time.perf_counter()
    await asyncio.gather(*(_make_all(contender, one, requests, agents.ledger) for one in operators))
    await asyncio.wait(agents.polls, timeout=_PATIENCE_S)
    answers = [poll.result() for poll in agents.polls]
    figures["broadcast"] = (max(at for _, at in answers) - begun) * 1000
    for body, _ in answers:
        agents.read(body)
    hang_up(operators)


async def _make_all(
    contender: Contender, operator: PollConnection, requests: Iterator[bytes], ledger: Ledger
) -> None:
    for request in requests:
        _note(contender, operator, (await operator.poll(request))[0], ledger)


def _note(contender: Contender, operator: PollConnection, answer: bytes, ledger: Ledger) -> None:
    """Note the jobs that a server says it has made."""
    assert operator.status in {0, 200, 201, 202}, (operator.status, answer)
    ledger.made += contender.read_made(answer)


async def _connect_operators(
    contender: Contender, server: Server, count: int
) -> list[PollConnection]:
    openings = [contender.build_opening()] * count
    return await connect(server.port, openings, contender.connection)


async def _count(database_url: str, ledger: Ledger, figures: Figures) -> None:
    """Count what got lost between the three who should agree: those who made jobs, the agents, and
    the database; and what is there more than once."""
    stored, made = await read_jobs(database_url), set(ledger.made)
    missing = (made - stored.ids) | (made - ledger.brought.keys())
    unreported = max(0, ledger.reported - stored.succeeded)
    again = sum(ledger.brought.values()) - len(ledger.brought)
    unasked = (stored.ids | ledger.brought.keys()) - made
    figures["lost"] = len(missing) + unreported
    figures["doubled"] = again + len(unasked) + len(ledger.made) - len(made)


async def measure_short_polls(contender: Contender, *, interval_s: float, jobs: int) -> Figures:
    """Give jobs to agents that ask at an interval instead of waiting, each at a moment of its own.

    Takes two intervals. The agents are as many as the jobs, so that none waits for another.
    """
    seen: list[float] = []
    with run_server(contender.command, contender.environment) as server:
        await server.wait_until_it_listens()

        async def run(number: int) -> None:
            next_poll = time.perf_counter() + random.random() * interval_s
            asked = time.perf_counter() + random.random() * interval_s
            (job,) = contender.build_jobs([number])
            asking = asyncio.create_task(_ask_at(asked, server, job))
            body = b""
            while b"command.run" not in body:
                await asyncio.sleep(next_poll - time.perf_counter())
                next_poll += interval_s
                body, at = await _ask_once(server, contender.build_poll(number, 0.0))
            seen.append((at - await asking) * 1000)

        await asyncio.gather(*map(run, range(jobs)))
    return {
        "dispatch_p50": statistics.median(seen),
        "dispatch_p99": statistics.quantiles(seen, n=100)[98],
    }


async def _ask_at(moment: float, server: Server, request: bytes) -> float:
    """Send a request at a moment; gives when that was."""
    await asyncio.sleep(moment - time.perf_counter())
    begun = time.perf_counter()
    await _ask_once(server, request)
    return begun


async def _ask_once(server: Server, request: bytes) -> Answer:
    """Send a request over a connection of its own: uvicorn closes one that is idle for so long."""
    (connection,) = await connect(server.port, [request])
    answer = await connection.poll()
    connection.hang_up()
    return answer
