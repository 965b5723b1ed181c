# Written by tools/write_sync.py from backhaul/aio/schedules.py: change that.
"""Schedules: when which kind of job fires on which host."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backhaul import _requests
from backhaul._fields import HostFields, RepositoryFields, ScheduleFields, SourceFields
from backhaul.objects.collections import Keyed
from backhaul.objects.jobs import Jobs
from backhaul.wire.schedules import (
    CreateSchedule,
    ScheduleKind,
    SchedulePreview,
    UpdateSchedule,
)
from backhaul.wire.schedules import (
    Schedule as ScheduleData,
)

if TYPE_CHECKING:
    from backhaul.objects.fleet import Fleet


class Schedule(ScheduleFields):
    """When one kind of job fires on one host."""

    def __init__(self, fleet: Fleet, data: ScheduleData) -> None:
        super().__init__(data)
        self._fleet = fleet

    def refresh(self) -> Schedule:
        """Ask the server how it stands now."""
        self.data = self._fleet.client.get_schedule(self.id)
        return self

    @property
    def jobs(self) -> Jobs:
        """The jobs that it fired, newest first."""
        return Jobs(self._fleet, schedule=self.id)

    def update(self, **changes: Any) -> Schedule:
        """Change it: cron, timezone, repository, source, enabled and the policies, by their names.

        So can the options of its kind be, like read_data_parts; `options=None` drops them all.
        Durations are in seconds. What is left out stays. Refused when somebody else changed it
        since this object was read.

        Raises:
            PreconditionFailedError: somebody did; `refresh()` shows what it is now.
            InvalidRequestError: a change is not acceptable.
        """
        changes = _requests.gather_options(self.kind, changes, known=self.options)
        request = _requests.convert(changes, UpdateSchedule)
        self.data = self._fleet.client.update_schedule(self.id, request, if_revision=self.revision)
        return self

    def enable(self) -> Schedule:
        """Have it fire again, from now on."""
        return self.update(enabled=True)

    def disable(self) -> Schedule:
        """Have it fire no more until it is enabled."""
        return self.update(enabled=False)

    def delete(self) -> None:
        """Delete it. The jobs that it fired stay."""
        self._fleet.client.delete_schedule(self.id, if_revision=self.revision)

    def preview(
        self, *, start: datetime | None = None, count: int | None = None
    ) -> SchedulePreview:
        """List its next `count` slots from `start` on (by default 10, from now)."""
        return self._fleet.client.preview_schedule(self.id, start=start, count=count)


class Schedules(Keyed[Schedule]):
    """Schedules, oldest first."""

    def __init__(self, fleet: Fleet, **filters: Any) -> None:
        self._fleet = fleet
        self._host: str | None = filters.get("host")

        def fetch(limit: int | None) -> Iterator[ScheduleData]:
            return fleet.client.list_schedules(**filters, limit=limit)

        super().__init__(fetch, self.wrap, noun="schedules", filters=filters)

    def wrap(self, data: ScheduleData) -> Schedule:
        """Make an object of what the API said of a schedule."""
        return Schedule(self._fleet, data)

    def list(self, *, host: HostFields | UUID | str | None = None) -> Schedules:
        """Narrow down to those of a host. Asks nothing yet: iterate over what this gives."""
        return Schedules(self._fleet, host=_requests.find_key("host", host) or self._host)

    def get(self, schedule_id: UUID | str, /) -> Schedule:
        """Get one by its id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(self._fleet.client.get_schedule(schedule_id))

    def create(
        self,
        cron: str,
        *,
        kind: ScheduleKind | str = ScheduleKind.BACKUP,
        source: SourceFields | UUID | str | None = None,
        repository: RepositoryFields | UUID | str | None = None,
        timezone: str = "UTC",
        host: HostFields | UUID | str | None = None,
        **policies: Any,
    ) -> Schedule:
        """Have a kind of job fire whenever a cron expression says, in an IANA time zone.

        The repository may be left out if there is only one. `policies` are the other fields of
        `backhaul.wire.schedules.CreateSchedule`: enabled, catch_up, catch_up_window, jitter,
        start_deadline, max_duration, attempts, retry_delay, when_unreachable, options; durations
        in seconds. The options of the kind can be named themselves: `read_data_parts=7` for a
        check, which then reads another seventh of the data each time. `host` is needed on the
        schedules of the whole fleet only.

        Raises:
            InvalidRequestError: something is not acceptable; each error names its field.
        """
        fields = {
            "kind": str(kind),
            "cron": cron,
            "timezone": timezone,
            "source": _requests.find_key("source", source),
            "repository": self._fleet.repositories.choose(repository),
            **_requests.gather_options(kind, policies),
        }
        request = _requests.convert(fields, CreateSchedule)
        target = _requests.require_key("host", host or self._host)
        return self.wrap(self._fleet.client.create_schedule(target, request))

    def preview(
        self,
        cron: str,
        timezone: str = "UTC",
        *,
        start: datetime | None = None,
        count: int | None = None,
    ) -> SchedulePreview:
        """List when a cron expression fires, before there is a schedule of it."""
        return self._fleet.client.preview_cron(cron, timezone, start=start, count=count)
