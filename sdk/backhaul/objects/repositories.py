# Written by tools/write_sync.py from backhaul/aio/repositories.py: change that.
"""Repositories: where backups go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backhaul import _requests
from backhaul._fields import (
    HostFields,
    RepositoryFields,
    RepositorySize,
    SnapshotFields,
    SourceFields,
)
from backhaul.objects.collections import (
    Collection,
    Keyed,
)
from backhaul.objects.jobs import (
    Job,
    Jobs,
)
from backhaul.objects.snapshots import (
    Snapshots,
)
from backhaul.wire.fleet import (
    Adoption,
    AdoptRepository,
    ChangePassword,
    ContinuePasswordChange,
    CreateRepository,
    StartedPasswordChange,
    UpdateRepository,
)
from backhaul.wire.fleet import Repository as RepositoryData
from backhaul.wire.fleet import RepositorySize as RepositorySizeData
from backhaul.wire.kinds import JobKind

if TYPE_CHECKING:
    from backhaul.charts import AnyChart
    from backhaul.objects.fleet import Fleet


class Repository(RepositoryFields):
    """A restic repository, without its secrets."""

    def __init__(self, fleet: Fleet, data: RepositoryData) -> None:
        super().__init__(data)
        self._fleet = fleet

    def refresh(self) -> Repository:
        """Ask the server how it stands now."""
        self.data = self._fleet.client.get_repository(self.id)
        return self

    @property
    def jobs(self) -> Jobs:
        """The jobs that used it, newest first."""
        return Jobs(self._fleet, repository=self.name)

    @property
    def snapshots(self) -> Snapshots:
        """What it was last seen to hold, newest first."""
        return Snapshots(self._fleet, repository=self.name)

    def run(self, kind: JobKind | str, *, host: HostFields | UUID | str, **arguments: Any) -> Job:
        """Run a job of any kind on it, on a host: `repository.run("init", host="web-1")`.

        Raises:
            InvalidRequestError: the kind or an argument is not acceptable.
        """
        request = _requests.build_job(
            kind,
            host=_requests.require_key("host", host),
            repository=self.name,
            arguments=arguments,
        )
        return self._fleet.jobs.create(request)

    def copy_to(
        self,
        other: RepositoryFields | UUID | str,
        *,
        host: HostFields | UUID | str,
        source: SourceFields | UUID | str | None = None,
        of_host: HostFields | str | None = None,
        tags: Iterable[str] = (),
        snapshots: Iterable[str] = (),
    ) -> Job:
        """Copy its snapshots to another repository, now, on a host that reaches both.

        All of them, or those that are named, or those with a source, of a host, with all tags.

        Raises:
            InvalidRequestError: something is not acceptable; each error names its field.
        """
        return self.run(
            JobKind.COPY,
            host=host,
            destination=_requests.require_key("destination", other),
            source=_requests.find_key("source", source),
            of_host=_requests.find_key("of_host", of_host),
            tags=_requests.list_texts("tags", tags),
            snapshots=_requests.list_texts("snapshots", snapshots),
        )

    def growth(self) -> AnyChart:
        """Draw how it grew: the bytes that each day's backups added, and their sum.

        Raises:
            MissingPackageError: altair or pandas is not installed.
        """
        from backhaul import charts

        jobs = self.jobs.list(kind=JobKind.BACKUP, state=charts.ENDED_WITH_SNAPSHOT)
        return charts.growth([job.data for job in jobs.to_list()], name=self.name)

    def sizes(self) -> Sizes:
        """What `stats` jobs have measured of it, newest first. Asks nothing yet."""
        return Sizes(self._fleet, self)

    def change_password(
        self,
        password: str | None = None,
        *,
        host: HostFields | UUID | str | None = None,
        generate: bool = False,
        show: bool = False,
    ) -> StartedPasswordChange:
        """Give the repository a new password: this one, or one that the server makes.

        The job that adds it is in the answer; with `show`, so is the password that was made. After
        it, `password_change` shows what is left to be done. The host is the upkeep host, unless
        there is none.

        Raises:
            InvalidRequestError: there is no upkeep host and none is named, or another one is.
            ConflictError: another change is under way.
        """
        fields = {
            "password": password,
            "host": _requests.find_key("host", host),
            "generate": generate,
            "show": show,
        }
        request = _requests.convert(fields, ChangePassword)
        return self._fleet.client.change_repository_password(self.id, request)

    def continue_password_change(
        self, *, host: HostFields | UUID | str | None = None, force: bool = False
    ) -> Job:
        """Do the current step of a password change again, after its job has failed.

        With `force`, remove the old password before each host has the new one.

        Raises:
            ConflictError: no change is under way, its job is not over, or hosts are waited for.
        """
        request = ContinuePasswordChange(host=_requests.find_key("host", host), force=force)
        return self._fleet.jobs.wrap(self._fleet.client.continue_password_change(self.id, request))

    def give_up_password_change(self) -> None:
        """Leave the password as it is. A key that was added, or not yet removed, stays.

        Raises:
            ConflictError: no change is under way, or its job is not over.
        """
        self._fleet.client.give_up_password_change(self.id)

    def update(self, **changes: Any) -> Repository:
        """Change its record, by the names of its fields: name, location, password, environment,
        admin (a dict of the same three, or None), upkeep_host.

        Raises:
            InvalidRequestError: a change is not acceptable.
        """
        request = _requests.convert(changes, UpdateRepository)
        self.data = self._fleet.client.update_repository(self.id, request)
        return self

    def adopt(
        self,
        *,
        host: HostFields | UUID | str,
        snapshots: Iterable[SnapshotFields | str] | None = None,
        timeout: float | None = None,
    ) -> Adoption:
        """Take it over with the snapshots that it holds: a host lists them, and you vouch for them.

        That is for all whose time is not in the future, or for those named, by their whole ids.
        Look at `snapshots` first if others can write to it: from then on, `forget` counts them.

        Raises:
            JobFailedError: the host could not list them.
            JobNotFinishedError: it did not within `timeout` seconds.
            InvalidRequestError: one that is named is not in it, or its time is in the future.
        """
        job = self.run(JobKind.SNAPSHOTS, host=host)
        job.wait(timeout, raise_on_failure=True)
        ids = None if snapshots is None else [str(getattr(one, "id", one)) for one in snapshots]
        request = _requests.convert({"snapshots": ids}, AdoptRepository)
        adoption = self._fleet.client.adopt_repository(self.id, request)
        self.data = adoption.repository
        return adoption

    def remove(self) -> None:
        """Forget its record and its password. Its files are not touched."""
        self._fleet.client.remove_repository(self.id)


class Sizes(Collection[RepositorySize]):
    """How large a repository was, newest first."""

    def __init__(self, fleet: Fleet, repository: RepositoryFields) -> None:
        def fetch(limit: int | None) -> Iterator[RepositorySizeData]:
            return fleet.client.list_repository_sizes(repository.id, limit=limit)

        super().__init__(
            fetch, RepositorySize, noun="sizes", filters={"repository": repository.name}
        )


class Repositories(Keyed[Repository]):
    """The repositories by name: iterate, or `fleet.repositories["nas"]`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> Iterator[RepositoryData]:
            return fleet.client.list_repositories(limit=limit)

        super().__init__(fetch, self.wrap, noun="repositories")

    def wrap(self, data: RepositoryData) -> Repository:
        """Make an object of what the API said of a repository."""
        return Repository(self._fleet, data)

    def get(self, name: UUID | str, /) -> Repository:
        """Get a repository by its name or id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(self._fleet.client.get_repository(name))

    def create(
        self,
        name: str,
        location: str,
        *,
        password: str,
        environment: dict[str, str] | None = None,
        admin: dict[str, Any] | None = None,
        upkeep_host: HostFields | UUID | str | None = None,
    ) -> Repository:
        """Record a repository; an `init` job creates it at its location.

        All values of `environment`, like AWS_ACCESS_KEY_ID, are kept as secrets. `admin` is what
        may delete: location, password and environment, as far as they differ. Only `upkeep_host`
        is given it.

        Raises:
            InvalidRequestError: something is not acceptable; each error names its field.
        """
        fields = {
            "name": name,
            "location": location,
            "password": password,
            "environment": environment or {},
            "admin": admin,
            "upkeep_host": _requests.find_key("host", upkeep_host),
        }
        request = _requests.convert(fields, CreateRepository)
        return self.wrap(self._fleet.client.create_repository(request))

    def choose(self, name: RepositoryFields | UUID | str | None) -> str:
        """Give the name, or that of the only repository there is.

        Raises:
            InvalidRequestError: no name was given, and there is none, or there are several.
        """
        found = _requests.find_key("repository", name)
        if found is not None:
            return found
        return _requests.choose_only([one.name for one in self.to_list(limit=10)])
