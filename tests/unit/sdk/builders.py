"""Answers of an API, for tests that need no API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import msgspec

from backhaul.client import Client
from backhaul.wire.accounts import NewSession, User
from backhaul.wire.agents import HostFacts
from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul.wire.fleet import Host, Repository
from backhaul.wire.jobs import (
    ActorKind,
    Job,
    JobLogPage,
    JobState,
    NumberedLogLine,
)
from backhaul.wire.kinds import BackupArguments, JobKind
from backhaul.wire.problems import PROBLEM_MEDIA_TYPE, FieldError, Problem, ProblemType
from backhaul.wire.schedules import Schedule, ScheduleKind
from backhaul.wire.tokens import TokenKind, build_token

URL = "http://api.test"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
JOB_ID = UUID("01930000-0000-7000-8000-000000000001")
HOST_ID = UUID("01930000-0000-7000-8000-000000000002")
REPOSITORY_ID = UUID("01930000-0000-7000-8000-000000000003")
SCHEDULE_ID = UUID("01930000-0000-7000-8000-000000000005")
SOURCE_ID = UUID("01930000-0000-7000-8000-000000000006")
USER_ID = UUID("01930000-0000-7000-8000-000000000004")
TOKEN = build_token(TokenKind.SESSION)

Answer = Callable[[httpx.Request], httpx.Response]


def build_job(state: JobState = JobState.QUEUED, **changes: Any) -> Job:
    """Build a backup job of the host web-1."""
    job = Job(
        id=JOB_ID,
        kind=JobKind.BACKUP,
        state=state,
        host_id=HOST_ID,
        host="web-1",
        repository_id=REPOSITORY_ID,
        repository="nas",
        arguments=BackupArguments(paths=("/etc",)),
        actor_kind=ActorKind.USER,
        actor_id=USER_ID,
        created_at=NOW,
        revision=1,
    )
    return msgspec.structs.replace(job, **changes)


def build_host(name: str = "web-1") -> Host:
    """Build a host."""
    facts = HostFacts(
        hostname=name,
        os="Debian GNU/Linux 12 (bookworm)",
        architecture="x86_64",
        agent_version="0.1.0",
        protocol=SPOKEN_PROTOCOLS,
        restic_version="0.14.0",
    )
    return Host(
        id=HOST_ID,
        name=name,
        labels={"env": "prod"},
        facts=facts,
        public_key_fingerprint="ab" * 32,
        schedule_version=1,
        applied_schedule_version=1,
        enrolled_at=NOW,
        last_seen_at=None,
    )


def build_repository(name: str = "nas") -> Repository:
    """Build a repository."""
    return Repository(
        id=REPOSITORY_ID,
        name=name,
        location="/srv/restic",
        environment_names=(),
        created_at=NOW,
        updated_at=NOW,
        initialized_at=None,
        restic_id=None,
    )


def build_schedule(**changes: Any) -> Schedule:
    """Build the schedule of a nightly backup of the host web-1."""
    schedule = Schedule(
        id=SCHEDULE_ID,
        host_id=HOST_ID,
        host="web-1",
        kind=ScheduleKind.BACKUP,
        cron="30 1 * * *",
        timezone="Europe/London",
        enabled=True,
        repository_id=REPOSITORY_ID,
        repository="nas",
        source_id=SOURCE_ID,
        source="etc",
        catch_up="once",
        catch_up_window=None,
        jitter=0.0,
        start_deadline=None,
        max_duration=None,
        when_unreachable="run",
        next_fire_at=NOW,
        created_at=NOW,
        updated_at=NOW,
        revision=1,
        error=None,
    )
    return msgspec.structs.replace(schedule, **changes)


def build_session() -> NewSession:
    """Build a session of ada."""
    user = User(id=USER_ID, username="ada", created_at=NOW)
    return NewSession(token=TOKEN, expires_at=NOW, user=user)


def build_log_page(*texts: str, first: int = 0, is_complete: bool) -> JobLogPage:
    """Build a stretch of a job's log."""
    lines = tuple(
        NumberedLogLine(attempt=1, seq=first + number, at=NOW, stream="stdout", text=text)
        for number, text in enumerate(texts)
    )
    return JobLogPage(
        lines=lines,
        next_cursor=f"after-{first + len(texts)}",
        state=JobState.SUCCEEDED if is_complete else JobState.RUNNING,
        is_complete=is_complete,
    )


def reply(value: Any, status: int = 200) -> httpx.Response:
    """Answer with a value of the wire."""
    return httpx.Response(
        status,
        content=msgspec.json.encode(value),
        headers={"Content-Type": "application/json"},
    )


def page(*items: Any, next_cursor: str | None = None) -> httpx.Response:
    """Answer with a page of a list."""
    return reply({"items": list(items), "next_cursor": next_cursor})


def refuse(
    status: int,
    type_: ProblemType = ProblemType.INTERNAL,
    *,
    detail: str = "No.",
    errors: tuple[FieldError, ...] = (),
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Answer with a problem document."""
    problem = Problem(type=type_, title="Refused", status=status, detail=detail, errors=errors)
    return httpx.Response(
        status,
        content=msgspec.json.encode(problem),
        headers={"Content-Type": PROBLEM_MEDIA_TYPE, **(headers or {})},
    )


class Script:
    """A transport's answers, one after the other; keeps what was asked and what was slept."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.slept_s: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def build_client(self, token: str | None = TOKEN) -> Client:
        """Build a client that asks this script and sleeps no time."""
        transport = httpx.MockTransport(self)
        return Client(URL, token=token, transport=transport, sleep=self.slept_s.append)
