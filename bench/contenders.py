"""The servers that are measured side by side, and how their agents and operators speak to each."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from backhaul.wire.agents import Batch, UpEnvelope
from backhaul.wire.commands import CommandAck, CommandRun
from backhaul.wire.job_batches import MAX_JOBS_AT_ONCE
from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import BackupResult
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.db.parts import in_parts
from backhaul_api.db.tables import jobs
from bench.made_fleet import MadeFleet
from bench.poll_client import PollConnection, WebSocketConnection, build_handshake, build_request
from tests.fakes.postgresql import PostgresqlServer

LONG_S = 600.0
"""The hold of polls that must not end while something else is measured."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server, and its ways."""

    name: str
    command: Callable[[int], Sequence[str]]
    fleet: MadeFleet
    environment: Mapping[str, str] = field(default_factory=dict)
    database_url: str | None = None
    """Of what stores its jobs."""

    connection: Callable[[bytes], PollConnection] = PollConnection
    has_polls: bool = True

    def build_poll(self, number: int, hold_s: float) -> bytes:
        """Build a host's poll. Where nothing polls, what its connection begins with."""
        token = self.fleet.tokens[number]
        if not self.has_polls:
            return build_handshake(token)
        body = self.fleet.build_poll(number, hold_s)
        return build_request("POST", "/v1/agent/poll", body, token=token)

    def build_opening(self) -> bytes:
        """Build what an operator's connection begins with."""
        return b"" if self.has_polls else build_handshake("operator")

    def build_jobs(self, numbers: Sequence[int]) -> list[bytes]:
        """Build the requests that give each host a job of its own, in the server's own way."""
        body = json.dumps({"hosts": [self.fleet.tokens[number] for number in numbers]}).encode()
        return [self._post("/v1/jobs", body, token="operator")]

    def build_reports(self, number: int, command: bytes) -> list[bytes]:
        """Build what an agent sends, one after the other, for a job that its poll brought: it is
        taken up, has started, and is over."""
        envelopes = (b'{"envelopes":[{}]}', b'{"envelopes":[{},{}]}')
        token = self.fleet.tokens[number]
        return [self._post("/v1/agent/envelopes", body, token=token) for body in envelopes]

    def read_made(self, answer: bytes) -> list[UUID]:
        """Read the ids of jobs that an operator's answer tells of, where jobs have one."""
        return []

    def read_delivered(self, answer: bytes) -> list[UUID]:
        """Read the ids of the jobs that a poll brought, where jobs have one."""
        return []

    def _post(self, path: str, body: bytes, *, token: str) -> bytes:
        return build_request("POST", path, body, token=token) if self.has_polls else body


class _Made(msgspec.Struct):
    """A job, or the ids of many."""

    id: UUID | None = None
    ids: tuple[UUID, ...] = ()


class _Polled(msgspec.Struct):
    envelopes: tuple[CommandRun, ...]


class _Received(msgspec.Struct):
    receipts: tuple[dict[str, object], ...]


_made_decoder = msgspec.json.Decoder(_Made)
_polled_decoder = msgspec.json.Decoder(_Polled)


@dataclass(frozen=True, kw_only=True)
class Backhaul(Contender):
    """`backhaul serve`: its agents have real tokens, and its jobs are on disk when it says so."""

    def build_jobs(self, numbers: Sequence[int]) -> list[bytes]:
        return [self._build_batch(some) for some in in_parts(numbers, MAX_JOBS_AT_ONCE)]

    def _build_batch(self, numbers: Sequence[int]) -> bytes:
        jobs = [
            {
                "kind": "backup",
                "host": self.fleet.names[number],
                "repository": "nas",
                "paths": ["/etc"],
            }
            for number in numbers
        ]
        path, body = ("/v1/jobs", jobs[0]) if len(jobs) == 1 else ("/v1/jobs/batch", {"jobs": jobs})
        return self._post(path, json.dumps(body).encode(), token=self.fleet.operator_token)

    def build_reports(self, number: int, command: bytes) -> list[bytes]:
        (run,) = _polled_decoder.decode(command).envelopes
        job_id, attempt, now = run.job_id, run.attempt, datetime.now(UTC)
        end = JobFinished(
            job_id=job_id,
            attempt=attempt,
            at=now,
            outcome=Outcome.SUCCEEDED,
            log_lines=0,
            exit_code=0,
            result=_DONE,
        )
        token = self.fleet.tokens[number]
        batches: list[list[UpEnvelope]] = [
            [CommandAck(job_id=job_id, attempt=attempt, is_accepted=True)],
            [JobStarted(job_id=job_id, attempt=attempt, at=now), end],
        ]
        return [
            self._post("/v1/agent/envelopes", build_batch(batch), token=token) for batch in batches
        ]

    def read_made(self, answer: bytes) -> list[UUID]:
        made = _made_decoder.decode(answer)
        return [*made.ids, *filter(None, [made.id])]

    def read_delivered(self, answer: bytes) -> list[UUID]:
        return [run.job_id for run in _polled_decoder.decode(answer).envelopes]


