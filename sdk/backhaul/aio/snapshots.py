"""Snapshots: what the repositories were last seen to hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backhaul import _requests
from backhaul._fields import HostFields, RepositoryFields, SnapshotFields
from backhaul.aio.collections import AsyncCollection
from backhaul.aio.jobs import AsyncJob
from backhaul.wire.jobs import RestoreRequest
from backhaul.wire.snapshots import Snapshot as SnapshotData

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet


class AsyncSnapshot(SnapshotFields):
    """A snapshot that a repository was last seen to hold."""

    def __init__(self, fleet: AsyncFleet, data: SnapshotData) -> None:
        super().__init__(data)
        self._fleet = fleet

    async def restore(
        self,
        to: str,
        *,
        include: Iterable[str] = (),
        host: HostFields | UUID | str | None = None,
        verify: bool = False,
    ) -> AsyncJob:
        """Restore it, or what `include` names of it, into a new folder of a host.

        The host is the one that made it, unless another one is named.

        Raises:
            InvalidRequestError: Backhaul did not make it, so that a host must be named.
        """
        fields = {
            "kind": "restore",
            "host": _requests.require_key("host", host or self.host_id),
            "repository": self.repository,
            "snapshot": self.id,
            "target": to,
            "include": _requests.list_texts("include", include),
            "verify": verify,
        }
        return await self._fleet.jobs.create(_requests.convert(fields, RestoreRequest))


class AsyncSnapshots(AsyncCollection[AsyncSnapshot]):
    """Snapshots, newest first. Iterate, or narrow down with `list`."""

    def __init__(self, fleet: AsyncFleet, **filters: Any) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> AsyncIterator[SnapshotData]:
            return fleet.client.list_snapshots(**filters, limit=limit)

        super().__init__(fetch, self.wrap, noun="snapshots", filters=filters)

    def wrap(self, data: SnapshotData) -> AsyncSnapshot:
        """Make an object of what the API said of a snapshot."""
        return AsyncSnapshot(self._fleet, data)

    def list(
        self,
        *,
        repository: RepositoryFields | UUID | str | None = None,
        host: HostFields | UUID | str | None = None,
    ) -> AsyncSnapshots:
        """Narrow down to those of a repository, or of a host. Asks nothing yet."""
        filters = {
            "repository": _requests.find_key("repository", repository)
            or self._filters.get("repository"),
            "host": _requests.find_key("host", host) or self._filters.get("host"),
        }
        return AsyncSnapshots(self._fleet, **filters)
