"""How much slower the API's calls are with millions of jobs in PostgreSQL than with a few thousand.

    .venv/bin/python -m bench.growth                          # or: make bench-growth
    .venv/bin/python -m bench.growth --hosts 5000 --jobs 500000

Both databases are on one server, which is started for this and keeps its files in a temporary
folder; the full size takes about 8 GB there. The same calls go to both in turn, through the app
itself without a socket between; the median counts. Prints a table and writes
bench/results/growth.jsonl; `ratio` is by the small database.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import sqlalchemy as sa

from backhaul.wire.agents import ReceiptStatus
from backhaul.wire.schedules import ScheduleAck, ScheduleFire
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.app import build_services, create_app
from backhaul_api.clock import SystemClock
from backhaul_api.db.engine import Database, build_single_engine
from backhaul_api.db.migrate import upgrade
from backhaul_api.db.tables import api_tokens, jobs, users
from backhaul_api.ids import new_id
from backhaul_api.keys import KeyRing
from backhaul_api.settings import Settings
from bench.results import Result, write
from tests.fakes.fleet import FakeAgent, add_agent, add_schedule
from tests.fakes.postgresql import run_postgresql
from tools.grown_fleet import GrownFleet, grow

HOSTS, JOBS = 50_000, 10_000_000
FEW_HOSTS, FEW_JOBS = 50, 2_000
CALLS = 100
RESULTS = Path(__file__).parent / "results" / "growth.jsonl"


@dataclass
class Side:
    """One of the two databases, and who asks it."""

    database: Database
    operator: httpx.AsyncClient
    agent: FakeAgent
    fleet: GrownFleet
    schedule_id: UUID
    fill_s: float

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.operator.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def close(self) -> None:
        await self.operator.aclose()
        await self.agent.client.aclose()
        await self.database.close()


Call = Callable[[Side], Awaitable[object]]


def main() -> int:
    arguments = _read_arguments()
    with (
        tempfile.TemporaryDirectory(
            prefix="bh-", dir=arguments.folder, ignore_cleanup_errors=True
        ) as folder,
        run_postgresql(Path(folder)) as server,
    ):
        urls = [server.create_database(name) for name in ("few", "many")]
        sizes = [(FEW_HOSTS, FEW_JOBS), (arguments.hosts, arguments.jobs)]
        results = asyncio.run(_measure(urls, sizes, calls=arguments.calls))
    write(results, RESULTS)
    for one in results:
        told = "" if one.ratio is None else f"{one.baseline:>10.2f} {one.ratio:>8.2f}"
        print(f"{one.name:<44} {one.value:>12,.2f} {one.unit:<4} {told}")
    return 0


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.growth")
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--folder", type=Path, help="where PostgreSQL's files are")
    return parser.parse_args()


async def _measure(urls: list[str], sizes: list[tuple[int, int]], *, calls: int) -> list[Result]:
    few, many = [
        await _build_side(url, hosts, jobs) for url, (hosts, jobs) in zip(urls, sizes, strict=True)
    ]
    hosts_, jobs_ = sizes[1]
    results = [
        Result(name="growth.hosts", value=hosts_, unit=""),
        Result(name="growth.jobs", value=jobs_, unit=""),
        Result(name="growth.fill_s", value=round(many.fill_s, 1), unit="s"),
    ]
    try:
        for name, call in CALLS_OF_INTEREST.items():
            times: dict[int, list[float]] = {id(few): [], id(many): []}
            for number in range(calls + 5):
                for side in (few, many):
                    begun = time.perf_counter()
                    await call(side)
                    if number >= 5:  # the first ones fill caches and prepare statements
                        times[id(side)].append((time.perf_counter() - begun) * 1000)
            small, large = (statistics.median(times[id(side)]) for side in (few, many))
            results.append(
                Result(
                    name=f"growth.{name}_ms",
                    value=round(large, 3),
                    unit="ms",
                    baseline=round(small, 3),
                    ratio=round(large / small, 3),
                )
            )
    finally:
        await few.close()
        await many.close()
    return results


async def _build_side(url: str, hosts: int, jobs: int) -> Side:
    await upgrade(url)
    begun = time.monotonic()
    fleet = await _fill(url, hosts, jobs)
    fill_s = time.monotonic() - begun
    print(f"{hosts:,} hosts and {jobs:,} jobs: filled in {fill_s:.0f} s", file=sys.stderr)
    database = Database(url)
    settings = Settings(database_url=url)
    services = build_services(settings, database=database, keys=KeyRing([bytes(32)]))
    app = create_app(services)
    token = await _add_operator(database)
    operator = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://api",
        headers={"Authorization": f"Bearer {token}"},
        timeout=600,
    )
    secrets = {"location": "/srv/restic", "password": "only of the bench", "environment": {}}
    answer = await operator.patch(f"/v1/repositories/{fleet.repository}", json=secrets)
    assert answer.status_code == 200, answer.text
    agent = await add_agent(services, app, name="web1")
    await agent.say_hello()
    made = await add_schedule(operator, repository=fleet.repository)
    await agent.send(ScheduleAck(schedule_version=1))
    return Side(database, operator, agent, fleet, UUID(made["id"]), fill_s)


async def _fill(url: str, hosts: int, job_count: int) -> GrownFleet:
    """Fill an empty database. The indexes of jobs are made last, which is faster."""
    engine = build_single_engine(url)
    indexes = sorted(jobs.indexes, key=lambda index: str(index.name))
    try:
        async with engine.begin() as connection:
            # The references hold by the way the rows are made.
            await connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            await connection.execute(sa.text("SET LOCAL maintenance_work_mem = '1GB'"))
            for index in indexes:
                await connection.execute(sa.schema.DropIndex(index))
            now = SystemClock().now()
            fleet = await grow(connection, hosts=hosts, jobs=job_count, now=now)
            for index in indexes:
                await connection.execute(sa.schema.CreateIndex(index))
        async with engine.connect() as connection:
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.text("VACUUM ANALYZE"))
    finally:
        await engine.dispose()
    return fleet


async def _add_operator(database: Database) -> str:
    token = build_token(TokenKind.API)
    user_id, now = new_id(), SystemClock().now()
    user = {"id": user_id, "username": "ada", "password_hash": "x", "created_at": now}
    async with database.writing() as connection:
        await connection.execute(sa.insert(users).values(user))
        await connection.execute(
            sa.insert(api_tokens).values(
                id=new_id(),
                user_id=user_id,
                name="bench",
                token_hash=hash_token(token),
                created_at=now,
            )
        )
    return token


async def _poll(side: Side) -> None:
    """As a quiet host whose schedules are applied; nothing is remembered here, so it asks."""
    reply = await side.agent.poll(schedule_version=1)
    assert reply.envelopes == ()


_slots = count(1)


async def _fire(side: Side) -> None:
    slot = SystemClock().now().replace(microsecond=0) - timedelta(seconds=next(_slots))
    fire = ScheduleFire(schedule_id=side.schedule_id, scheduled_at=slot, fired_at=slot)
    [receipt] = await side.agent.send(fire)
    assert receipt.status is ReceiptStatus.OK, receipt


async def _change_schedule(side: Side) -> None:
    body = {"cron": f"{next(_slots) % 60} 4 * * *"}
    answer = await side.operator.patch(f"/v1/schedules/{side.schedule_id}", json=body)
    assert answer.status_code == 200, answer.text


def _list(path: str, **query: Any) -> Call:
    async def ask(side: Side) -> object:
        filled = {
            name: getattr(side.fleet, value[1:]) if str(value).startswith(":") else value
            for name, value in query.items()
        }
        return await side.get(path, **filled)

    return ask


CALLS_OF_INTEREST: dict[str, Call] = {
    "list_hosts": _list("/v1/hosts"),
    "list_jobs": _list("/v1/jobs"),
    "list_jobs_of_host": _list("/v1/jobs", host=":host_name", limit=20),
    "list_jobs_of_schedule": _list("/v1/jobs", schedule=":schedule_id", limit=20),
    "list_jobs_of_repository": _list("/v1/jobs", repository=":repository"),
    "list_jobs_of_rare_repository": _list("/v1/jobs", repository=":rare_repository"),
    "list_jobs_of_rare_kind": _list("/v1/jobs", kind="unlock"),
    "list_jobs_of_kind_and_state": _list("/v1/jobs", kind="backup", state="succeeded"),
    "list_failed_jobs_of_repository": _list(
        "/v1/jobs", repository=":repository", state="failed", limit=2
    ),
    "list_repositories": _list("/v1/repositories"),
    "list_schedules_of_host": _list("/v1/schedules", host=":host_name"),
    "empty_poll": _poll,
    "change_schedule": _change_schedule,
    "fire": _fire,
    "events_tail": _list("/v1/events", tail=20),
}


if __name__ == "__main__":
    sys.exit(main())
