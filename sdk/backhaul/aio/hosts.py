"""Hosts: the machines of the fleet, and what they are told to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import UNSET

from backhaul import _requests
from backhaul._fields import HostFields, RepositoryFields, SourceFields
from backhaul.aio.collections import AsyncKeyed
from backhaul.aio.jobs import AsyncJob, AsyncJobs
from backhaul.aio.schedules import AsyncSchedules
from backhaul.aio.snapshots import AsyncSnapshots
from backhaul.wire.fleet import Host as HostData
from backhaul.wire.fleet import HostState, UpdateHost
from backhaul.wire.job_batches import MAX_JOBS_AT_ONCE
from backhaul.wire.kinds import Compression, IoClass, JobKind

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet


class AsyncHost(HostFields):
    """A machine that an agent runs on."""

    def __init__(self, fleet: AsyncFleet, data: HostData) -> None:
        super().__init__(data)
        self._fleet = fleet

    async def refresh(self) -> AsyncHost:
        """Ask the server how it stands now."""
        self.data = await self._fleet.client.get_host(self.id)
        return self

    @property
    def jobs(self) -> AsyncJobs:
        """Its jobs, newest first."""
        return AsyncJobs(self._fleet, host=self.name)

    @property
    def schedules(self) -> AsyncSchedules:
        """Its schedules, oldest first."""
        return AsyncSchedules(self._fleet, host=self.name)

    @property
    def snapshots(self) -> AsyncSnapshots:
        """The snapshots that its jobs made, newest first."""
        return AsyncSnapshots(self._fleet, host=self.name)

    async def backup(  # noqa: PLR0913 (what restic can be told of a backup)
        self,
        paths: Iterable[str] = (),
        *,
        source: SourceFields | UUID | str | None = None,
        repository: RepositoryFields | UUID | str | None = None,
        excludes: Iterable[str] = (),
        tags: Iterable[str] = (),
        one_file_system: bool = False,
        exclude_files: Iterable[str] = (),
        exclude_caches: bool = False,
        exclude_larger_than: str | None = None,
        limit_upload: int | None = None,
        limit_download: int | None = None,
        compression: Compression | None = None,
        nice: int | None = None,
        ionice: IoClass | None = None,
        dump: str | None = None,
        dry_run: bool = False,
    ) -> AsyncJob:
        """Back up a source, paths, or a dump of the host, now. The repository may be left out if
        there is one.

        Limits are in KiB a second. `dump` names a command in the settings file of the agent. A dry
        run tells what a backup would do.

        Raises:
            InvalidRequestError: it names several of them or none, or there is no such thing.
        """
        return await self.run(
            JobKind.BACKUP,
            repository=repository,
            paths=_requests.list_texts("paths", paths),
            source=_requests.find_key("source", source),
            excludes=_requests.list_texts("excludes", excludes),
            tags=_requests.list_texts("tags", tags),
            one_file_system=one_file_system,
            exclude_files=_requests.list_texts("exclude_files", exclude_files),
            exclude_caches=exclude_caches,
            exclude_larger_than=exclude_larger_than,
            limit_upload=limit_upload,
            limit_download=limit_download,
            compression=compression,
            nice=nice,
            ionice=ionice,
            dump=dump,
            dry_run=dry_run,
        )

    async def run(
        self,
        kind: JobKind | str,
        *,
        repository: RepositoryFields | UUID | str | None = None,
        **arguments: Any,
    ) -> AsyncJob:
        """Run a job of any kind here, now: `host.run("check", read_data_subset="1/7")`.

        The repository may be left out if there is only one.

        Raises:
            InvalidRequestError: the kind or an argument is not acceptable.
        """
        request = _requests.build_job(
            kind,
            host=self.name,
            repository=await self._fleet.repositories.choose(repository),
            arguments=arguments,
        )
        return await self._fleet.jobs.create(request)

    async def update(
        self, *, name: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncHost:
        """Rename it, or replace its labels. What is left out stays."""
        request = UpdateHost(
            name=UNSET if name is None else name, labels=UNSET if labels is None else labels
        )
        self.data = await self._fleet.client.update_host(self.id, request)
        return self

    async def remove(self, *, force: bool = False) -> None:
        """Remove it: its agent is told to stop. What it backed up stays where it is.

        Its queued jobs are cancelled. Jobs that it has begun are in the way, unless `force` counts
        them as lost: for a host that is gone for good.
        """
        await self._fleet.client.remove_host(self.id, force=force)


class AsyncHosts(AsyncKeyed[AsyncHost]):
    """The hosts by name: iterate, or `fleet.hosts["web-1"]`."""

    def __init__(self, fleet: AsyncFleet, **filters: Any) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> AsyncIterator[HostData]:
            return fleet.client.list_hosts(**filters, limit=limit)

        super().__init__(fetch, self.wrap, noun="hosts", filters=filters)

    def wrap(self, data: HostData) -> AsyncHost:
        """Make an object of what the API said of a host."""
        return AsyncHost(self._fleet, data)

    def list(
        self,
        *,
        state: HostState | str | None = None,
        labels: dict[str, str] | None = None,
    ) -> AsyncHosts:
        """Narrow down to those in a state, or with all of these labels. Asks nothing yet."""
        filters = {
            "state": state or self._filters.get("state"),
            "labels": {**self._filters.get("labels", {}), **(labels or {})},
        }
        return AsyncHosts(self._fleet, **filters)

    async def run(
        self,
        kind: JobKind | str,
        *,
        repository: RepositoryFields | UUID | str | None = None,
        **arguments: Any,
    ) -> tuple[UUID, ...]:
        """Run a job of any kind on each of them, now: `fleet.hosts.list(state="online").run(…)`.

        10,000 at a time are made, all of them or none. The repository may be left out if there is
        only one.

        Returns:
            The jobs' ids, in the order of the hosts.

        Raises:
            InvalidRequestError: the kind or an argument is not acceptable.
        """
        name = await self._fleet.repositories.choose(repository)
        requests = [
            _requests.build_job(kind, host=host.name, repository=name, arguments=arguments)
            async for host in self
        ]
        made: list[UUID] = []
        for begin in range(0, len(requests), MAX_JOBS_AT_ONCE):
            some = requests[begin : begin + MAX_JOBS_AT_ONCE]
            made += await self._fleet.client.create_jobs(some)
        return tuple(made)

    async def get(self, name: UUID | str, /) -> AsyncHost:
        """Get a host by its name or id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(await self._fleet.client.get_host(name))
