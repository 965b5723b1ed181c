"""How many fires a second become jobs on disk, one for each request and many in each.

64 clients send fires of real hosts and schedules, each slot once; what the database holds
afterwards is counted, and a part of them is sent again, which must change nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from backhaul.wire.agents import BatchReply, ReceiptStatus
from backhaul.wire.schedules import ScheduleFire
from backhaul.wire.tokens import hash_token
from bench.contenders import build_backhaul, build_batch, read_jobs
from bench.made_fleet import MadeFleet
from bench.parked import Figures
from bench.poll_client import PollConnection, build_request, connect, hang_up
from bench.processes import Server, run_server

HOSTS, SCHEDULES_EACH = 256, 10
_SLOTS_SINCE = timedelta(days=300)
_AGAIN = 64
_BUSY, _BUSY_PAUSE_S = 503, 0.2

_decoder = msgspec.json.Decoder(BatchReply)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Who sends, for how long."""

    clients: int = 64
    seconds: float = 4.0
    batch: int = 1
    """Fires in a request."""


class Fires:
    """Batches of fires: each of one host, no slot twice, and of each schedule the oldest first."""

    def __init__(self, fleet: MadeFleet, *, clients: int, size: int) -> None:
        self._fleet = fleet
        self._clients = clients
        self._size = size
        self._begin = datetime.now(UTC).replace(second=0, microsecond=0) - _SLOTS_SINCE

    def draw(self, client: int) -> Iterator[bytes]:
        """Give the requests of a client, whose hosts are its own."""
        hosts = range(client, len(self._fleet.tokens), self._clients)
        sent = Counter[int]()
        while True:
            for host in hosts:
                yield self._build(host, sent[host])
                sent[host] += self._size

    def _build(self, host: int, already: int) -> bytes:
        schedules, now = self._fleet.schedule_ids[host], datetime.now(UTC)
        fires = []
        for number in range(already, already + self._size):
            slot, schedule = divmod(number, len(schedules))
            scheduled_at = self._begin + timedelta(minutes=slot)
            fires.append(
                ScheduleFire(
                    schedule_id=schedules[schedule], scheduled_at=scheduled_at, fired_at=now
                )
            )
        body = build_batch(fires)
        token = self._fleet.tokens[host]
        return build_request("POST", "/v1/agent/envelopes", body, token=token)


async def measure_backhaul(
    fleet: MadeFleet, folder: Path, database_url: str, load: Load
) -> Figures:
    """Measure Backhaul over a database that holds the fleet and no jobs."""
    contender = build_backhaul("backhaul", fleet, folder, database_url)
    with run_server(contender.command, contender.environment) as server:
        await server.wait_until_it_listens()
        # One for both: what is sent again are the same slots, whatever the clock says by then.
        fires = Fires(fleet, clients=load.clients, size=load.batch)
        sent = await _send(server, fires, load)
        refused_again = await _send_again(server, fires, load, sent.clients)
    stored = len((await read_jobs(database_url)).ids)
    kept = sent.statuses[ReceiptStatus.OK]
    return {
        "fires": sent.rate,
        "lost": max(0, kept - stored) + sent.statuses[ReceiptStatus.REJECTED] + refused_again,
        "doubled": max(0, stored - kept),
    }


async def measure_orm(fleet: MadeFleet, folder: Path, database_url: str, load: Load) -> Figures:
    """Measure the ORM over an empty database."""
    file = folder / "hosts.json"
    rows = zip(fleet.host_ids, fleet.tokens, fleet.schedule_ids, strict=True)
    hosts = [
        {
            "id": str(host_id),
            "token_hash": hash_token(token).hex(),
            "schedules": [str(one) for one in schedule_ids],
        }
        for host_id, token, schedule_ids in rows
    ]
    file.write_text(json.dumps(hosts))
    command = [sys.executable, "-m", "bench.baselines.orm_fires"]
    with run_server(lambda port: [*command, str(port), database_url, str(file)]) as server:
        await server.wait_until_it_listens()
        fires = Fires(fleet, clients=load.clients, size=load.batch)
        sent = await _send(server, fires, load)
    assert set(sent.statuses) == {ReceiptStatus.OK}, sent.statuses
    return {"fires": sent.rate}


@dataclass
class Sent:
    """What came of sending."""

    statuses: Counter[ReceiptStatus] = field(default_factory=Counter)
    clients: list[int] = field(default_factory=list)
    """Those who got receipts."""
    rate: float = 0.0
    """Fires a second that got one."""


async def _send(server: Server, fires: Fires, load: Load) -> Sent:
    """Send fires for a while."""
    sent = Sent()
    connections = await connect(server.port, [b""] * load.clients)
    begun = time.perf_counter()
    ends = begun + load.seconds

    async def send(client: int, connection: PollConnection) -> None:
        for request in fires.draw(client):
            answer, at = await connection.poll(request)
            while connection.status == _BUSY and at < ends:
                # As an agent does: what got no receipt comes again.
                await asyncio.sleep(_BUSY_PAUSE_S)
                answer, at = await connection.poll(request)
            if connection.status == _BUSY:
                return
            assert connection.status == 200, answer
            sent.statuses.update(one.status for one in _decoder.decode(answer).receipts)
            if at > ends:
                break
        sent.clients.append(client)

    await asyncio.gather(*map(send, range(load.clients), connections))
    sent.rate = sum(sent.statuses.values()) / (time.perf_counter() - begun)
    hang_up(connections)
    return sent


async def _send_again(server: Server, fires: Fires, load: Load, clients: Sequence[int]) -> int:
    """Send the first fires of some clients again, as agents do that missed a receipt.

    Gives how many are refused. One that makes another job shows in the database.
    """
    (connection,) = await connect(server.port, [b""])
    statuses: Counter[ReceiptStatus] = Counter()
    for client in clients[: max(1, _AGAIN // load.batch)]:
        answer, _ = await connection.poll(next(fires.draw(client)))
        statuses.update(one.status for one in _decoder.decode(answer).receipts)
    hang_up([connection])
    return statuses[ReceiptStatus.REJECTED]
