# Written by tools/write_sync.py from backhaul/aio/sources.py: change that.
"""Sources: what to back up, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backhaul import _requests
from backhaul._fields import SourceFields
from backhaul.objects.collections import Keyed
from backhaul.wire.fleet import CreateSource, UpdateSource
from backhaul.wire.fleet import Source as SourceData
from backhaul.wire.kinds import Compression, IoClass, Retention

if TYPE_CHECKING:
    from backhaul.objects.fleet import Fleet


class Source(SourceFields):
    """What to back up and how: named paths or a dump, excludes, limits, retention."""

    def __init__(self, fleet: Fleet, data: SourceData) -> None:
        super().__init__(data)
        self._fleet = fleet

    def refresh(self) -> Source:
        """Ask the server how it stands now."""
        self.data = self._fleet.client.get_source(self.id)
        return self

    def update(self, **changes: Any) -> Source:
        """Change it, by the names of its fields: name, paths, excludes, tags, one_file_system,
        retention, exclude_files, exclude_caches, exclude_larger_than, limit_upload,
        limit_download, compression, nice, ionice, dump. What is left out stays.

        Raises:
            InvalidRequestError: a change is not acceptable.
        """
        request = _requests.convert(changes, UpdateSource)
        self.data = self._fleet.client.update_source(self.id, request)
        return self

    def remove(self) -> None:
        """Remove it. Its snapshots stay."""
        self._fleet.client.remove_source(self.id)


class Sources(Keyed[Source]):
    """The sources by name: iterate, or `fleet.sources["etc"]`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> Iterator[SourceData]:
            return fleet.client.list_sources(limit=limit)

        super().__init__(fetch, self.wrap, noun="sources")

    def wrap(self, data: SourceData) -> Source:
        """Make an object of what the API said of a source."""
        return Source(self._fleet, data)

    def get(self, name: UUID | str, /) -> Source:
        """Get a source by its name or id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(self._fleet.client.get_source(name))

    def create(  # noqa: PLR0913 (what restic can be told of a backup)
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
    ) -> Source:
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
        return self.wrap(self._fleet.client.create_source(request))