_DONE = BackupResult(snapshot_id="0" * 64, files_new=1, total_files_processed=1)


def build_batch(envelopes: Sequence[UpEnvelope]) -> bytes:
    """Build the body of a batch."""
    raw = tuple(msgspec.Raw(msgspec.json.encode(one)) for one in envelopes)
    return msgspec.json.encode(Batch(envelopes=raw))


class Stored(NamedTuple):
    """The jobs in a database."""

    ids: frozenset[UUID]
    succeeded: int


async def read_jobs(database_url: str) -> Stored:
    """Read which jobs a server that has ended left."""
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        rows = (await connection.execute(sa.select(jobs.c.id, jobs.c.state))).all()
    await engine.dispose()
    return Stored(
        ids=frozenset(row.id for row in rows), succeeded=sum(r.state == "succeeded" for r in rows)
    )


# The contenders of a run -------------------------------------------------------------------------


def build_baseline(name: str, fleet: MadeFleet) -> Contender:
    """Build a baseline that polls."""
    command = [sys.executable, "-m", f"bench.baselines.{name}"]
    return Contender(name=name, command=lambda port: [*command, str(port)], fleet=fleet)


def build_sockets(name: str, fleet: MadeFleet, *options: str) -> Contender:
    """Build the server of WebSockets."""
    command = [sys.executable, "-m", "bench.baselines.sockets"]
    return Contender(
        name=name,
        command=lambda port: [*command, str(port), *options],
        fleet=fleet,
        connection=WebSocketConnection,
        has_polls=False,
    )


@dataclass(frozen=True, kw_only=True)
class Made:
    """A control plane that was filled once, to be copied for each time that it is measured."""

    folder: Path
    """With the key file; on SQLite also the database."""
    fleet: MadeFleet
    postgresql: PostgresqlServer | None = None

    def copy(self, name: str) -> tuple[Path, str]:
        """Copy it. Gives the new folder, and the URL of the database."""
        folder = self.folder.with_name(name)
        shutil.copytree(self.folder, folder)
        if self.postgresql is None:
            return folder, f"sqlite+aiosqlite:///{folder / 'backhaul.sqlite3'}"
        return folder, self.postgresql.create_database(name, template=self.folder.name)

    def delete(self, name: str) -> None:
        """Delete a copy."""
        shutil.rmtree(self.folder.with_name(name))
        if self.postgresql is not None:
            self.postgresql.drop_database(name)


def build_backhaul(
    name: str, fleet: MadeFleet, folder: Path, database_url: str, *, hold_s: float = LONG_S
) -> Backhaul:
    """Build Backhaul over a folder and a database."""
    serve = [sys.executable, "-m", "backhaul", "serve", "--data-dir", str(folder)]
    return Backhaul(
        name=name,
        command=lambda port: [*serve, "--port", str(port)],
        fleet=fleet,
        database_url=database_url,
        environment={
            "BACKHAUL_API_DATABASE_URL": database_url,
            # As the baselines are told by their polls: none must end while it is measured.
            "BACKHAUL_API_POLL_HOLD": str(hold_s),
            "BACKHAUL_API_LOG_LEVEL": "error",
        },
    )
