"""What lists, polls and reports ask of a database with many jobs is looked up and not searched for.

The statements are those that the routes really send; the databases say how they go about them.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import nacl.public
import pytest
import sqlalchemy as sa
from litestar import Litestar
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import EnrollRequest, ReceiptStatus
from backhaul.wire.base import PROTOCOL_HEADER
from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import JobState, LogLine, Outcome, Progress
from backhaul.wire.kinds import BackupResult
from backhaul.wire.reports import JobFinished, JobLog, JobProgress, JobStarted
from backhaul.wire.schedules import ScheduleAck, ScheduleFire
from backhaul_api.jobs import old_logs
from backhaul_api.jobs.silence import HEARING_AGAIN
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import (
    FACTS,
    FakeAgent,
    add_agent,
    add_job,
    add_repository,
    add_schedule,
    read_commands,
)
from tests.fakes.statements import watch_statements
from tools.grown_fleet import GrownFleet, grow

HOSTS, JOBS = 8_000, 64_000
LARGE = {"hosts", "jobs", "job_events", "job_log", "events"}

MAX_TOUCHED = 2 * 101 + 10
"""Rows of a large table that a statement may look at: a page, and one more to see whether it is the
last; a list whose rows come from two indexes reads each of them and then the rows themselves."""

OF_ACTIVE = "state IN ('queued', 'accepted', 'running')"
"""Of a statement that wants none but jobs that are not over. Those are few: looked up in an index
of all jobs, they would take longer from year to year."""


@dataclass
class Statements:
    """What the app has asked its database, each statement once, with the first parameters."""

    services: Services
    seen: dict[str, Any] = field(default_factory=dict)

    def note(self, statement: str, parameters: Any) -> None:
        is_of_interest = statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH"))
        # What only adds rows searches through none, also where several insert in one statement.
        adds = re.match(r"WITH \w+ AS \(INSERT", statement)
        if is_of_interest and not adds and not statement.startswith("SELECT pg_"):
            is_many = isinstance(parameters, list)
            self.seen.setdefault(statement, parameters[0] if is_many else parameters)

    async def find_searches(self) -> list[str]:
        """Give the statements that search through a large table, each with how."""
        found = []
        seen, self.seen = self.seen, {}
        for statement, parameters in seen.items():
            async with self.services.database.reading() as connection:
                is_sqlite = connection.dialect.name == "sqlite"
                find = _find_in_sqlite if is_sqlite else _find_in_postgresql
                found += [
                    f"{how}\n{statement}" for how in await find(connection, statement, parameters)
                ]
        self.seen = {}
        return found


async def _find_in_sqlite(connection: AsyncConnection, statement: str, values: Any) -> list[str]:
    rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
    steps = [row.detail for row in rows]
    # To walk along an index until the page is full is fine, if that is the order in which the rows
    # are wanted, and no other condition than when they were made lets them out.
    where = statement.partition("WHERE")[2]
    walks = "LIMIT" in statement and not re.search(r"_id\b|state|kind", where)
    found = [
        step
        for step in steps
        if (scan := re.match(r"SCAN (\w+)( USING .*INDEX)?", step))
        and scan[1] in LARGE
        and not (walks and scan[2])
        # Of which there are few.
        and "USING INDEX ix_jobs_active" not in step
    ]
    if OF_ACTIVE in statement:
        is_good = re.compile(r".* INDEX (ix_jobs_active|sqlite_autoindex_jobs_1)").match
        found += [
            step for step in steps if re.match("(SCAN|SEARCH) jobs", step) and not is_good(step)
        ]
    return found


async def _find_in_postgresql(
    connection: AsyncConnection, statement: str, values: Any
) -> list[str]:
    rows = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
    plan = rows.scalar_one()
    plan = json.loads(plan) if isinstance(plan, (str, bytes)) else plan
    return [
        f"{node['Node Type']} on {node['Relation Name']}: {touched} rows"
        for node in _walk(plan[0]["Plan"])
        if node.get("Relation Name") in LARGE
        and ((touched := _count_touched(node)) > MAX_TOUCHED or node["Node Type"] == "Seq Scan")
    ]


def _walk(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(inner for child in node.get("Plans", ()) for inner in _walk(child))]


def _count_touched(node: dict[str, Any]) -> float:
    removed = sum(node.get(f"Rows Removed by {by}", 0) for by in ("Filter", "Index Recheck"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.fixture
async def grown(services: Services) -> GrownFleet:
    async with services.database.writing() as connection:
        return await grow(connection, hosts=HOSTS, jobs=JOBS, now=services.clock.now())


@pytest.fixture
async def agent(
    grown: GrownFleet, services: Services, app: Litestar, operator: httpx.AsyncClient
) -> FakeAgent:
    secrets = {"location": "/srv/restic", "password": "a password of its own", "environment": {}}
    answer = await operator.patch(f"/v1/repositories/{grown.repository}", json=secrets)
    assert answer.status_code == 200, answer.text
    agent = await add_agent(services, app, name="web1")
    await agent.say_hello()
    return agent


@pytest.fixture
async def statements(agent: FakeAgent, services: Services) -> AsyncIterator[Statements]:
    """Note what is asked from here on, of a database that knows how much it holds."""
    if not services.database.is_sqlite:
        async with services.database.writing() as connection:
            await connection.execute(sa.text("ANALYZE"))
    statements = Statements(services)
    with watch_statements(services.database, statements.note):
        yield statements


async def _list(operator: httpx.AsyncClient, path: str, **query: Any) -> int:
    """List a first page, and one that follows a cursor; gives how many there are on the first."""
    answer = await operator.get(path, params=query)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    if page.get("next_cursor"):
        further = await operator.get(path, params={**query, "cursor": page["next_cursor"]})
        assert further.status_code == 200, further.text
    return len(page["items"])


async def test_nothing_that_is_asked_of_a_large_fleet_searches_through_its_jobs(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    grown: GrownFleet,
    services: Services,
    statements: Statements,
) -> None:
    await _list_everything(operator, grown)
    events = await operator.get("/v1/events", params={"tail": 20})
    assert len(events.json()["items"]) == 20
    follow = {"cursor": events.json()["next_cursor"]}
    assert (await operator.get("/v1/events", params=follow)).json()["items"] == []

    made = await add_schedule(operator, repository=grown.repository)
    await agent.poll()
    await agent.send(ScheduleAck(schedule_version=1))
    slots = [START - timedelta(minutes=minutes) for minutes in (20, 10)]
    for slot in slots:
        fire = ScheduleFire(schedule_id=UUID(made["id"]), scheduled_at=slot, fired_at=slot)
        [receipt] = await agent.send(fire)
        assert receipt.status is ReceiptStatus.OK
    [command, *_] = read_commands(await agent.poll(schedule_version=1))
    await _work(agent, command.job_id)
    assert (await operator.get(f"/v1/jobs/{command.job_id}")).json()["state"] == "succeeded"
    lines = await operator.get(f"/v1/jobs/{command.job_id}/log")
    await operator.get(f"/v1/jobs/{command.job_id}/log", params={"tail": 1})
    follow = {"cursor": lines.json()["next_cursor"]}
    await operator.get(f"/v1/jobs/{command.job_id}/log", params=follow)
    await operator.patch(f"/v1/schedules/{made['id']}", json={"cron": "0 4 * * *"})
    await operator.delete(f"/v1/schedules/{made['id']}")
    waiting = await add_job(operator, repository=grown.repository)
    await operator.post(f"/v1/jobs/{waiting}/cancel")
    await _join(operator)
    services.silence.listens_from -= HEARING_AGAIN  # else a tick looks for no silent hosts
    assert (await operator.post("/v1/tick")).status_code == 200
    async with services.database.writing() as connection:
        some = await old_logs.delete(connection, ended_before=START - timedelta(days=180))
        assert (some.lines, some.has_more) == (old_logs.MAX_JOBS, True)

    assert len(statements.seen) > 60
    searches = await statements.find_searches()
    assert not searches, "\n\n".join(searches)


async def test_sqlite_plans_what_a_job_asks_once_and_not_at_each_execution(
    operator: httpx.AsyncClient, services: Services, app: Litestar
) -> None:
    if not services.database.is_sqlite:
        pytest.skip("PostgreSQL plans what was prepared by rules of its own")
    await add_repository(operator)
    agent = await add_agent(services, app)
    await agent.say_hello()
    count = 6

    for _ in range(count):
        await _work(agent, await add_job(operator))
        await agent.poll()

    async with services.database.reading() as connection:
        options = {row[0] for row in await connection.exec_driver_sql("PRAGMA compile_options")}
        if "ENABLE_STMTVTAB" not in options:
            pytest.skip("this SQLite does not tell")
        told = await connection.exec_driver_sql("SELECT sql, reprep, run FROM sqlite_stmt")
        seen = {row.sql: row.reprep for row in told if row.run >= count}
    assert len(seen) > 10
    assert not [sql for sql, again in seen.items() if again >= count - 1]


async def _list_everything(operator: httpx.AsyncClient, grown: GrownFleet) -> None:
    recent = (START - timedelta(hours=10)).isoformat()
    old = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T08:00:00Z"}
    host, rare = grown.host_name, grown.rare_repository

    assert await _list(operator, "/v1/hosts") == 100
    assert await _list(operator, "/v1/jobs") == 100
    assert await _list(operator, "/v1/jobs", host=host) == JOBS // HOSTS
    assert await _list(operator, "/v1/jobs", host=host, kind="backup", state="failed") == 0
    assert await _list(operator, "/v1/jobs", schedule=str(grown.schedule_id)) > 5
    assert await _list(operator, "/v1/jobs", repository=grown.repository) == 100
    assert await _list(operator, "/v1/jobs", repository="repository-1") == 100
    assert await _list(operator, "/v1/jobs", repository=rare) == 5
    assert await _list(operator, "/v1/jobs", repository=grown.repository, kind="unlock") == 0
    assert await _list(operator, "/v1/jobs", kind="backup") == 100
    assert await _list(operator, "/v1/jobs", kind="unlock") == 5
    assert await _list(operator, "/v1/jobs", kind=["unlock", "unlock"], limit=5) == 5
    assert await _list(operator, "/v1/jobs", kind=["unlock", "check"]) == 100
    assert await _list(operator, "/v1/jobs", kind="unlock", state="incomplete") == 5
    assert await _list(operator, "/v1/jobs", state="incomplete") == 5
    assert await _list(operator, "/v1/jobs", state=["failed", "lost"]) > 50
    await _list(operator, "/v1/jobs", state=["queued", "running"])
    assert await _list(operator, "/v1/jobs", state=list(JobState)) == 100
    assert await _list(operator, "/v1/jobs", since=recent) > 50
    assert await _list(operator, "/v1/jobs", **old) > 20
    assert await _list(operator, "/v1/repositories") == 3
    assert await _list(operator, "/v1/schedules") == 100
    assert await _list(operator, "/v1/schedules", host=host) == 1


async def _join(operator: httpx.AsyncClient) -> None:
    """Let another host join."""
    token = (await operator.post("/v1/enrollment-tokens", json={})).json()["token"]
    request = EnrollRequest(
        enrollment_token=token,
        public_key=bytes(nacl.public.PrivateKey.generate().public_key),
        facts=FACTS,
        name="newest",
    )
    answer = await operator.post(
        "/v1/agents/enroll", content=msgspec.json.encode(request), headers={PROTOCOL_HEADER: "1"}
    )
    assert answer.status_code == 201, answer.text


async def _work(agent: FakeAgent, job_id: UUID) -> None:
    """Report all that happens to a job."""
    line = LogLine(at=START, stream="stdout", text="a line")
    common: dict[str, Any] = {"job_id": job_id, "attempt": 1}
    for report in (
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(**common, at=START),
        JobProgress(**common, at=START, progress=Progress(bytes_done=1)),
        JobLog(**common, seq=0, lines=(line,)),
        JobFinished(
            **common,
            at=START,
            outcome=Outcome.SUCCEEDED,
            log_lines=1,
            result=BackupResult(snapshot_id="a" * 64),
        ),
    ):
        [receipt] = await agent.send(report)
        assert receipt.status is ReceiptStatus.OK, receipt
