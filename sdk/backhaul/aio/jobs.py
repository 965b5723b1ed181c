"""Jobs: what runs, ran or waits on the hosts of the fleet."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backhaul import _live, _moments, _requests
from backhaul._fields import HostFields, JobFields, RepositoryFields, ScheduleFields
from backhaul.aio.collections import AsyncKeyed
from backhaul.errors import JobFailedError, NotFoundError
from backhaul.wire.jobs import Job as JobData
from backhaul.wire.jobs import JobState, NumberedLogLine
from backhaul.wire.kinds import JobKind, JobRequest

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet

TAIL_LINES = 20
"""How much of its log a failed job is shown with."""


class AsyncJob(JobFields):
    """One run of restic on one host."""

    def __init__(self, fleet: AsyncFleet, data: JobData) -> None:
        super().__init__(data)
        self._fleet = fleet

    async def refresh(self) -> AsyncJob:
        """Ask the server how it stands now."""
        self.data = await self._fleet.client.get_job(self.id)
        return self

    async def cancel(self) -> AsyncJob:
        """Cancel it: at once while it waits, else its host is asked to end it, for `wait` to tell.

        Raises:
            ConflictError: it is over.
        """
        self.data = await self._fleet.client.cancel_job(self.id)
        return self

    async def follow(self, timeout: float | None = None) -> AsyncIterator[AsyncJob]:
        """Give the job as it is now, then again after each change, until it has ended.

        Raises:
            JobNotFinishedError: it is still active after `timeout` seconds.
        """
        async for data in self._fleet.client.follow_job(self.id, timeout=timeout):
            self.data = data
            yield self

    async def wait(
        self,
        timeout: float | None = None,
        *,
        raise_on_failure: bool = False,
        quiet: bool = False,
    ) -> AsyncJob:
        """Wait until it has ended; in a notebook, with a progress bar that ends as a summary.

        Interrupting the wait leaves the job running. `quiet` shows nothing.

        Raises:
            JobNotFinishedError: it is still active after `timeout` seconds.
            JobFailedError: it ended otherwise than succeeded, and `raise_on_failure` is set; with
                the last lines of its log.
        """
        with _live.show_job(self.data, is_quiet=quiet) as shown:
            async for job in self.follow(timeout):
                shown.update(job.data)
        if raise_on_failure and self.state is not JobState.SUCCEEDED:
            last_lines: tuple[str, ...] = ()
            with suppress(NotFoundError):  # it may have been deleted since
                last_lines = await self.tail()
            raise JobFailedError(self.data, last_lines=last_lines)
        return self

    async def log(
        self, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[NumberedLogLine]:
        """Give its log from the first line, or the last `tail` lines of it.

        With `follow`, also the lines that come, to the end. Interrupting leaves the job running.

        Raises:
            NotFoundError: the server keeps logs for a limited time, and this one no more.
        """
        client = self._fleet.client
        if not follow:
            async for line in client.get_job_log(self.id, tail=tail):
                yield line
            return
        with _live.note_interrupt(self.data):
            async for line in client.follow_job_log(self.id, tail=tail):
                yield line

    async def tail(self, count: int = TAIL_LINES) -> tuple[str, ...]:
        """Give the last lines of its log as text. Raises as `log` does."""
        # The oldest servers know no tail and give the whole log.
        kept: deque[str] = deque(maxlen=count)
        async for line in self._fleet.client.get_job_log(self.id, tail=count):
            kept.append(line.text)
        return tuple(kept)


class AsyncJobs(AsyncKeyed[AsyncJob]):
    """Jobs, newest first. Iterate, or narrow down with `list`."""

    def __init__(self, fleet: AsyncFleet, **filters: Any) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> AsyncIterator[JobData]:
            return fleet.client.list_jobs(**filters, limit=limit)

        super().__init__(fetch, self.wrap, noun="jobs", filters=filters)

    def wrap(self, data: JobData) -> AsyncJob:
        """Make an object of what the API said of a job."""
        return AsyncJob(self._fleet, data)

    def list(
        self,
        *,
        state: JobState | str | Iterable[JobState | str] | None = None,
        kind: JobKind | str | None = None,
        host: HostFields | UUID | str | None = None,
        repository: RepositoryFields | UUID | str | None = None,
        schedule: ScheduleFields | UUID | str | None = None,
        since: datetime | timedelta | str | None = None,
        until: datetime | timedelta | str | None = None,
    ) -> AsyncJobs:
        """Narrow down. Asks nothing yet: iterate over what this gives.

        `state` takes one or several. `since` and `until` are about when a job was made: a moment
        with a time zone, or how long ago, as a timedelta or like `7d`, `12h`, `30m`.

        Raises:
            InvalidRequestError: `since` or `until` is none of these.
        """
        filters: dict[str, Any] = {
            **self._filters,
            "host": _requests.find_key("host", host) or self._filters.get("host"),
            "repository": _requests.find_key("repository", repository)
            or self._filters.get("repository"),
            "schedule": _requests.find_key("schedule", schedule) or self._filters.get("schedule"),
            "kind": kind or self._filters.get("kind"),
            "states": _list_states(state) or self._filters.get("states", ()),
            "since": _moments.find_moment("since", since) or self._filters.get("since"),
            "until": _moments.find_moment("until", until) or self._filters.get("until"),
        }
        return AsyncJobs(self._fleet, **filters)

    async def get(self, job_id: UUID | str, /) -> AsyncJob:
        """Get one by its id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(await self._fleet.client.get_job(job_id))

    async def create(self, request: JobRequest) -> AsyncJob:
        """Queue a job as a request describes it; hosts have shorter words for it."""
        return self.wrap(await self._fleet.client.create_job(request))


def _list_states(state: JobState | str | Iterable[JobState | str] | None) -> tuple[str, ...]:
    if state is None:
        return ()
    return (str(state),) if isinstance(state, str) else tuple(str(one) for one in state)
