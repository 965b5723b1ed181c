"""The client for asyncio: the methods of `Client`, in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from uuid import UUID

import httpx

from backhaul import _calls, _sending
from backhaul._calls import Call
from backhaul._watching import EventWatch, JobWatch, LogWatch
from backhaul.client import Client
from backhaul.errors import BackhaulError
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
from backhaul.wire.events import Event
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
from backhaul.wire.jobs import Job, JobState, NumberedLogLine
from backhaul.wire.kinds import JobKind, JobRequest
from backhaul.wire.pages import Page
from backhaul.wire.schedules import CreateSchedule, Schedule, SchedulePreview, UpdateSchedule
from backhaul.wire.snapshots import FileList, Snapshot
from backhaul.wire.ticks import Tick

T = TypeVar("T")


class AsyncClient:
    """A connection to a Backhaul API for one event loop.

    Proxies and CA files of the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE) are honoured.
    What reads or creates is repeated a few times when no answer comes or the server asks to come
    back later: what creates carries an Idempotency-Key, and creates once. The rest is sent once.
    `timeout` is in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        ca_file: str | Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.url = _sending.check_url(url)
        self._token = None if token is None else _sending.check_token(token)
        self._timeout_s = timeout
        self._ca_file = ca_file
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            verify=_sending.build_tls_context(ca_file), limits=_sending.LIMITS, transport=transport
        )

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def get_health(self) -> Health:
        """Ask whether the instance should be sent requests.

        Raises:
            ServerFailedError: it should not, for the reason that the error names.
        """
        return await self._send(_calls.get_health())

    async def bootstrap(self, *, setup_token: str, username: str, password: str) -> NewSession:
        """Create the first operator and sign in as it: this client uses the session from now on.

        Raises:
            ConflictError: there is an operator already.
        """
        request = BootstrapRequest(setup_token=setup_token, username=username, password=password)
        return self._adopt(await self._send(_calls.bootstrap(request)))

    async def log_in(self, *, username: str, password: str) -> NewSession:
        """Sign in: this client uses the new session from now on.

        Raises:
            NotAuthenticatedError: the user or the password is wrong.
        """
        request = LoginRequest(username=username, password=password)
        return self._adopt(await self._send(_calls.log_in(request)))

    async def log_out(self) -> None:
        """End the session at the server."""
        await self._send(_calls.log_out())

    async def get_me(self) -> Me:
        """Tell who the token belongs to."""
        return await self._send(_calls.get_me())

    def list_users(self, *, limit: int | None = None) -> AsyncIterator[User]:
        """List the operators, oldest first, page by page as it is iterated; at most `limit`."""
        return self._iterate(_calls.list_users(limit=limit), limit)

    async def create_user(self, request: CreateUser) -> User:
        """Create an operator.

        Raises:
            ConflictError: the username is taken.
        """
        return await self._send(_calls.create_user(request))

    async def get_user(self, user: UUID | str) -> User:
        """Get an operator by username or id."""
        return await self._send(_calls.get_user(user))

    async def update_user(self, user: UUID | str, request: UpdateUser) -> User:
        """Give an operator a new password, or shut one out.

        A new password ends the sessions of the operator, but for the one that asks.

        Raises:
            ConflictError: it is the last operator who can sign in.
        """
        return await self._send(_calls.update_user(user, request))

    async def remove_user(self, user: UUID | str) -> None:
        """Remove an operator, with the tokens. Hosts that joined with one of them stay.

        Raises:
            ConflictError: it is the last operator who can sign in.
        """
        await self._send(_calls.remove_user(user))

    def list_api_tokens(self, *, limit: int | None = None) -> AsyncIterator[ApiToken]:
        """List the tokens for scripts, page by page as it is iterated; at most `limit` of them."""
        return self._iterate(_calls.list_api_tokens(limit=limit), limit)

    async def create_api_token(self, request: CreateApiToken) -> NewApiToken:
        """Make a token for scripts. Its secret is shown this once."""
        return await self._send(_calls.create_api_token(request))

    async def revoke_api_token(self, token_id: UUID | str) -> None:
        """End a token for scripts."""
        await self._send(_calls.revoke_api_token(token_id))

    def list_enrollment_tokens(self, *, limit: int | None = None) -> AsyncIterator[EnrollmentToken]:
        """List the enrollment tokens, page by page as it is iterated; at most `limit` of them."""
        return self._iterate(_calls.list_enrollment_tokens(limit=limit), limit)

    async def create_enrollment_token(
        self, request: CreateEnrollmentToken | None = None
    ) -> NewEnrollmentToken:
        """Make a token with which hosts can join: by default one host, within an hour."""
        request = request or CreateEnrollmentToken()
        return await self._send(_calls.create_enrollment_token(request))

    async def revoke_enrollment_token(self, token_id: UUID | str) -> None:
        """End an enrollment token. Hosts that joined with it stay."""
        await self._send(_calls.revoke_enrollment_token(token_id))

    def list_hosts(
        self,
        *,
        state: HostState | str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Host]:
        """List the hosts, page by page as it is iterated; at most `limit` of them.

        With `labels`, those that have all of these.
        """
        return self._iterate(_calls.list_hosts(state=state, labels=labels, limit=limit), limit)

    async def get_host(self, host: UUID | str) -> Host:
        """Get a host by its name or id."""
        return await self._send(_calls.get_host(host))

    async def update_host(self, host: UUID | str, request: UpdateHost) -> Host:
        """Rename or relabel a host."""
        return await self._send(_calls.update_host(host, request))

    async def remove_host(self, host: UUID | str, *, force: bool = False) -> None:
        """Remove a host: its agent is told to stop. What it backed up stays where it is.

        Its queued jobs are cancelled. Jobs that it has begun are in the way, unless `force` counts
        them as lost: for a host that is gone for good.
        """
        await self._send(_calls.remove_host(host, force=force))

    def list_repositories(self, *, limit: int | None = None) -> AsyncIterator[Repository]:
        """List the repositories, page by page as it is iterated; at most `limit` of them."""
        return self._iterate(_calls.list_repositories(limit=limit), limit)

    async def create_repository(self, request: CreateRepository) -> Repository:
        """Record a repository. An `init` job creates it at its location."""
        return await self._send(_calls.create_repository(request))

    async def get_repository(self, repository: UUID | str) -> Repository:
        """Get a repository by its name or id."""
        return await self._send(_calls.get_repository(repository))

    async def update_repository(
        self, repository: UUID | str, request: UpdateRepository
    ) -> Repository:
        """Change the record of a repository."""
        return await self._send(_calls.update_repository(repository, request))

    async def adopt_repository(self, repository: UUID | str, request: AdoptRepository) -> Adoption:
        """Vouch for snapshots that no job of Backhaul made, and note that the repository exists.

        A `snapshots` job has to have listed it. Can be repeated.

        Raises:
            ConflictError: none has.
        """
        return await self._send(_calls.adopt_repository(repository, request))

    def list_repository_sizes(
        self, repository: UUID | str, *, limit: int | None = None
    ) -> AsyncIterator[RepositorySize]:
        """List what was measured of a repository, newest first, page by page; at most `limit`."""
        return self._iterate(_calls.list_repository_sizes(repository, limit=limit), limit)

    async def change_repository_password(
        self, repository: UUID | str, request: ChangePassword
    ) -> StartedPasswordChange:
        """Give a repository a new password; `password_change` of it shows how far that is.

        Raises:
            ConflictError: another change is under way.
        """
        return await self._send(_calls.change_repository_password(repository, request))

    async def continue_password_change(
        self, repository: UUID | str, request: ContinuePasswordChange | None = None
    ) -> Job:
        """Run the current step of a password change again, or without waiting for hosts.

        Raises:
            ConflictError: no change is under way, its job is not over, or hosts are waited for.
        """
        request = request or ContinuePasswordChange()
        return await self._send(_calls.continue_password_change(repository, request))

    async def give_up_password_change(self, repository: UUID | str) -> None:
        """Leave the password as it is, and forget the other one. Keys that were added stay.

        Raises:
            ConflictError: no change is under way, or its job is not over.
        """
        await self._send(_calls.give_up_password_change(repository))

    async def remove_repository(self, repository: UUID | str) -> None:
        """Forget the record of a repository and its password. Its files are not touched."""
        await self._send(_calls.remove_repository(repository))

    def list_sources(self, *, limit: int | None = None) -> AsyncIterator[Source]:
        """List the sources, page by page as it is iterated; at most `limit` of them."""
        return self._iterate(_calls.list_sources(limit=limit), limit)

    async def create_source(self, request: CreateSource) -> Source:
        """Name a set of paths to back up."""
        return await self._send(_calls.create_source(request))

    async def get_source(self, source: UUID | str) -> Source:
        """Get a source by its name or id."""
        return await self._send(_calls.get_source(source))

    async def update_source(self, source: UUID | str, request: UpdateSource) -> Source:
        """Change a source."""
        return await self._send(_calls.update_source(source, request))

    async def remove_source(self, source: UUID | str) -> None:
        """Remove a source. Its snapshots stay."""
        await self._send(_calls.remove_source(source))

    def list_schedules(
        self, *, host: UUID | str | None = None, limit: int | None = None
    ) -> AsyncIterator[Schedule]:
        """List the schedules, page by page as it is iterated; at most `limit` of them."""
        return self._iterate(_calls.list_schedules(host=host, limit=limit), limit)

    async def create_schedule(self, host: UUID | str, request: CreateSchedule) -> Schedule:
        """Put a schedule on a host. An agent that is there follows it at once."""
        return await self._send(_calls.create_schedule(host, request))

    async def get_schedule(self, schedule_id: UUID | str) -> Schedule:
        """Get a schedule."""
        return await self._send(_calls.get_schedule(schedule_id))

    async def update_schedule(
        self, schedule_id: UUID | str, request: UpdateSchedule, *, if_revision: int | None = None
    ) -> Schedule:
        """Change a schedule; with `if_revision`, only as long as it is at that revision.

        Raises:
            PreconditionFailedError: somebody else changed it since that revision.
        """
        call = _calls.update_schedule(schedule_id, request, if_revision=if_revision)
        return await self._send(call)

    async def delete_schedule(
        self, schedule_id: UUID | str, *, if_revision: int | None = None
    ) -> None:
        """Delete a schedule; with `if_revision`, only as long as it is at that revision.

        Raises:
            PreconditionFailedError: somebody else changed it since that revision.
        """
        await self._send(_calls.delete_schedule(schedule_id, if_revision=if_revision))

    async def preview_schedule(
        self,
        schedule_id: UUID | str,
        *,
        start: datetime | None = None,
        count: int | None = None,
    ) -> SchedulePreview:
        """List the next `count` slots of a schedule from `start` on (by default 10, from now).

        Exact across changes of the clock; a slot at `start` counts; jitter is not in them.
        """
        return await self._send(_calls.preview_schedule(schedule_id, start=start, count=count))

    async def preview_cron(
        self,
        cron: str,
        timezone: str = "UTC",
        *,
        start: datetime | None = None,
        count: int | None = None,
    ) -> SchedulePreview:
        """List when a cron expression fires in an IANA time zone, as `preview_schedule` does.

        Raises:
            InvalidRequestError: the expression or the zone is not acceptable, or it has an `H`,
                which only a schedule gives a number.
        """
        return await self._send(_calls.preview_cron(cron, timezone, start=start, count=count))

    def list_jobs(  # noqa: PLR0913 (each is a parameter of the query)
        self,
        *,
        host: UUID | str | None = None,
        repository: UUID | str | None = None,
        schedule: UUID | str | None = None,
        kind: JobKind | str | None = None,
        states: Iterable[JobState | str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Job]:
        """List the jobs, newest first, page by page as it is iterated; at most `limit` of them.

        `since` (included) and `until` (not) are about when a job was made, with a time zone.
        """
        call = _calls.list_jobs(
            host=host,
            repository=repository,
            schedule=schedule,
            kind=kind,
            states=states,
            since=since,
            until=until,
            limit=limit,
        )
        return self._iterate(call, limit)

    async def create_job(self, request: JobRequest) -> Job:
        """Queue a job; the host's agent takes it up at once, or when it is back."""
        return await self._send(_calls.create_job(request))

    async def create_jobs(self, requests: Iterable[JobRequest]) -> tuple[UUID, ...]:
        """Queue up to 10,000 jobs, on as many hosts: all of them, or none if one is refused.

        Returns:
            Their ids, in the order of the requests.
        """
        return (await self._send(_calls.create_jobs(requests))).ids

    async def get_job(self, job_id: UUID | str) -> Job:
        """Get a job as it is now."""
        return await self._send(_calls.get_job(job_id))

    async def cancel_job(self, job_id: UUID | str) -> Job:
        """Cancel a job: at once while it waits, else the host is asked to end it.

        The job that comes back is cancelled, or has `cancel_requested_at`. Asking again changes
        nothing.

        Raises:
            ConflictError: the job is over.
        """
        return await self._send(_calls.cancel_job(job_id))

    async def follow_job(
        self, job_id: UUID | str, *, timeout: float | None = None
    ) -> AsyncIterator[Job]:
        """Give the job as it is now, then each change as it happens, until the job has ended.

        `timeout` is in whole seconds. The last one given is the job as it ended; a lost job counts
        as ended.

        Raises:
            JobNotFinishedError: the job is still active after `timeout`.
        """
        watch = JobWatch(job_id, timeout_s=timeout)
        while (call := watch.next_call()) is not None:
            if watch.accept(await self._send(call)) and watch.job is not None:
                yield watch.job
            await self._pause(watch.pause_s)

    async def wait_for_job(
        self,
        job_id: UUID | str,
        *,
        timeout: float | None = None,
        raise_on_failure: bool = False,
    ) -> Job:
        """Wait until a job has ended, for at most `timeout` seconds.

        Raises:
            JobNotFinishedError: the job is still active after `timeout`.
            JobFailedError: it ended otherwise than succeeded, and `raise_on_failure` is set.
        """
        watch = JobWatch(job_id, timeout_s=timeout)
        while (call := watch.next_call()) is not None:
            watch.accept(await self._send(call))
            await self._pause(watch.pause_s)
        return watch.take_outcome(raise_on_failure=raise_on_failure)

    def get_job_log(
        self, job_id: UUID | str, *, tail: int | None = None
    ) -> AsyncIterator[NumberedLogLine]:
        """Give the log of a job as far as it has come, oldest line first; or the last `tail`.

        Raises:
            NotFoundError: there is no such job, or the server keeps its log no more.
        """
        return self._iterate_log(LogWatch(job_id, is_followed=False, tail=tail))

    def follow_job_log(
        self, job_id: UUID | str, *, tail: int | None = None
    ) -> AsyncIterator[NumberedLogLine]:
        """Give the log of a job, and new lines as they come, to its end.

        It begins with the first line, or with the last `tail` of those that are there. Raises as
        `get_job_log` does.
        """
        return self._iterate_log(LogWatch(job_id, is_followed=True, tail=tail))

    def list_snapshots(
        self,
        *,
        repository: UUID | str | None = None,
        host: UUID | str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Snapshot]:
        """List the snapshots, newest first, page by page as it is iterated; at most `limit`."""
        call = _calls.list_snapshots(repository=repository, host=host, limit=limit)
        return self._iterate(call, limit)

    async def list_snapshot_files(
        self,
        repository: UUID | str,
        snapshot: str,
        path: str = "/",
        *,
        recursive: bool = False,
        host: UUID | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> FileList:
        """List a folder of a snapshot: one page, of at most 1000 entries.

        `host` looks into the repository for it; by default, the one that made the snapshot.
        `snapshot` may be the first digits of an id. With `next_cursor` as `cursor`, the next page.

        Raises:
            NotFoundError: there is no such snapshot, or path in it.
            ConflictError: the host's policy forbids it, or restic failed there.
            ServerFailedError: the host is away, or did not answer in time.
        """
        call = _calls.list_snapshot_files(
            repository,
            snapshot,
            path,
            recursive=recursive,
            host=host,
            limit=limit,
            cursor=cursor,
        )
        return await self._send(call)

    async def find_snapshot_files(
        self,
        repository: UUID | str,
        snapshot: str,
        pattern: str,
        *,
        host: UUID | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> FileList:
        """Search a snapshot for a pattern of `restic find`: one page, as `list_snapshot_files`.

        Raises as `list_snapshot_files` does.
        """
        call = _calls.find_snapshot_files(
            repository, snapshot, pattern, host=host, limit=limit, cursor=cursor
        )
        return await self._send(call)

    def list_events(
        self,
        *,
        kinds: Iterable[str] = (),
        host: UUID | str | None = None,
        tail: int | None = None,
    ) -> AsyncIterator[Event]:
        """List the events of the last 30 days, oldest first, page by page as it is iterated.

        `tail` begins so many before the newest. A kind is like `job.failed`, or `job` for all of
        jobs.
        """
        return self._iterate_events(
            EventWatch(kinds=kinds, host=host, tail=tail, is_followed=False)
        )

    def follow_events(
        self,
        *,
        kinds: Iterable[str] = (),
        host: UUID | str | None = None,
        tail: int = 0,
    ) -> AsyncIterator[Event]:
        """Give events as they happen, each within a second, after the last `tail` that are there.

        It never ends. One request is open at a time, for 20 seconds.
        """
        return self._iterate_events(EventWatch(kinds=kinds, host=host, tail=tail, is_followed=True))

    async def tick(self) -> Tick:
        """Have the server do a bounded part of what time has made necessary: end overdue jobs,
        delete what has expired. `backhaul serve` does so by itself; elsewhere, a timer asks for it.
        """
        return await self._send(_calls.tick())

    def list_audit_entries(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AuditEntry]:
        """List the audit log, newest first, page by page as it is iterated; at most `limit`.

        `since` is included, `until` is not.
        """
        call = _calls.list_audit_entries(since=since, until=until, limit=limit)
        return self._iterate(call, limit)

    def copy_to_wait(self) -> Client:
        """Make a client of the same server and token that waits, for a thread of its own."""
        return Client(self.url, token=self._token, timeout=self._timeout_s, ca_file=self._ca_file)

    async def send(self, call: Call[T]) -> T:
        """Send one request of `backhaul._calls`, and repeat it as all are."""
        return await self._send(call)

    async def _send(self, call: Call[T]) -> T:
        retries = _sending.choose_retries(call)
        attempt = 1
        while True:
            try:
                return await self._send_once(call)
            except BackhaulError as error:
                delay_s = retries.delay_after(call, error, attempt=attempt)
                if delay_s is None:
                    raise
            await self._pause(delay_s)
            attempt += 1

    async def _send_once(self, call: Call[T]) -> T:
        try:
            response = await self._http.request(
                call.method,
                self.url + call.path,
                params=call.query,
                content=_sending.build_body(call),
                headers=_sending.build_headers(call, self._token),
                timeout=_sending.build_timeout(call, self._timeout_s),
            )
        except httpx.HTTPError as error:
            raise _sending.translate(error, self.url) from error
        return _sending.read_reply(call, response, self.url)

    async def _iterate(self, call: Call[Page[T]], limit: int | None) -> AsyncIterator[T]:
        left = limit
        while left is None or left > 0:
            page = await self._send(call)
            for item in page.items[:left]:
                yield item
            if page.next_cursor is None:
                return
            left = None if left is None else left - len(page.items)
            call = call.at(page.next_cursor)

    async def _iterate_log(self, watch: LogWatch) -> AsyncIterator[NumberedLogLine]:
        while (call := watch.next_call()) is not None:
            page = await self._send(call)
            watch.accept(page)
            for line in page.lines:
                yield line
            await self._pause(watch.pause_s)

    async def _iterate_events(self, watch: EventWatch) -> AsyncIterator[Event]:
        while (call := watch.next_call()) is not None:
            page = await self._send(call)
            watch.accept(page)
            for event in page.items:
                yield event
            await self._pause(watch.pause_s)

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await self._sleep(seconds)

    def _adopt(self, session: NewSession) -> NewSession:
        self._token = session.token
        return session
