"""Snapshots: what the repositories were last seen to hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backhaul import _requests
from backhaul._fields import FileEntry, HostFields, RepositoryFields, SnapshotFields
from backhaul.aio.collections import AsyncCollection
from backhaul.aio.jobs import AsyncJob
from backhaul.wire.kinds import DiffRequest, DrillRequest, RestoreRequest
from backhaul.wire.kinds.drill import DEFAULT_FILES, DEFAULT_MAX_BYTES
from backhaul.wire.snapshots import FileEntry as FileEntryData
from backhaul.wire.snapshots import FileList
from backhaul.wire.snapshots import Snapshot as SnapshotData

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet

MAX_FILES = 1000
"""In one look of a host."""


class AsyncFiles(AsyncCollection[FileEntry]):
    """Files of a snapshot, in restic's own order. Each page is a look of a host into it."""

    def __init__(
        self,
        fleet: AsyncFleet,
        snapshot: SnapshotFields,
        *,
        host: str | None,
        pattern: str | None = None,
        path: str = "/",
        recursive: bool = False,
    ) -> None:
        self._client = fleet.client
        self._snapshot = snapshot
        self._host = host
        self._pattern = pattern
        self._path = path
        self._recursive = recursive
        filters = {"snapshot": snapshot.short_id, "pattern": pattern, "path": path}
        if pattern is not None:
            del filters["path"]
        super().__init__(self._read, FileEntry, noun="files", filters=filters)

    async def _read(self, limit: int | None) -> AsyncIterator[FileEntryData]:
        left, cursor = limit, None
        while left is None or left > 0:
            page = await self._ask(MAX_FILES if left is None else min(left, MAX_FILES), cursor)
            for entry in page.entries:
                yield entry
            cursor = page.next_cursor
            if cursor is None:
                return
            left = None if left is None else left - len(page.entries)

    async def _ask(self, limit: int, cursor: str | None) -> FileList:
        repository, snapshot = self._snapshot.repository_id, self._snapshot.id
        if self._pattern is not None:
            return await self._client.find_snapshot_files(
                repository, snapshot, self._pattern, host=self._host, limit=limit, cursor=cursor
            )
        return await self._client.list_snapshot_files(
            repository,
            snapshot,
            self._path,
            recursive=self._recursive,
            host=self._host,
            limit=limit,
            cursor=cursor,
        )


class AsyncSnapshot(SnapshotFields):
    """A snapshot that a repository was last seen to hold."""

    def __init__(self, fleet: AsyncFleet, data: SnapshotData) -> None:
        super().__init__(data)
        self._fleet = fleet

    def ls(
        self,
        path: str = "/",
        *,
        recursive: bool = False,
        host: HostFields | UUID | str | None = None,
    ) -> AsyncFiles:
        """List a folder of it, by asking a host: the one that made it, unless another is named.

        Asks nothing yet. Iterating raises NotFoundError when there is no such path in it,
        ConflictError when the host's policy forbids it, and ServerFailedError when the host is
        away.
        """
        key = _requests.find_key("host", host)
        return AsyncFiles(self._fleet, self, host=key, path=path, recursive=recursive)

    def find(self, pattern: str, *, host: HostFields | UUID | str | None = None) -> AsyncFiles:
        """Search it as `restic find` does: for names like `*.conf`, or for paths with a `/`.

        Asks nothing yet, and raises as `ls` does.
        """
        key = _requests.find_key("host", host)
        return AsyncFiles(self._fleet, self, host=key, pattern=pattern)

    async def restore(
        self,
        to: str | None = None,
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        host: HostFields | UUID | str | None = None,
        verify: bool = False,
        in_place: bool = False,
        confirm_host: str | None = None,
    ) -> AsyncJob:
        """Restore it, or what `include` names of it, into a new folder of a host.

        The host is the one that made it, unless another one is named. With `in_place` and without
        `to`, the paths that `include` names go back to where they were, over what is there: where
        the host's policy allows it, and `confirm_host` is its name once more.

        Raises:
            InvalidRequestError: Backhaul did not make it, so that a host must be named; or the
                server refuses a field.
        """
        fields = {
            "kind": "restore",
            "host": _requests.require_key("host", host or self.host_id),
            "repository": self.repository,
            "snapshot": self.id,
            "target": to,
            "include": _requests.list_texts("include", include),
            "exclude": _requests.list_texts("exclude", exclude),
            "verify": verify,
            "in_place": in_place,
            "confirm_host": confirm_host,
        }
        return await self._fleet.jobs.create(_requests.convert(fields, RestoreRequest))

    async def drill(
        self,
        *,
        files: int = DEFAULT_FILES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        host: HostFields | UUID | str | None = None,
    ) -> AsyncJob:
        """Prove that it can be restored: a random sample of its files is read twice and compared.

        On the host that made it, unless another one is named. A file that is larger than what is
        left of `max_bytes` is skipped.

        Raises:
            InvalidRequestError: Backhaul did not make it, so that a host must be named.
        """
        fields = {
            "kind": "drill",
            "host": _requests.require_key("host", host or self.host_id),
            "repository": self.repository,
            "snapshot": self.id,
            "files": files,
            "max_bytes": max_bytes,
        }
        return await self._fleet.jobs.create(_requests.convert(fields, DrillRequest))

    async def diff(
        self, other: SnapshotFields | str, *, host: HostFields | UUID | str | None = None
    ) -> AsyncJob:
        """Compare it with another snapshot of its repository: what is only in `other` was added.

        On the host that made it, unless another one is named.

        Raises:
            InvalidRequestError: Backhaul did not make it, so that a host must be named; or `other`
                is no id.
        """
        fields = {
            "kind": "diff",
            "host": _requests.require_key("host", host or self.host_id),
            "repository": self.repository,
            "snapshot": self.id,
            "other": _requests.require_key("other", other),
        }
        return await self._fleet.jobs.create(_requests.convert(fields, DiffRequest))


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
