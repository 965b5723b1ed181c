"""A database as it is after years: many hosts, each with a schedule, and the jobs that came of it.

The database makes all rows by itself, so that millions take minutes. What lists have to find is
there in bulk and, among the oldest, a few of each that are rare.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from string import Template
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import HostFacts
from backhaul.wire.base import SPOKEN_PROTOCOLS

SPAN = timedelta(days=365)
EVENTS_FOR = timedelta(days=28)
FEW = 5
"""How many there are of what is rare."""

_FACTS = HostFacts(
    hostname="web-1",
    os="Debian GNU/Linux 12 (bookworm)",
    architecture="x86_64",
    agent_version="0.1.0",
    protocol=SPOKEN_PROTOCOLS,
    restic_version="0.14.0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownFleet:
    """What to ask for."""

    host_name: str
    """Of a host with as many jobs as any."""
    schedule_id: UUID
    repository: str
    """Of nearly all jobs."""
    rare_repository: str
    """Of the oldest few."""


async def grow(connection: AsyncConnection, *, hosts: int, jobs: int, now: datetime) -> GrownFleet:
    """Fill an empty database of the newest revision."""
    write = _Postgresql() if connection.dialect.name == "postgresql" else _Sqlite()
    for statement in _build_statements(write, hosts=hosts, jobs=jobs, now=now):
        await connection.exec_driver_sql(statement)
    return GrownFleet(
        host_name=_name_host(hosts // 2),
        schedule_id=_build_id(1, hosts // 2),
        repository="repository-0",
        rare_repository="repository-2",
    )


class _Postgresql:
    """How PostgreSQL writes what the statements are made of."""

    def count(self, count: int) -> str:
        return f"generate_series(0::bigint, {count - 1}) AS s(n)"

    def id(self, ms: str, number: str) -> str:
        return (
            f"(lpad(to_hex(({ms})::bigint), 12, '0') || '70008000' || "
            f"lpad(to_hex(({number})::bigint), 12, '0'))::uuid"
        )

    def moment(self, ms: str) -> str:
        return f"to_timestamp(({ms}) / 1000.0)"

    def bytes(self, number: str) -> str:
        return f"convert_to(lpad(to_hex(({number})::bigint), 32, '0'), 'UTF8')"

    def json(self, text: str) -> str:
        return f"'{text}'::jsonb"

    def name(self, prefix: str, number: str) -> str:
        return f"'{prefix}' || lpad(({number})::text, 8, '0')"


class _Sqlite(_Postgresql):
    """How SQLite does."""

    def count(self, count: int) -> str:
        return Template(
            "(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < $last) "
            "SELECT n FROM s) AS s"
        ).substitute(last=count - 1)

    def id(self, ms: str, number: str) -> str:
        return f"printf('%012x70008000%012x', {ms}, {number})"

    def moment(self, ms: str) -> str:
        return f"strftime('%Y-%m-%d %H:%M:%S', ({ms}) / 1000, 'unixepoch') || '.000000'"

    def bytes(self, number: str) -> str:
        return f"CAST(printf('%032x', {number}) AS BLOB)"

    def json(self, text: str) -> str:
        return f"'{text}'"

    def name(self, prefix: str, number: str) -> str:
        return f"printf('{prefix}%08d', {number})"


def _build_statements(write: _Postgresql, *, hosts: int, jobs: int, now: datetime) -> list[str]:
    end_ms = int((now - timedelta(hours=1)).timestamp() * 1000)
    start_ms = end_ms - int(SPAN.total_seconds() * 1000)
    job_ms = f"{start_ms} + n * {max((end_ms - start_ms) // jobs, 1)}"
    event_ms = f"{end_ms - int(EVENTS_FOR.total_seconds() * 1000)} + n * 1000"
    values = {
        "hosts": write.count(hosts),
        "jobs": write.count(jobs),
        "events": write.count(max(jobs // 10, 1)),
        "repositories": write.count(3),
        "few": str(FEW),
        "host_id": write.id("0", "n"),
        "host_name": write.name("host-", "n"),
        "host_bytes": write.bytes("n"),
        "host_of_job": write.id("0", f"n % {hosts}"),
        "schedule_id": write.id("1", "n"),
        "schedule_of_job": write.id("1", f"n % {hosts}"),
        "repository_id": write.id("2", "n"),
        "repository_0": write.id("2", "0"),
        "repository_1": write.id("2", "1"),
        "repository_2": write.id("2", "2"),
        "source_id": write.id("3", "0"),
        "job_id": write.id(job_ms, "n"),
        "made_at": write.moment(job_ms),
        "event_at": write.moment(event_ms),
        "start": write.moment(str(start_ms)),
        "end": write.moment(str(end_ms)),
        "facts": write.json(_encode(_FACTS)),
        "none": write.json("[]"),
        "labels": write.json("{}"),
        "paths": write.json(_encode(["/etc"])),
        # The rest are defaults.
        "unlock": write.json(_encode({"kind": "unlock"})),
        "check": write.json(_encode({"kind": "check"})),
        "copy": write.json(_encode({"kind": "copy", "destination_id": _build_id(2, 1)})),
        "backup": write.json(_encode({"kind": "backup", "paths": ["/etc"]})),
    }
    return [Template(statement).substitute(values) for statement in _STATEMENTS.split(";")]


_STATEMENTS = """
INSERT INTO hosts (id, name, labels, facts, public_key, token_hash, enrolled_at, last_seen_at,
    schedule_version, applied_schedule_version)
