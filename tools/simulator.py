"""Simulate the life of a fleet: the real API under a clock of its own, and agents that only talk.

    .venv/bin/python -m tools.simulator --data-dir fleet --hosts 20 --days 31
    .venv/bin/backhaul serve --data-dir fleet

Everything goes through the API's own routes, in the order in which it would happen: hosts enrol,
apply their schedules, fire them at their times, and report what restic would. Only restic is made
up, and the hours pass in milliseconds. Some hosts are away for days, some backups fail or leave
files out, one host does not follow its schedules. The same seed makes the same month, but for ids
and keys. An API token for looking at it is in `token` in the data folder.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import msgspec
import nacl.public

from backhaul import AsyncClient, AsyncFleet
from backhaul.cron import build_hash_key, draw_jitter, parse_cron
from backhaul.wire.agents import (
    Batch,
    BatchReply,
    EnrollReply,
    EnrollRequest,
    Hello,
    HostFacts,
    PollReply,
    PollRequest,
    ReceiptStatus,
)
from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION, SPOKEN_PROTOCOLS
from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import FailureClass, LogLine, Outcome
from backhaul.wire.kinds import BackupResult, CheckResult, ForgetResult, PruneResult, Result
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul.wire.schedules import (
    EntryError,
    ScheduleAck,
    ScheduleEntry,
    ScheduleFire,
    ScheduleSet,
)
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.app import build_services, create_app
from backhaul_api.db.engine import open_database
from backhaul_api.preparation import hold_database, make_folder, upgrade_database
from backhaul_api.server_identity import open_keys
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from backhaul_api.users import store as users

ROLES = ("web", "db", "mail", "build")
UPKEEP_HOST = "web-01"
FAILURES = (
    (FailureClass.NETWORK, "Fatal: unable to open repository: connection refused"),
    (FailureClass.LOCKED, "Fatal: unable to create lock: repository is already locked"),
    (FailureClass.NO_SPACE, "Fatal: unable to save snapshot: no space left on device"),
)


class SteppedClock:
    """A clock that goes on only when it is told to."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def set(self, now: datetime) -> None:
        """Go on to a moment; never back."""
        self._now = max(self._now, now)


@dataclass
class SimulatedHost:
    """An agent that says what an agent would, and runs nothing."""

    name: str
    http: httpx.AsyncClient
    rng: random.Random
    id: UUID
    files: int
    bytes: int
    away: tuple[datetime, datetime] | None = None
    boot_id: UUID = field(default_factory=uuid4)
    entries: tuple[ScheduleEntry, ...] = ()
    version: int = 0

    def is_away(self, at: datetime) -> bool:
        return self.away is not None and self.away[0] <= at < self.away[1]

    async def poll(self, now: datetime) -> None:
        """Take up the schedules, if they are new."""
        body = PollRequest(
            boot_id=self.boot_id,
            schedule_version=self.version,
            settings_version=0,
            jobs=(),
            clock=now,
            hold=0.0,
        )
        answer = await self._post("/v1/agent/poll", body, PollReply)
        for raw in answer.envelopes:
            if msgspec.json.decode(raw, type=dict)["type"] == "schedule.set":
                received = msgspec.json.decode(raw, type=ScheduleSet)
                self.entries, self.version = received.schedules, received.schedule_version

    async def send(self, *envelopes: Any) -> BatchReply:
        raws = tuple(msgspec.Raw(msgspec.json.encode(one)) for one in envelopes)
        reply: BatchReply = await self._post(
            "/v1/agent/envelopes", Batch(envelopes=raws), BatchReply
        )
        return reply

    async def _post(self, path: str, body: msgspec.Struct, type_: Any) -> Any:
        answer = await self.http.post(path, content=msgspec.json.encode(body))
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=type_)

    def list_fires(self, since: datetime, until: datetime) -> Iterator[tuple[datetime, Fire]]:
        """Give the fires of all its schedules, each at the time at which it is delivered."""
        for entry in self.entries:
            key = build_hash_key(self.id, entry.schedule_id)
            jitter = timedelta(seconds=draw_jitter(key, entry.jitter))
            cron = parse_cron(entry.cron, entry.timezone, hash_key=key)
            missed = 0
            for slot in cron.iterate_after(since):
                at = slot + jitter
                if at >= until:
                    break
                if self.is_away(at) and self.away is not None:
                    missed += 1
                    late = Fire(host=self, entry=entry, slot=slot, missed=missed - 1)
                    continue
                if missed:
                    yield at, late
                    missed = 0
                yield at, Fire(host=self, entry=entry, slot=slot, missed=0)


