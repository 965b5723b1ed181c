"""Requests as data: one function for each operation of the REST API. Nothing here waits.

The functions stand in the order of the clients' methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Generic, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import msgspec

from backhaul.errors import refuse
from backhaul.wire.accounts import (
    ApiToken,
    AuditEntry,
    BootstrapRequest,
    CreateApiToken,
    CreateEnrollmentToken,
    CreateUser,
    EnrollmentToken,
    LoginRequest,
    Me,
    NewApiToken,
    NewEnrollmentToken,
    NewSession,
    UpdateUser,
    User,
)
from backhaul.wire.events import EventPage
from backhaul.wire.fleet import (
    Adoption,
    AdoptRepository,
    ChangePassword,
    ContinuePasswordChange,
    CreateRepository,
    CreateSource,
    Health,
    Host,
    HostState,
    Repository,
    RepositorySize,
    Source,
    StartedPasswordChange,
    UpdateHost,
    UpdateRepository,
    UpdateSource,
)
from backhaul.wire.job_batches import CreatedJobs, CreateJobs
from backhaul.wire.jobs import Job, JobLogPage, JobState
from backhaul.wire.kinds import JobKind, JobRequest
from backhaul.wire.pages import Page
from backhaul.wire.schedules import CreateSchedule, Schedule, SchedulePreview, UpdateSchedule
from backhaul.wire.snapshots import FileList, Snapshot
from backhaul.wire.ticks import Tick
from backhaul.wire.utf8 import NO_UTF8, is_utf8

T = TypeVar("T")

PAGE_LIMIT = 500
"""Items per request when a whole list is read; the server allows 1000."""

LONGEST_SEGMENT, LONGEST_QUERY = 1024, 32_768
"""Bytes, as they are sent: far more than a name has, and fewer than httpx and servers take."""

LOOK_HOLD_S = 25.0
"""For a host that looks into a snapshot, as long as the server allows."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request and the type of its answer."""

    method: str
    path: str
    reply: type[T]
    query: tuple[tuple[str, str], ...] = ()
    body: msgspec.Struct | None = dataclasses.field(default=None, repr=False)
    needs_token: bool = True
    idempotency_key: str | None = None
    """Sent along with what creates: the server creates it once, however often it comes."""
    is_repeatable: bool = False
    """Asking twice is asking once, by what the request means."""
    if_revision: int | None = None
    """The server refuses when the thing is no longer at this revision."""
    held_s: float = 0.0
    """How long the server may hold the answer back; comes on top of the timeout."""

    @property
    def is_idempotent(self) -> bool:
        """Whether a repetition, after an answer that was lost, changes nothing more."""
        is_once = self.is_repeatable or self.idempotency_key is not None
        return self.method == "GET" or is_once

    def at(self, cursor: str) -> Call[T]:
        """Build the same call for the page at a cursor."""
        others = tuple((name, value) for name, value in self.query if name != "cursor")
        return dataclasses.replace(self, query=(*others, ("cursor", cursor)))


def get_health() -> Call[Health]:
    return Call(method="GET", path="/health/ready", reply=Health, needs_token=False)


def bootstrap(request: BootstrapRequest) -> Call[NewSession]:
    return Call(
        method="POST", path="/v1/bootstrap", reply=NewSession, body=request, needs_token=False
    )


def log_in(request: LoginRequest) -> Call[NewSession]:
    return Call(method="POST", path="/v1/login", reply=NewSession, body=request, needs_token=False)


def log_out() -> Call[None]:
    return Call(method="POST", path="/v1/logout", reply=type(None))


def get_me() -> Call[Me]:
    return Call(method="GET", path="/v1/me", reply=Me)


def list_users(*, limit: int | None = None) -> Call[Page[User]]:
    return _list("/v1/users", Page[User], limit)


def create_user(request: CreateUser) -> Call[User]:
    return _create("/v1/users", User, request)


def get_user(user: UUID | str) -> Call[User]:
    return Call(method="GET", path=f"/v1/users/{_segment('user', user)}", reply=User)


def update_user(user: UUID | str, request: UpdateUser) -> Call[User]:
    path = f"/v1/users/{_segment('user', user)}"
    return Call(method="PATCH", path=path, reply=User, body=request)


def remove_user(user: UUID | str) -> Call[None]:
    return _delete(f"/v1/users/{_segment('user', user)}")


def list_api_tokens(*, limit: int | None = None) -> Call[Page[ApiToken]]:
    return _list("/v1/api-tokens", Page[ApiToken], limit)


