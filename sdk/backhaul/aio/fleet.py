"""The fleet: where everything begins.

import backhaul

async with backhaul.aconnect() as fleet:
    host = await fleet.hosts["web-1"]
    job = await host.backup(source="etc")
    await job.wait(raise_on_failure=True)
"""

from __future__ import annotations

from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from backhaul import _moments
from backhaul.aio.audit import AsyncAudit
from backhaul.aio.events import AsyncEvents
from backhaul.aio.hosts import AsyncHosts
from backhaul.aio.jobs import AsyncJobs
from backhaul.aio.repositories import AsyncRepositories
from backhaul.aio.schedules import AsyncSchedules
from backhaul.aio.snapshots import AsyncSnapshots
from backhaul.aio.sources import AsyncSources
from backhaul.aio.tokens import AsyncApiTokens, AsyncEnrollmentTokens
from backhaul.aio.users import AsyncUsers
from backhaul.async_client import AsyncClient
from backhaul.wire.accounts import Me
from backhaul.wire.fleet import Health
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import JobKind
from backhaul.wire.ticks import Tick

if TYPE_CHECKING:
    from backhaul._view import View
    from backhaul.charts import AnyChart


class AsyncFleet:
    """A control plane and all that it knows.

    `client` has one method for each operation of the REST API, for what has no shorter word here.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client.url!r})"

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def __aenter__(self) -> AsyncFleet:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def hosts(self) -> AsyncHosts:
        """The machines that are backed up, by name."""
        return AsyncHosts(self)

    @property
    def repositories(self) -> AsyncRepositories:
        """Where backups go, by name."""
        return AsyncRepositories(self)

    @property
    def sources(self) -> AsyncSources:
        """What is backed up, by name."""
        return AsyncSources(self)

    @property
    def schedules(self) -> AsyncSchedules:
        """When jobs fire, on all hosts."""
        return AsyncSchedules(self)

    @property
    def jobs(self) -> AsyncJobs:
        """What runs, ran or waits, newest first."""
        return AsyncJobs(self)

    @property
    def snapshots(self) -> AsyncSnapshots:
        """What the repositories were last seen to hold, newest first."""
        return AsyncSnapshots(self)

    @property
    def enrollment_tokens(self) -> AsyncEnrollmentTokens:
        """The tokens with which hosts can join."""
        return AsyncEnrollmentTokens(self)

    @property
    def api_tokens(self) -> AsyncApiTokens:
        """Your tokens for scripts."""
        return AsyncApiTokens(self)

    @property
    def users(self) -> AsyncUsers:
        """The operators, by username."""
        return AsyncUsers(self)

    @property
    def audit(self) -> AsyncAudit:
        """Who changed what, newest first."""
        return AsyncAudit(self)

    @property
    def events(self) -> AsyncEvents:
        """What happened, oldest first; `fleet.events(follow=True)` gives what happens."""
        return AsyncEvents(self)

    def watch(self) -> View:
        """Show the fleet as it lives, in the cell of a notebook: the jobs that run, the hosts that
        are away, what happened last. It follows by itself while other cells run, until
        `.stop()`, or until it is watched again.

        Raises:
            ConfigurationError: this is no notebook; iterate over `events(follow=True)` instead.
        """
        from backhaul._view import show_view

        return show_view(self.client)

    async def me(self) -> Me:
        """Tell who the token belongs to."""
        return await self.client.get_me()

    async def health(self) -> Health:
        """Ask whether the server should be sent requests.

        Raises:
            ServerFailedError: it should not, for the reason that the error names.
        """
        return await self.client.get_health()

    async def tick(self) -> Tick:
        """Have the server do what time has made necessary, a bounded part of it; see
        `Client.tick`."""
        return await self.client.tick()

    # Pictures ------------------------------------------------------------------------------------

    async def timeline(self, since: datetime | timedelta | str = "7d") -> AnyChart:
        """Draw the jobs of each host over time, coloured by how they ended.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        jobs = await self.jobs.list(since=since).to_list()
        return charts.timeline([job.data for job in jobs])

    async def calendar(self, days: int = 31) -> AnyChart:
        """Draw on which day each host had a good backup, by the days of UTC.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        now = _moments.find_now()
        hosts = [host.data for host in await self.hosts.to_list()]
        jobs = await self.jobs.list(
            kind=JobKind.BACKUP, state=list(JobState), since=now - timedelta(days=days)
        ).to_list()
        return charts.calendar(hosts, [job.data for job in jobs], days=days, now=now)

    async def upcoming(self, days: int = 7) -> AnyChart:
        """Draw when the fleet will fire, by the hour: herds show as peaks.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        now = _moments.find_now()
        schedules = [schedule.data for schedule in await self.schedules.to_list()]
        return charts.upcoming(schedules, days=days, now=now)

    async def compliance(self, rpo: timedelta | str = "24h") -> AnyChart:
        """Draw how old each host's last good backup is, against the recovery point objective.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        seconds = _moments.find_seconds("rpo", rpo)
        hosts = [host.data for host in await self.hosts.to_list()]
        return charts.compliance(hosts, rpo_s=seconds, now=_moments.find_now())
