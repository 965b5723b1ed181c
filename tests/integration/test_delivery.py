"""The server's real app and the agent's real loops over a path that loses, repeats and cuts.

BACKHAUL_HISTORIES=1000 in the environment has it look at so many instead of 40.

A random history: jobs are made, cancelled and fired; requests are dropped, delayed, sent twice, cut
on the way there and back, and arrive when nobody expects them any more; agents die before or after
any write, request, answer or line of restic, the server at any statement. After each step, and once
everything is calm again, the promises of Backhaul are looked at.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Coroutine
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import nacl.public
import nacl.signing
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backhaul.wire.jobs import MOVES, TERMINAL_STATES, FailureClass, JobState
from backhaul.wire.kinds.base import EXCLUSIVE_KINDS
from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_agent.identity import Identity
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import setup_tokens
from backhaul_api.hosts import store as hosts
from backhaul_api.keys import KeyRing
from backhaul_api.passwords import PasswordHasher
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from tests.conftest import ADA_PASSWORD, FAST_ARGON2, build_client, lend_app
from tests.fakes.clock import START
from tests.fakes.fleet import FACTS
from tests.fakes.lossy_transport import Fate
from tests.fakes.modelled_host import ModelClock, ModelledHost
from tests.fakes.statements import watch_statements

T = TypeVar("T")

MEMORY = Path("/dev/shm")
"""Where a write costs no turn of a disk, on systems that have it."""
NAMES = ("ash", "elm")
KEYS = KeyRing([bytes(range(32))])
STEP = timedelta(minutes=1)
"""Between two slots of a schedule here."""
FATES = [*Fate, Fate.LATE, Fate.LATE, Fate.ANSWER_LOST, Fate.SENT_TWICE]
_QUIET_TURNS = 12
_ENOUGH_ROUNDS = 300


class ServerKilledError(Exception):
    """The server dies at a statement; what it had not committed is undone."""


class Server:
    """The app over one database file, through all its lives."""

    def __init__(self, file: Path, clock: ModelClock) -> None:
        self._file = file
        self._clock = clock
        self.dies_in: int | None = None
        """After so many statements and commits."""
        self.is_dead = True

    def start(self) -> None:
        self.is_dead, self.dies_in = False, None
        self._database = Database(f"sqlite+aiosqlite:///{self._file}")
        self._watching = ExitStack()
        self._watching.enter_context(watch_statements(self._database, self._count))
        self.services = Services(
            # Polls are not held: time moves only when the test says so.
            # Nor is a host given up: what is with a silent one keeps others waiting, here for ever.
            settings=Settings(
                data_dir=self._file.parent,
                poll_hold=0.0,
                poll_pause=15.0,
                lost_after=366 * 86_400.0,
            ),
            clock=self._clock,
            database=self._database,
            keys=KEYS,
            passwords=PasswordHasher(FAST_ARGON2),
            wakeups=Wakeups(),
        )
        # Were it ever older than a change, a job would wait for ever.
        self.services.wakeups.memory.is_trusted = True
        self.app = lend_app(self.services)

    def _count(self, *_: object) -> None:
        if self.is_dead:
            raise ServerKilledError
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in <= 0:
                self.is_dead = True
                raise ServerKilledError

    async def close(self) -> None:
        await self._database.close()
        self._watching.close()


class Delivery(RuleBasedStateMachine):
    """One history."""

    template: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._folder = TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self._is_begun = False
        self._is_broken = False

    # The world ---------------------------------------------------------------------------------

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self._run(self._begin(seed))

    async def _begin(self, seed: int) -> None:
        folder = Path(self._folder.name)
        self.file = folder / "backhaul.sqlite3"
        shutil.copyfile(self.template, self.file)
        self.clock = ModelClock(START)
        self.dice = random.Random(seed)
        self.server = Server(self.file, self.clock)
        self.server.start()
        self.token = await self._bootstrap()
        self.hosts: dict[str, ModelledHost] = {}
        for name in NAMES:
            identity = await self._enrol(name)
            host = ModelledHost(identity, folder / name, self.clock, self.dice, self._loop)
            host.transport.is_server_dead = lambda: self.server.is_dead
            self.hosts[name] = host
        self._connect()
        await self._post(
            "/v1/repositories", name="nas", location="/srv/nas", password="a password of its own"
        )
        await self._post("/v1/sources", name="etc", paths=["/etc"])
        self.schedules: list[UUID] = []
        self.seen: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, tuple[int, int]] = {}
        for host in self.hosts.values():
            host.start()
        await self._settle()
        self._is_begun = True

    async def _bootstrap(self) -> str:
        token, now = build_token(TokenKind.SETUP), self.clock.now()
        async with self.server.services.database.writing() as connection:
            await connection.execute(
                setup_tokens.insert().values(
                    token_hash=hash_token(token), created_at=now, expires_at=now.replace(year=2099)
                )
            )
        body = {"setup_token": token, "username": "ada", "password": ADA_PASSWORD}
        async with build_client(self.server.app) as client:
            session = (await client.post("/v1/bootstrap", json=body)).json()["token"]
            client.headers["Authorization"] = f"Bearer {session}"
            # A session would end during a long history.
            made = await client.post("/v1/api-tokens", json={"name": "model"})
        return str(made.json()["token"])

    async def _enrol(self, name: str) -> Identity:
        token, key = build_token(TokenKind.AGENT), nacl.public.PrivateKey.generate()
        new = hosts.NewHost(
            name=name,
            labels={},
            facts=FACTS,
            public_key=bytes(key.public_key),
            token_hash=hash_token(token),
        )
        async with self.server.services.database.writing() as connection:
            host_id = await hosts.insert(connection, new, now=self.clock.now())
        return Identity(
            server_url="http://api",
            ca_file=None,
            host_id=host_id,
            name=name,
            agent_token=token,
            private_key=bytes(key),
            signing_key=bytes(nacl.signing.SigningKey.generate().verify_key),
        )

    def _connect(self) -> None:
        for host in self.hosts.values():
            host.transport.app = None if self.server.is_dead else self.server.app

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run_until_complete(work)
        except BaseException:
            self._is_broken = True
            raise

    async def _settle(self) -> None:
        """Let everything happen that needs no time to pass."""
        quiet = 0
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            if self.server.is_dead:
                self._connect()
            for host in self.hosts.values():
                await host.bury()
                assert host.failure is None, host.failure
            if any(host.transport.calls for host in self.hosts.values()):
                # The database works in a thread.
                quiet = 0
                await asyncio.sleep(0.0002)
            else:
                quiet += 1

    async def _pass_time(self, seconds: float) -> None:
        limit_s = self.clock.monotonic() + seconds
        await self._settle()
        while self.clock.advance_to_next(limit_s):
            await self._settle()

    async def _post(self, path: str, **body: object) -> dict[str, Any] | None:
        """Ask as the operator; None when the server is dead, or dies of it."""
        if self.server.is_dead:
            return None
        async with build_client(self.server.app) as client:
            client.headers["Authorization"] = f"Bearer {self.token}"
            answer = await client.post(path, json=body)
        if self._has_server_died():
            return None
        assert answer.status_code in {200, 201, 409}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def _patch(self, path: str, **body: object) -> None:
        if self.server.is_dead:
            return
        async with build_client(self.server.app) as client:
            client.headers["Authorization"] = f"Bearer {self.token}"
            answer = await client.patch(path, json=body)
        assert self._has_server_died() or answer.status_code == 200, answer.text

    def _has_server_died(self) -> bool:
        return self.server.is_dead

    # What happens ------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(["backup", "backup", "backup", "prune", "check"]),
    )
    def make_job(self, name: str, kind: str) -> None:
        body = {"kind": kind, "host": name, "repository": "nas"}
        self._run(self._post("/v1/jobs", **body, **({"source": "etc"} if kind == "backup" else {})))
        self._run(self._settle())

    @rule(
        name=st.sampled_from(NAMES),
        when=st.sampled_from(["run", "wait"]),
    )
    @precondition(lambda self: self._is_begun and len(self.schedules) < 3)
    def make_schedule(self, name: str, when: str) -> None:
        made = self._run(
            self._post(
                f"/v1/hosts/{name}/schedules",
                kind="backup",
                cron="* * * * *",
                repository="nas",
                source="etc",
                when_unreachable=when,
                attempts=2,
                retry_delay=1,
            )
        )
        if made is not None:
            self.schedules.append(UUID(made["id"]))
        self._run(self._settle())

    @rule(number=st.integers(0, 2), seconds=st.sampled_from([300, 600]))
    @precondition(lambda self: self._is_begun and self.schedules)
    def edit_schedule(self, number: int, seconds: int) -> None:
        schedule_id = self.schedules[number % len(self.schedules)]
        self._run(self._patch(f"/v1/schedules/{schedule_id}", max_duration=seconds))
        self._run(self._settle())

    @rule(number=st.integers(0, 100))
    def cancel(self, number: int) -> None:
        active = [one["id"] for one in self._read_jobs() if one["state"] not in TERMINAL_STATES]
        if active:
            self._run(self._post(f"/v1/jobs/{UUID(active[number % len(active)])}/cancel"))
            self._run(self._settle())

    @rule(seconds=st.sampled_from([0.5, 3, 20, 70]))
    def pass_time(self, seconds: float) -> None:
        self._run(self._pass_time(seconds))

    @rule(
        name=st.sampled_from(NAMES),
        fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=6),
        seconds=st.sampled_from([0, 5, 30]),
    )
    def plan_faults(self, name: str, fates: list[Fate], seconds: float) -> None:
        self.hosts[name].transport.plan.extend(fates)
        self._run(self._pass_time(seconds))

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 20))
    def arrive_late(self, name: str, number: int) -> None:
        late = self.hosts[name].transport.late
        if late:
            self._run(self.hosts[name].transport.arrive_late(number % len(late)))
            self._run(self._settle())

    @rule(
        name=st.sampled_from(NAMES),
        steps=st.integers(1, 40),
        seconds=st.sampled_from([5, 30, 70]),
    )
    def kill_agent(self, name: str, steps: int, seconds: float) -> None:
        """Let an agent die after so many steps; it stays dead for the rest of the time."""
        host = self.hosts[name]
        if host.is_alive:
            host.dies_in = steps
            self._run(self._pass_time(seconds))
            host.kill()
            self._run(self._settle())

    @rule(name=st.sampled_from(NAMES))
    def start_agent(self, name: str) -> None:
        if not self.hosts[name].is_alive:
            self.hosts[name].start()
            self._run(self._settle())

    @rule(statements=st.integers(1, 60), seconds=st.sampled_from([5, 30, 70]))
    def kill_server(self, statements: int, seconds: float) -> None:
        """Let the server die after so many statements; it stays dead for the rest of the time."""
        if not self.server.is_dead:
            self.server.dies_in = statements
            self._run(self._pass_time(seconds))
            self.server.is_dead = True
            self._run(self._end_server())

    async def _end_server(self) -> None:
        await self._settle()
        await self.server.close()
        self._connect()

    @rule()
    def start_server(self) -> None:
        if self.server.is_dead:
            self.server.start()
            self._connect()
            self._run(self._settle())

    @rule(hours=st.sampled_from([0.2, 2.0]))
    def power_cut(self, hours: float) -> None:
        """Everything is off for a while, and comes back."""
        for host in self.hosts.values():
            host.kill()
        self.server.is_dead = True
        self._run(self._end_server())
        self._run(self._pass_time(hours * 3600))
        self._bring_back()

    def _bring_back(self) -> None:
        if self.server.is_dead:
            self.server.start()
        self._connect()
        for host in self.hosts.values():
            host.dies_in = None
            if not host.is_alive:
                host.start()
        self.server.dies_in = None
        self._run(self._settle())

    # What must be true -------------------------------------------------------------------------

    @invariant()
    def states_follow_the_table_and_versions_only_grow(self) -> None:
        if not self._is_begun:
            return
        for job in self._read_jobs():
            before = self.seen.get(job["id"])
            if before is not None:
                assert is_reachable(before["state"], job["state"]), (before, job)
                assert job["revision"] >= before["revision"], (before, job)
                assert job["attempt"] >= before["attempt"], (before, job)
                if job["attempt"] == before["attempt"]:
                    assert job["log_lines"] >= before["log_lines"], (before, job)
            self.seen[job["id"]] = job
        for name, wanted, applied in self._query(
            "SELECT name, schedule_version, applied_schedule_version FROM hosts"
        ):
            assert applied <= wanted
            last = self.versions.get(name, (0, 0))
            assert last[0] <= wanted
            assert last[1] <= applied
            self.versions[name] = (wanted, applied)

    @invariant()
    def no_job_runs_twice(self) -> None:
        if not self._is_begun:
            return
        attempts = {UUID(job["id"]): job["attempt"] for job in self._read_jobs()}
        for host in self.hosts.values():
            for job_id, count in host.restic.starts.items():
                # A job that a host began by itself is told of afterwards.
                assert count <= attempts.get(job_id, 1), job_id

    @invariant()
    def nobody_disturbs_an_exclusive_job(self) -> None:
        if not self._is_begun:
            return
        at_work = [
            job
            for job in self._read_jobs()
            if job["state"] in {"accepted", "running"} and not job["ran_offline"]
        ]
        if any(job["kind"] in EXCLUSIVE_KINDS for job in at_work):
            assert len(at_work) == 1, at_work

    def teardown(self) -> None:
        try:
            if self._is_begun and not self._is_broken:
                self._bring_back()
                self._run(self._calm_down())
                self._run(self._check_the_end())
        finally:
            self._loop.run_until_complete(self._stop())
            self._loop.close()
            self._folder.cleanup()

    async def _stop(self) -> None:
        if not self._is_begun:
            return
        for host in self.hosts.values():
            host.kill()
            await host.bury()
        await self.server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _calm_down(self) -> None:
        for host in self.hosts.values():
            host.transport.plan.clear()
            while host.transport.late:
                number = self.dice.randrange(len(host.transport.late))
                await host.transport.arrive_late(number)
        for schedule_id in self.schedules:
            await self._patch(f"/v1/schedules/{schedule_id}", cron="@yearly")
        for _ in range(_ENOUGH_ROUNDS):
            await self._pass_time(30)
            if self._is_quiet():
                return

    def _is_quiet(self) -> bool:
        is_over = all(job["state"] in TERMINAL_STATES for job in self._read_jobs())
        return is_over and not any(host.list_left() for host in self.hosts.values())

    async def _check_the_end(self) -> None:
        for host in self.hosts.values():
            assert host.list_left() == []
        jobs = {UUID(job["id"]): job for job in self._read_jobs()}
        for job in jobs.values():
            assert job["state"] in TERMINAL_STATES, job
        self._check_events(jobs)
        self._check_fires(jobs)
        for host in self.hosts.values():
            for job_id in host.restic.starts:
                assert job_id in jobs
                assert jobs[job_id]["state"] not in {"lost", "expired", "rejected"}, jobs[job_id]
        for job_id, job in jobs.items():
            self._check_log(job_id, job)

    def _check_events(self, jobs: dict[UUID, dict[str, Any]]) -> None:
        """Require each job's moves to be a walk through the table from queued to its end."""
        state: dict[str, str] = defaultdict(lambda: "queued")
        for job_id, begin, event, end in self._query(
            "SELECT job_id, from_state, event, to_state FROM job_events ORDER BY id"
        ):
            assert begin == state[job_id]
            assert MOVES[begin, event] == end
            state[job_id] = end
        for job in jobs.values():
            assert state[job["id"]] == job["state"]

    def _check_fires(self, jobs: dict[UUID, dict[str, Any]]) -> None:
        """Require each slot that fired to have one job, its own or one that stands for it."""
        of_schedule = defaultdict(list)
        for job in jobs.values():
            if job["schedule_id"] is not None:
                of_schedule[UUID(job["schedule_id"])].append(job)
        for found in of_schedule.values():
            # A slot that two jobs stand for was fired twice.
            covered = Counter(
                slot - number * STEP
                for job in found
                for slot in [datetime.fromisoformat(job["scheduled_at"])]
                for number in range(job["missed"] + 1)
            )
            assert set(covered.values()) == {1}, found
        for host in self.hosts.values():
            for schedule_id, slot in host.list_fired():
                moment = slot.strftime("%Y-%m-%d %H:%M:%S")
                own = [j for j in of_schedule[schedule_id] if j["scheduled_at"][:19] == moment]
                later = [
                    j
                    for j in of_schedule[schedule_id]
                    if j["scheduled_at"][:19] > moment and j["missed"]
                ]
                assert own or later, (schedule_id, slot)

    def _check_log(self, job_id: UUID, job: dict[str, Any]) -> None:
        """Require each line once and in order; all of them unless the agent died at it."""
        attempts: dict[int, list[str]] = defaultdict(list)
        for attempt, seq, stream, text in self._query(
            "SELECT attempt, seq, stream, text FROM job_log WHERE job_id = ? ORDER BY attempt, seq",
            job_id.hex,
        ):
            assert seq == len(attempts[attempt])
            attempts[attempt].append(text if stream == "stdout" else "")
        runs = [
            said
            for host in self.hosts.values()
            for (one, _), said in sorted(host.restic.said.items())
            if one == job_id
        ]
        assert len(attempts.get(job["attempt"], [])) == job["log_lines"]
        said_in = [[text for text in lines if text] for _, lines in sorted(attempts.items())]
        for lines in said_in:
            assert not lines or any(run[: len(lines)] == lines for run in runs), (lines, runs)
        is_whole = job["failure_class"] != FailureClass.INTERRUPTED
        if job["attempt"] == 1 and runs and is_whole:
            assert said_in == [runs[0]] or (said_in == [] and runs[0] == []), (said_in, runs)

    # Looking -----------------------------------------------------------------------------------

    def _query(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute(query, parameters).fetchall()

    def _read_jobs(self) -> list[dict[str, Any]]:
        names = (
            "id",
            "kind",
            "state",
            "attempt",
            "revision",
            "log_lines",
            "ran_offline",
            "schedule_id",
            "scheduled_at",
            "missed",
            "failure_class",
        )
        rows = self._query(f"SELECT {', '.join(names)} FROM jobs ORDER BY id")  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in rows]


def is_reachable(state: str, later: str) -> bool:
    """Tell whether the table of moves leads from one state to another."""
    seen, front = {JobState(state)}, {JobState(state)}
    while front:
        front = {end for (begin, _), end in MOVES.items() if begin in front} - seen
        seen |= front
    return JobState(later) in seen


@pytest.mark.timeout(900)
def test_nothing_is_lost_nothing_is_done_twice(request: pytest.FixtureRequest) -> None:
    Delivery.template = request.getfixturevalue("_sqlite_template")
    machine: Any = Delivery.TestCase
    machine.settings = settings(
        max_examples=int(os.environ.get("BACKHAUL_HISTORIES", "40")),
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    machine().runTest()
