# Written by tools/write_sync.py from backhaul/aio/fleet.py: change that.
"""The fleet: where everything begins.

import backhaul

with backhaul.connect() as fleet:
    host = fleet.hosts["web-1"]
    job = host.backup(source="etc")
    job.wait(raise_on_failure=True)
"""

from __future__ import annotations

from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from backhaul import _moments
from backhaul.client import Client
from backhaul.objects.audit import Audit
from backhaul.objects.events import Events
from backhaul.objects.hosts import Hosts
from backhaul.objects.jobs import Jobs
from backhaul.objects.repositories import Repositories
from backhaul.objects.schedules import Schedules
from backhaul.objects.snapshots import Snapshots
from backhaul.objects.sources import Sources
from backhaul.objects.tokens import ApiTokens, EnrollmentTokens
from backhaul.objects.users import Users
from backhaul.wire.accounts import Me
from backhaul.wire.fleet import Health
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import JobKind
from backhaul.wire.ticks import Tick

if TYPE_CHECKING:
    from backhaul._view import View
    from backhaul.charts import AnyChart


class Fleet:
    """A control plane and all that it knows.

    `client` has one method for each operation of the REST API, for what has no shorter word here.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def hosts(self) -> Hosts:
        """The machines that are backed up, by name."""
        return Hosts(self)

    @property
    def repositories(self) -> Repositories:
        """Where backups go, by name."""
        return Repositories(self)

    @property
    def sources(self) -> Sources:
        """What is backed up, by name."""
        return Sources(self)

    @property
    def schedules(self) -> Schedules:
        """When jobs fire, on all hosts."""
        return Schedules(self)

    @property
    def jobs(self) -> Jobs:
        """What runs, ran or waits, newest first."""
        return Jobs(self)

    @property
    def snapshots(self) -> Snapshots:
        """What the repositories were last seen to hold, newest first."""
        return Snapshots(self)

    @property
    def enrollment_tokens(self) -> EnrollmentTokens:
        """The tokens with which hosts can join."""
        return EnrollmentTokens(self)

    @property
    def api_tokens(self) -> ApiTokens:
        """Your tokens for scripts."""
        return ApiTokens(self)

    @property
    def users(self) -> Users:
        """The operators, by username."""
        return Users(self)

    @property
    def audit(self) -> Audit:
        """Who changed what, newest first."""
        return Audit(self)

    @property
    def events(self) -> Events:
        """What happened, oldest first; `fleet.events(follow=True)` gives what happens."""
        return Events(self)

    def watch(self) -> View:
        """Show the fleet as it lives, in the cell of a notebook: the jobs that run, the hosts that
        are away, what happened last. It follows by itself while other cells run, until
        `.stop()`, or until it is watched again.

        Raises:
            ConfigurationError: this is no notebook; iterate over `events(follow=True)` instead.
        """
        from backhaul._view import show_view

        return show_view(self.client)

    def me(self) -> Me:
        """Tell who the token belongs to."""
        return self.client.get_me()

    def health(self) -> Health:
        """Ask whether the server should be sent requests.

        Raises:
            ServerFailedError: it should not, for the reason that the error names.
        """
        return self.client.get_health()

    def tick(self) -> Tick:
        """Have the server do what time has made necessary, a bounded part of it; see
        `Client.tick`."""
        return self.client.tick()

    # Pictures ------------------------------------------------------------------------------------

    def timeline(self, since: datetime | timedelta | str = "7d") -> AnyChart:
        """Draw the jobs of each host over time, coloured by how they ended.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        jobs = self.jobs.list(since=since).to_list()
        return charts.timeline([job.data for job in jobs])

    def calendar(self, days: int = 31) -> AnyChart:
        """Draw on which day each host had a good backup, by the days of UTC.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        now = _moments.find_now()
        hosts = [host.data for host in self.hosts.to_list()]
        jobs = self.jobs.list(
            kind=JobKind.BACKUP, state=list(JobState), since=now - timedelta(days=days)
        ).to_list()
        return charts.calendar(hosts, [job.data for job in jobs], days=days, now=now)

    def upcoming(self, days: int = 7) -> AnyChart:
        """Draw when the fleet will fire, by the hour: herds show as peaks.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        now = _moments.find_now()
        schedules = [schedule.data for schedule in self.schedules.to_list()]
        return charts.upcoming(schedules, days=days, now=now)

    def compliance(self, rpo: timedelta | str = "24h") -> AnyChart:
        """Draw how old each host's last good backup is, against the recovery point objective.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        charts.require_packages()
        seconds = _moments.find_seconds("rpo", rpo)
        hosts = [host.data for host in self.hosts.to_list()]
        return charts.compliance(hosts, rpo_s=seconds, now=_moments.find_now())