@dataclass(frozen=True)
class Fire:
    """A slot whose time has come."""

    host: SimulatedHost
    entry: ScheduleEntry
    slot: datetime
    missed: int


@dataclass(frozen=True)
class Ending:
    """How a job that runs will end, and after how long."""

    host: SimulatedHost
    after: timedelta
    log: JobLog
    finished: JobFinished


async def simulate(
    settings: Settings, *, hosts: int, days: int, seed: int, now: datetime
) -> tuple[int, str]:
    """Simulate a fleet up to `now`. Gives the number of jobs, and an API token to look at them."""
    clock = SteppedClock(now - timedelta(days=days))
    await upgrade_database(settings)
    database = open_database(settings)
    keys = await open_keys(settings, database)
    services = build_services(settings, database=database, keys=keys, clock=clock)
    transport = httpx.ASGITransport(app=cast("Any", create_app(services)))
    try:
        client = AsyncClient("http://simulated", transport=transport)
        await _sign_in(services, client)
        async with AsyncFleet(client) as fleet:
            rng = random.Random(seed)  # noqa: S311 (made-up figures)
            machines = await _build_fleet(fleet, transport, rng, hosts=hosts, clock=clock, end=now)
            count = await _live(fleet, machines, rng, clock=clock, end=now)
            return count, (await fleet.api_tokens.create("simulator", expires_in="365d")).token
    finally:
        await database.close()


async def _sign_in(services: Services, client: AsyncClient) -> None:
    token = build_token(TokenKind.SETUP)
    now = services.clock.now()
    async with services.database.writing() as connection:
        await users.insert_setup_token(
            connection, hash_token(token), now=now, expires_at=now + timedelta(hours=1)
        )
    # Nobody signs in with this password again: who looks at the fleet has the API token.
    await client.bootstrap(setup_token=token, username="ada", password=secrets.token_urlsafe())


