"""SIGTERM to a server with parked agents: how soon it is gone, and what its agents live through.

The agents do what they are told: they stay away for as long as the answer says, and then poll the
other instance, which must not be pressed too hard.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field

import msgspec

from bench.contenders import Contender
from bench.parked import Figures, park, poll_once
from bench.poll_client import Answer, PollConnection, connect, hang_up
from bench.processes import CLIENT_CORE, SERVER_CORE, Server, run_server

UNITS = {
    "exit": "s",
    "errors": "",
    "late": "",
    "back": "s",
    "next_cpu": "",
}
"""The measures: from the signal to the end of the process; agents that saw anything but an empty
answer with a pause; agents whose poll of the other instance was answered late; from the signal to
the last of them being there; the most that the other instance took of a core in any second."""

RETURN_HOLD_S = 2.0
LATE_S = 1.0
_HOLD_JITTER = 0.1
_SAMPLE_S = 0.25
_SAMPLES_A_SECOND = round(1 / _SAMPLE_S)
_EXIT_LIMIT_S = 60.0


class _Polled(msgspec.Struct):
    envelopes: tuple[msgspec.Raw, ...]
    pause: float


_decoder = msgspec.json.Decoder(_Polled)


@dataclass
class Seen:
    """What the agents lived through."""

    errors: int = 0
    late: int = 0
    back_s: list[float] = field(default_factory=list)
    """After the signal."""


async def measure_stop(contender: Contender, agents: int) -> Figures:
    """Park agents at one of two instances, stop it, and watch the other one take them in.

    It has the other core, which it shares with the clients: theirs is little by then.
    """
    with (
        run_server(contender.command, contender.environment, core=SERVER_CORE) as first,
        run_server(contender.command, contender.environment, core=CLIENT_CORE) as second,
    ):
        await first.wait_until_it_listens()
        await second.wait_until_it_listens()
        await poll_once(contender, first, range(agents))
        parked = await park(contender, first, agents)
        await second.settle()
        watching = asyncio.create_task(_watch(second))
        begun = time.perf_counter()
        ending = asyncio.create_task(_stop(first))
        visit = _Visit(contender, second, begun)
        numbered = enumerate(zip(parked.connections, parked.polls, strict=True))
        await asyncio.gather(*(_come_back(visit, number, *one) for number, one in numbered))
        exit_s, seen = await ending, visit.seen
        watching.cancel()
        shares = await watching
    return {
        "exit": exit_s,
        "errors": seen.errors,
        "late": seen.late,
        "back": max(seen.back_s, default=0.0),
        "next_cpu": max(shares, default=0.0),
    }


async def measure_plain_stop(contender: Contender, agents: int, *, hold_s: float) -> Figures:
    """Stop a server that only has uvicorn's own way to end."""
    with run_server(contender.command, contender.environment) as server:
        await server.wait_until_it_listens()
        requests = [contender.build_poll(number, hold_s) for number in range(agents)]
        connections = await connect(server.port, requests)
        polls = [one.poll() for one in connections]
        await server.settle()
        exit_s = await _stop(server)
        await asyncio.wait(polls, timeout=1)
        hang_up(connections)
    return {"exit": exit_s, "errors": sum(poll.cancelled() for poll in polls)}


async def _stop(server: Server) -> float:
    begun = time.perf_counter()
    server.send_signal(signal.SIGTERM)
    while not server.has_ended():
        assert time.perf_counter() < begun + _EXIT_LIMIT_S
        await asyncio.sleep(0.01)
    return time.perf_counter() - begun


async def _watch(server: Server) -> list[float]:
    """Give the share of a core in each second, sliding, until it is cancelled."""
    used = [(time.perf_counter(), server.read_cpu_s())]
    try:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            used.append((time.perf_counter(), server.read_cpu_s()))
    except asyncio.CancelledError:
        pairs = zip(used, used[_SAMPLES_A_SECOND:], strict=False)
        return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]


@dataclass(frozen=True)
class _Visit:
    """Where the agents go, and since when."""

    contender: Contender
    server: Server
    begun: float
    seen: Seen = field(default_factory=Seen)


async def _come_back(
    visit: _Visit, number: int, connection: PollConnection, poll: asyncio.Future[Answer]
) -> None:
    """Be one agent, from the answer of the first instance to that of the other."""
    seen = visit.seen
    try:
        body, at = await poll
        reply = _decoder.decode(body) if connection.status == 200 else None
        if reply is None or reply.envelopes or reply.pause <= 0:
            seen.errors += 1
            return
        connection.hang_up()
        await asyncio.sleep(at + reply.pause - time.perf_counter())
        (again,) = await connect(
            visit.server.port, [visit.contender.build_poll(number, RETURN_HOLD_S)]
        )
        asked = time.perf_counter()
        body, at = await again.poll()
        seen.errors += again.status != 200
        seen.late += at - asked > RETURN_HOLD_S * (1 + _HOLD_JITTER) + LATE_S
        seen.back_s.append(max(asked, at - RETURN_HOLD_S) - visit.begun)
        again.hang_up()
    except (asyncio.CancelledError, OSError):
        seen.errors += 1