SELECT $host_id, $host_name, $labels, $facts, $host_bytes, $host_bytes, $start, $end, 1, 1
FROM $hosts;

INSERT INTO repositories (id, name, location, created_at, updated_at, initialized_at)
SELECT $repository_id, 'repository-' || n, '/srv', $start, $start, $start FROM $repositories;

INSERT INTO sources (id, name, paths, excludes, tags, one_file_system, created_at, updated_at)
SELECT $source_id, 'etc', $paths, $none, $none, false, $start, $start;

INSERT INTO schedules (id, host_id, repository_id, source_id, kind, cron, timezone, enabled,
    catch_up, jitter, when_unreachable, created_at, updated_at)
SELECT $schedule_id, $host_id, $repository_0, $source_id, 'backup', '30 1 * * *', 'UTC', true,
    'once', 0, 'run', $start, $start
FROM $hosts;

INSERT INTO jobs (id, host_id, repository_id, destination_id, kind, state, arguments, actor_kind,
    schedule_id, scheduled_at, created_at, accepted_at, started_at, finished_at, log_lines)
SELECT $job_id, $host_of_job,
    CASE WHEN n < $few THEN $repository_2 ELSE $repository_0 END,
    CASE WHEN n >= $few AND n % 50 = 1 THEN $repository_1 END,
    CASE WHEN n < $few THEN 'unlock' WHEN n % 50 = 0 THEN 'check' WHEN n % 50 = 1 THEN 'copy'
        ELSE 'backup' END,
    CASE WHEN n < $few THEN 'incomplete' WHEN n % 997 = 0 THEN 'failed' ELSE 'succeeded' END,
    CASE WHEN n < $few THEN $unlock WHEN n % 50 = 0 THEN $check WHEN n % 50 = 1 THEN $copy
        ELSE $backup END,
    'schedule',
    CASE WHEN n % 10 <> 3 THEN $schedule_of_job END,
    CASE WHEN n % 10 <> 3 THEN $made_at END,
    $made_at, $made_at, $made_at, $made_at, 1
FROM $jobs;

INSERT INTO job_log (job_id, attempt, seq, at, stream, text)
SELECT id, 1, 0, created_at, 'stdout', 'a line' FROM jobs WHERE kind <> 'backup';

INSERT INTO job_events (id, job_id, attempt, at, event, from_state, to_state)
SELECT id, id, 1, finished_at, 'succeed', 'running', state FROM jobs WHERE kind <> 'backup';

INSERT INTO events (at, kind, host_id, job_id, job_kind)
SELECT $event_at, 'job.succeeded', $host_of_job, $job_id, 'backup' FROM $events
"""


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _name_host(number: int) -> str:
    return f"host-{number:08}"


def _build_id(ms: int, number: int) -> UUID:
    return UUID(f"{ms:012x}70008000{number:012x}")
