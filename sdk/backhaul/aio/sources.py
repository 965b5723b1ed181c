"""Sources: what to back up, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backhaul import _requests
from backhaul._fields import SourceFields
from backhaul.aio.collections import AsyncKeyed
from backhaul.wire.fleet import CreateSource, UpdateSource
from backhaul.wire.fleet import Source as SourceData
from backhaul.wire.kinds import Compression, IoClass, Retention

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet


class AsyncSource(SourceFields):
    """What to back up and how: named paths or a dump, excludes, limits, retention."""

    def __init__(self, fleet: AsyncFleet, data: SourceData) -> None:
        super().__init__(data)
        self._fleet = fleet

    async def refresh(self) -> AsyncSource:
        """Ask the server how it stands now."""
        self.data = await self._fleet.client.get_source(self.id)
        return self

    async def update(self, **changes: Any) -> AsyncSource:
        """Change it, by the names of its fields: name, paths, excludes, tags, one_file_system,
        retention, exclude_files, exclude_caches, exclude_larger_than, limit_upload,
        limit_download, compression, nice, ionice, dump. What is left out stays.

        Raises:
            InvalidRequestError: a change is not acceptable.
        """
        request = _requests.convert(changes, UpdateSource)
        self.data = await self._fleet.client.update_source(self.id, request)
        return self

    async def remove(self) -> None:
        """Remove it. Its snapshots stay."""
        await self._fleet.client.remove_source(self.id)


class AsyncSources(AsyncKeyed[AsyncSource]):
    """The sources by name: iterate, or `fleet.sources["etc"]`."""

    def __init__(self, fleet: AsyncFleet) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> AsyncIterator[SourceData]:
            return fleet.client.list_sources(limit=limit)

        super().__init__(fetch, self.wrap, noun="sources")

    def wrap(self, data: SourceData) -> AsyncSource:
        """Make an object of what the API said of a source."""
        return AsyncSource(self._fleet, data)

    async def get(self, name: UUID | str, /) -> AsyncSource:
        """Get a source by its name or id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(await self._fleet.client.get_source(name))

    async def create(  # noqa: PLR0913 (what restic can be told of a backup)
        self,
        name: str,
        paths: Iterable[str] = (),
        *,
        excludes: Iterable[str] = (),
        tags: Iterable[str] = (),
        one_file_system: bool = False,
        retention: Retention | dict[str, Any] | None = None,
        exclude_files: Iterable[str] = (),
        exclude_caches: bool = False,
        exclude_larger_than: str | None = None,
        limit_upload: int | None = None,
        limit_download: int | None = None,
        compression: Compression | None = None,
        nice: int | None = None,
        ionice: IoClass | None = None,
        dump: str | None = None,
    ) -> AsyncSource:
        """Name a set of paths, or a dump of the hosts; `retention` takes restic's keep rules, like
        `{"keep_daily": 7}`.

        Limits are in KiB a second. `dump` names a command in the settings file of each agent.

        Raises:
            InvalidRequestError: something is not acceptable; each error names its field.
        """
        fields = {
            "name": name,
            "paths": _requests.list_texts("paths", paths),
            "excludes": _requests.list_texts("excludes", excludes),
            "tags": _requests.list_texts("tags", tags),
            "one_file_system": one_file_system,
            "retention": retention,
            "exclude_files": _requests.list_texts("exclude_files", exclude_files),
            "exclude_caches": exclude_caches,
            "exclude_larger_than": exclude_larger_than,
            "limit_upload": limit_upload,
            "limit_download": limit_download,
            "compression": compression,
            "nice": nice,
            "ionice": ionice,
            "dump": dump,
        }
        request = _requests.convert(fields, CreateSource)
        return self.wrap(await self._fleet.client.create_source(request))