def create_api_token(request: CreateApiToken) -> Call[NewApiToken]:
    return _create("/v1/api-tokens", NewApiToken, request)


def revoke_api_token(token_id: UUID | str) -> Call[None]:
    return _delete(f"/v1/api-tokens/{_segment('token_id', token_id)}")


def list_enrollment_tokens(*, limit: int | None = None) -> Call[Page[EnrollmentToken]]:
    return _list("/v1/enrollment-tokens", Page[EnrollmentToken], limit)


def create_enrollment_token(request: CreateEnrollmentToken) -> Call[NewEnrollmentToken]:
    return _create("/v1/enrollment-tokens", NewEnrollmentToken, request)


def revoke_enrollment_token(token_id: UUID | str) -> Call[None]:
    return _delete(f"/v1/enrollment-tokens/{_segment('token_id', token_id)}")


def list_hosts(
    *,
    state: HostState | str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Call[Page[Host]]:
    filters: list[tuple[str, object]] = [("state", state)]
    filters += [("label", f"{name}={value}") for name, value in (labels or {}).items()]
    return _list("/v1/hosts", Page[Host], limit, filters)


def get_host(host: UUID | str) -> Call[Host]:
    return Call(method="GET", path=f"/v1/hosts/{_segment('host', host)}", reply=Host)


def update_host(host: UUID | str, request: UpdateHost) -> Call[Host]:
    path = f"/v1/hosts/{_segment('host', host)}"
    return Call(method="PATCH", path=path, reply=Host, body=request)


def remove_host(host: UUID | str, *, force: bool = False) -> Call[None]:
    call = _delete(f"/v1/hosts/{_segment('host', host)}")
    return dataclasses.replace(call, query=(("force", "true"),)) if force else call


def list_repositories(*, limit: int | None = None) -> Call[Page[Repository]]:
    return _list("/v1/repositories", Page[Repository], limit)


def create_repository(request: CreateRepository) -> Call[Repository]:
    return _create("/v1/repositories", Repository, request)


def get_repository(repository: UUID | str) -> Call[Repository]:
    path = f"/v1/repositories/{_segment('repository', repository)}"
    return Call(method="GET", path=path, reply=Repository)


def update_repository(repository: UUID | str, request: UpdateRepository) -> Call[Repository]:
    path = f"/v1/repositories/{_segment('repository', repository)}"
    return Call(method="PATCH", path=path, reply=Repository, body=request)


def adopt_repository(repository: UUID | str, request: AdoptRepository) -> Call[Adoption]:
    path = f"/v1/repositories/{_segment('repository', repository)}/adopt"
    return Call(method="POST", path=path, reply=Adoption, body=request)


def list_repository_sizes(
    repository: UUID | str, *, limit: int | None = None
) -> Call[Page[RepositorySize]]:
    path = f"/v1/repositories/{_segment('repository', repository)}/sizes"
    return _list(path, Page[RepositorySize], limit)


def change_repository_password(
    repository: UUID | str, request: ChangePassword
) -> Call[StartedPasswordChange]:
    return _create(_change_path(repository), StartedPasswordChange, request)


def continue_password_change(repository: UUID | str, request: ContinuePasswordChange) -> Call[Job]:
    return _create(f"{_change_path(repository)}/continue", Job, request)


def give_up_password_change(repository: UUID | str) -> Call[None]:
    return _delete(_change_path(repository))


def _change_path(repository: UUID | str) -> str:
    return f"/v1/repositories/{_segment('repository', repository)}/password-change"


def remove_repository(repository: UUID | str) -> Call[None]:
    return _delete(f"/v1/repositories/{_segment('repository', repository)}")


def list_sources(*, limit: int | None = None) -> Call[Page[Source]]:
    return _list("/v1/sources", Page[Source], limit)


def create_source(request: CreateSource) -> Call[Source]:
    return _create("/v1/sources", Source, request)


def get_source(source: UUID | str) -> Call[Source]:
    return Call(method="GET", path=f"/v1/sources/{_segment('source', source)}", reply=Source)


def update_source(source: UUID | str, request: UpdateSource) -> Call[Source]:
    path = f"/v1/sources/{_segment('source', source)}"
    return Call(method="PATCH", path=path, reply=Source, body=request)


def remove_source(source: UUID | str) -> Call[None]:
    return _delete(f"/v1/sources/{_segment('source', source)}")


def list_schedules(
    *, host: UUID | str | None = None, limit: int | None = None
) -> Call[Page[Schedule]]:
    return _list("/v1/schedules", Page[Schedule], limit, [("host", host)])


def create_schedule(host: UUID | str, request: CreateSchedule) -> Call[Schedule]:
    path = f"/v1/hosts/{_segment('host', host)}/schedules"
    return _create(path, Schedule, request)


def get_schedule(schedule_id: UUID | str) -> Call[Schedule]:
    path = f"/v1/schedules/{_segment('schedule_id', schedule_id)}"
    return Call(method="GET", path=path, reply=Schedule)


def update_schedule(
    schedule_id: UUID | str, request: UpdateSchedule, *, if_revision: int | None = None
) -> Call[Schedule]:
    path = f"/v1/schedules/{_segment('schedule_id', schedule_id)}"
    return Call(method="PATCH", path=path, reply=Schedule, body=request, if_revision=if_revision)


def delete_schedule(schedule_id: UUID | str, *, if_revision: int | None = None) -> Call[None]:
    path = f"/v1/schedules/{_segment('schedule_id', schedule_id)}"
    return Call(method="DELETE", path=path, reply=type(None), if_revision=if_revision)


def preview_schedule(
    schedule_id: UUID | str, *, start: datetime | None = None, count: int | None = None
) -> Call[SchedulePreview]:
    path = f"/v1/schedules/{_segment('schedule_id', schedule_id)}/preview"
    query = _query([("from", _moment("start", start)), ("count", count)])
    return Call(method="GET", path=path, reply=SchedulePreview, query=query)


def preview_cron(
    cron: str,
    timezone: str = "UTC",
    *,
    start: datetime | None = None,
    count: int | None = None,
) -> Call[SchedulePreview]:
    moment = _moment("start", start)
    query = _query([("cron", cron), ("timezone", timezone), ("from", moment), ("count", count)])
    return Call(method="GET", path="/v1/schedules/preview", reply=SchedulePreview, query=query)


def list_jobs(  # noqa: PLR0913 (each is a parameter of the query)
    *,
    host: UUID | str | None = None,
    repository: UUID | str | None = None,
    schedule: UUID | str | None = None,
    kind: JobKind | str | None = None,
    states: Iterable[JobState | str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Call[Page[Job]]:
    filters = [("host", host), ("repository", repository), ("schedule", schedule), ("kind", kind)]
    filters += [("state", state) for state in states]
    filters += [("since", _moment("since", since)), ("until", _moment("until", until))]
    return _list("/v1/jobs", Page[Job], limit, filters)


def create_job(request: JobRequest) -> Call[Job]:
    return _create("/v1/jobs", Job, request)


def create_jobs(requests: Iterable[JobRequest]) -> Call[CreatedJobs]:
    return _create("/v1/jobs/batch", CreatedJobs, CreateJobs(jobs=tuple(requests)))


def get_job(
    job_id: UUID | str, *, after_revision: int | None = None, wait_s: float = 0.0
) -> Call[Job]:
    query = _query([("after_revision", after_revision), ("wait", _seconds(wait_s))])
    path = f"/v1/jobs/{_segment('job_id', job_id)}"
    return Call(method="GET", path=path, reply=Job, query=query, held_s=wait_s)


def cancel_job(job_id: UUID | str) -> Call[Job]:
    path = f"/v1/jobs/{_segment('job_id', job_id)}/cancel"
    return Call(method="POST", path=path, reply=Job, is_repeatable=True)


def get_job_log_page(
    job_id: UUID | str,
    *,
    cursor: str | None = None,
    tail: int | None = None,
    wait_s: float = 0.0,
) -> Call[JobLogPage]:
    wait = _seconds(wait_s)
    query = _query([("limit", PAGE_LIMIT), ("wait", wait), ("cursor", cursor), ("tail", tail)])
    path = f"/v1/jobs/{_segment('job_id', job_id)}/log"
    return Call(method="GET", path=path, reply=JobLogPage, query=query, held_s=wait_s)


def list_snapshots(
    *,
    repository: UUID | str | None = None,
    host: UUID | str | None = None,
    limit: int | None = None,
) -> Call[Page[Snapshot]]:
    filters = [("repository", repository), ("host", host)]
    return _list("/v1/snapshots", Page[Snapshot], limit, filters)


def list_snapshot_files(
    repository: UUID | str,
    snapshot: str,
    path: str = "/",
    *,
    recursive: bool = False,
    host: UUID | str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[FileList]:
    asked = [("path", path), ("recursive", "true" if recursive else None)]
    return _look(repository, snapshot, "files", [*asked, *_page_of(host, limit, cursor)])


def find_snapshot_files(
    repository: UUID | str,
    snapshot: str,
    pattern: str,
    *,
    host: UUID | str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[FileList]:
    asked = [("pattern", pattern)]
    return _look(repository, snapshot, "find", [*asked, *_page_of(host, limit, cursor)])


def get_event_page(
    *,
    kinds: Iterable[str] = (),
    host: UUID | str | None = None,
    cursor: str | None = None,
    tail: int | None = None,
    limit: int | None = None,
    wait_s: float = 0.0,
) -> Call[EventPage]:
    pairs: list[tuple[str, object]] = [("kind", kind) for kind in kinds]
    pairs += [("host", host), ("cursor", cursor), ("tail", tail if cursor is None else None)]
    pairs += [("limit", PAGE_LIMIT if limit is None else max(1, min(limit, PAGE_LIMIT)))]
    query = _query([*pairs, ("wait", _seconds(wait_s))])
    return Call(method="GET", path="/v1/events", reply=EventPage, query=query, held_s=wait_s)


def tick() -> Call[Tick]:
    return Call(method="POST", path="/v1/tick", reply=Tick, is_repeatable=True)


def list_audit_entries(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Call[Page[AuditEntry]]:
    filters = [("since", _moment("since", since)), ("until", _moment("until", until))]
    return _list("/v1/audit", Page[AuditEntry], limit, filters)


def _list(
    path: str,
    reply: type[Page[T]],
    limit: int | None,
    filters: Iterable[tuple[str, object]] = (),
) -> Call[Page[T]]:
    page_limit = PAGE_LIMIT if limit is None else max(1, min(limit, PAGE_LIMIT))
    query = _query([*filters, ("limit", page_limit)])
    return Call(method="GET", path=path, reply=reply, query=query)


def _look(
    repository: UUID | str, snapshot: str, what: str, asked: Iterable[tuple[str, object]]
) -> Call[FileList]:
    """Build a call that a host answers: it is held until the host has looked."""
    place = f"{_segment('repository', repository)}/snapshots/{_segment('snapshot', snapshot)}"
    return Call(
        method="GET",
        path=f"/v1/repositories/{place}/{what}",
        reply=FileList,
        query=_query([*asked, ("wait", _seconds(LOOK_HOLD_S))]),
        held_s=LOOK_HOLD_S,
    )


def _page_of(
    host: UUID | str | None, limit: int | None, cursor: str | None
) -> list[tuple[str, object]]:
    return [("host", host), ("limit", limit), ("cursor", cursor)]


def _create(path: str, reply: type[T], body: msgspec.Struct) -> Call[T]:
    key = str(uuid4())
    return Call(method="POST", path=path, reply=reply, body=body, idempotency_key=key)


def _delete(path: str) -> Call[None]:
    return Call(method="DELETE", path=path, reply=type(None))


def _query(pairs: Iterable[tuple[str, object]]) -> tuple[tuple[str, str], ...]:
    """Build a query of what is not None.

    Raises:
        InvalidRequestError: a text in it is not UTF-8, or it is too long.
    """
    query = tuple((name, str(value)) for name, value in pairs if value is not None)
    lengths: dict[str, int] = {}
    for name, value in query:
        lengths[name] = lengths.get(name, 0) + len(_quote(name, value))
    if sum(lengths.values()) > LONGEST_QUERY:
        raise refuse(max(lengths, key=lengths.__getitem__), "is too long")
    return query


def _seconds(wait_s: float) -> str | None:
    return f"{wait_s:g}" if wait_s else None


def _moment(field: str, value: datetime | None) -> str | None:
    """Write a moment for a query.

    Raises:
        InvalidRequestError: it has no time zone, so that it could be any of many moments.
    """
    if value is not None and value.utcoffset() is None:
        raise refuse(field, "needs a time zone, like datetime.now(UTC) has")
    return None if value is None else value.isoformat()


def _segment(field: str, value: UUID | str) -> str:
    """Quote a name or an id for a path.

    Raises:
        InvalidRequestError: it would name another path than it seems to: empty, dots, or with a
            slash, which servers take for the end of a segment even when it is quoted. Or it is not
            UTF-8, or too long.
    """
    text = str(value)
    quoted = _quote(field, text)
    if len(quoted) > LONGEST_SEGMENT:
        raise refuse(field, "is too long for a name or an id")
    if text in {"", ".", ".."} or "/" in text:
        raise refuse(field, f"{text!r} is neither a name nor an id")
    return quoted


def _quote(field: str, text: str) -> str:
    if not is_utf8(text):
        raise refuse(field, NO_UTF8)
    return quote(text, safe="")