async def _build_fleet(
    fleet: AsyncFleet,
    transport: httpx.ASGITransport,
    rng: random.Random,
    *,
    hosts: int,
    clock: SteppedClock,
    end: datetime,
) -> list[SimulatedHost]:
    for name in ("nas", "offsite"):
        await fleet.repositories.create(
            name, f"sftp:backup@{name}.example.com:/srv/restic", password=f"of {name}, made up"
        )
    keep = {"keep_daily": 7, "keep_weekly": 5, "keep_monthly": 12}
    await fleet.sources.create("etc", ["/etc"], retention=keep)
    await fleet.sources.create("data", ["/srv", "/var/lib"], excludes=["*.tmp"], retention=keep)
    machines = []
    for number in range(hosts):
        role = ROLES[number % len(ROLES)]
        machine = await _enrol(fleet, transport, rng, role, f"{role}-{number // 4 + 1:02}")
        machines.append(machine)
        host = await fleet.hosts[machine.name]
        await host.schedules.create(
            "H 2 * * *", source="data", repository="nas", timezone="Europe/London", jitter=1800
        )
        if role == "db":
            await host.schedules.create("H */6 * * *", source="etc", repository="offsite")
        clock.set(clock.now() + timedelta(minutes=rng.randint(1, 9)))
    upkeep = await fleet.hosts[UPKEEP_HOST]
    for kind, cron, extra in (
        ("forget", "0 8 * * *", {"source": "data"}),
        ("prune", "0 9 * * 0", {}),
        ("check", "0 10 * * 6", {}),
    ):
        await upkeep.schedules.create(cron, kind=kind, repository="nas", **extra)
    for machine in rng.sample(machines[1:], k=max(1, hosts // 8)):
        begin = end - timedelta(days=rng.uniform(2, 14))
        machine.away = (begin, begin + timedelta(days=rng.uniform(1, 4)))
    # One is away at the end: somebody should look.
    machines[-1].away = (end - timedelta(days=2.5), end + timedelta(days=1))
    for machine in machines:
        await machine.poll(clock.now())
        await machine.send(ScheduleAck(schedule_version=machine.version))
    return machines


async def _enrol(
    fleet: AsyncFleet, transport: httpx.ASGITransport, rng: random.Random, role: str, name: str
) -> SimulatedHost:
    env = "prod" if rng.random() < 0.8 else "test"
    made = await fleet.enrollment_tokens.create(host_name=name, labels={"env": env, "role": role})
    facts = HostFacts(
        hostname=f"{name}.example.com",
        os="Debian GNU/Linux 12 (bookworm)",
        architecture="x86_64",
        agent_version="0.1.0",
        protocol=SPOKEN_PROTOCOLS,
        restic_version=rng.choice(["0.14.0", "0.16.4", "0.18.0"]),
        capabilities=("backup", "check", "forget", "init", "prune", "restore", "snapshots"),
    )
    request = EnrollRequest(
        enrollment_token=made.token,
        public_key=bytes(nacl.public.PrivateKey.generate().public_key),
        facts=facts,
    )
    headers = {PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
    http = httpx.AsyncClient(transport=transport, base_url="http://simulated", headers=headers)
    answer = await http.post("/v1/agents/enroll", content=msgspec.json.encode(request))
    answer.raise_for_status()
    reply = msgspec.json.decode(answer.content, type=EnrollReply)
    http.headers["Authorization"] = f"Bearer {reply.agent_token}"
    machine = SimulatedHost(
        name=name,
        http=http,
        rng=rng,
        id=reply.host_id,
        files=rng.randint(5_000, 400_000),
        bytes=rng.randint(2, 300) * 1024**3,
    )
    await machine.send(Hello(boot_id=machine.boot_id, facts=facts))
    return machine


async def _live(
    fleet: AsyncFleet,
    machines: list[SimulatedHost],
    rng: random.Random,
    *,
    clock: SteppedClock,
    end: datetime,
) -> int:
    begin, count = clock.now(), 0
    coming: list[tuple[datetime, int, Fire | Ending]] = [
        (at, number, fire)
        for number, (at, fire) in enumerate(
            one for machine in machines for one in machine.list_fires(begin, end)
        )
    ]
    heapify(coming)
    while coming:
        at, number, event = heappop(coming)
        clock.set(at)
        if isinstance(event, Ending):
            await event.host.send(event.log, msgspec.structs.replace(event.finished, at=at))
            continue
        ending = await _fire(event, rng, at)
        if ending is not None:
            count += 1
            heappush(coming, (at + ending.after, number, ending))
    clock.set(end)
    # What the operator did last, and what a host made of it.
    drifting = machines[len(machines) // 2]
    host = await fleet.hosts[drifting.name]
    changed = await host.schedules.create(
        "30 12 * * 1-5", source="etc", repository="offsite", timezone="Europe/Kyiv"
    )
    for machine in machines:
        if not machine.is_away(end):
            await machine.poll(end)
            errors = (EntryError(schedule_id=changed.id, message="timezone: not known here"),)
            await machine.send(
                ScheduleAck(
                    schedule_version=machine.version,
                    errors=errors if machine is drifting else (),
                )
            )
        await machine.http.aclose()
    return count


async def _fire(fire: Fire, rng: random.Random, at: datetime) -> Ending | None:
    """Fire, and begin the job. Gives how it will end; None when the server wants no job."""
    host = fire.host
    reply = await host.send(
        ScheduleFire(
            schedule_id=fire.entry.schedule_id,
            scheduled_at=fire.slot,
            fired_at=at,
            missed=fire.missed,
        )
    )
    job_id = reply.receipts[0].job_id
    if reply.receipts[0].status is not ReceiptStatus.OK or job_id is None:
        return None
    await host.poll(at)
    await host.send(
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(job_id=job_id, attempt=1, at=at),
    )
    return _run(fire, rng, job_id, at)


def _run(fire: Fire, rng: random.Random, job_id: UUID, at: datetime) -> Ending:
    """Make up how restic would have gone."""
    luck = rng.random()
    outcome, message, failure_class = Outcome.SUCCEEDED, None, None
    if luck < 0.03:
        outcome = Outcome.FAILED
        failure_class, message = rng.choice(FAILURES)
    elif luck < 0.05 and fire.entry.kind == "backup":
        outcome, message = Outcome.INCOMPLETE, "3 files could not be read"
    text = message or f"{fire.entry.kind} done"
    line = LogLine(at=at, stream="stderr" if message else "stdout", text=text)
    finished = JobFinished(
        job_id=job_id,
        attempt=1,
        at=at,
        outcome=outcome,
        log_lines=1,
        exit_code={Outcome.SUCCEEDED: 0, Outcome.INCOMPLETE: 3}.get(outcome, 1),
        failure_class=failure_class,
        message=message,
        result=None if outcome is Outcome.FAILED else _build_result(fire, rng, outcome),
    )
    return Ending(
        host=fire.host,
        after=timedelta(seconds=rng.uniform(15, 900)),
        log=JobLog(job_id=job_id, attempt=1, seq=0, lines=(line,)),
        finished=finished,
    )


def _build_result(fire: Fire, rng: random.Random, outcome: Outcome) -> Result:
    host = fire.host
    match fire.entry.kind:
        case "forget":
            return ForgetResult(kept=rng.randint(100, 140), removed=rng.randint(0, 20))
        case "prune":
            return PruneResult()
        case "check":
            return CheckResult()
    # A weekday brings more than a Sunday.
    busy = 0.3 if fire.slot.weekday() >= 5 else 1.0
    added = int(host.bytes * rng.uniform(0.002, 0.01) * busy)
    host.bytes += added // 3
    host.files += rng.randint(0, 50)
    return BackupResult(
        snapshot_id=f"{rng.getrandbits(256):064x}",
        files_new=rng.randint(0, 300),
        files_changed=rng.randint(50, 2000),
        files_unmodified=host.files,
        data_added=added,
        total_files_processed=host.files,
        total_bytes_processed=host.bytes,
        total_duration=rng.uniform(20, 900),
        unreadable=3 if outcome is Outcome.INCOMPLETE else 0,
    )


def run(folder: Path, *, hosts: int, days: int, seed: int) -> int:
    """Simulate a fleet into a data folder that has none. Gives the number of jobs."""
    settings = Settings(data_dir=folder, session_lifetime=366 * 86_400.0)
    make_folder(settings)
    with hold_database(settings):
        now = datetime.now(UTC).replace(microsecond=0)
        count, token = asyncio.run(simulate(settings, hosts=hosts, days=days, seed=seed, now=now))
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="a folder that is new or empty"
    )
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.data_dir.exists() and any(options.data_dir.iterdir()):
        parser.error(f"{options.data_dir} is not empty: choose another folder")
    if options.hosts < 2 or options.days < 1:
        parser.error("a fleet has at least 2 hosts, and lives for at least a day")
    begin = time.monotonic()
    count = run(options.data_dir, hosts=options.hosts, days=options.days, seed=options.seed)
    sys.stdout.write(
        f"{count:,} jobs of {options.hosts} hosts in {options.days} days, simulated in "
        f"{time.monotonic() - begin:.1f} s. Look at them:\n"
        f"  backhaul serve --data-dir {options.data_dir}\n"
        f"  export BACKHAUL_URL=http://127.0.0.1:8440"
        f" BACKHAUL_TOKEN_FILE={options.data_dir}/token\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
