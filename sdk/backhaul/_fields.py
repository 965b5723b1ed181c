"""The fields of the fleet's objects: each reads one field of the answer that the object holds.

Written once, for the objects that wait and for those of asyncio. A test compares names and types
with the contract in `backhaul.wire`, which also says what each field means.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Never, Self, TypeVar, overload
from uuid import UUID

from backhaul.wire import accounts, events, fleet, jobs, schedules, snapshots
from backhaul.wire.agents import HostFacts
from backhaul.wire.jobs import ActorKind, FailureClass, JobState, Progress
from backhaul.wire.kinds import (
    Arguments,
    Compression,
    IoClass,
    JobKind,
    Result,
    Retention,
    ScheduleOptions,
)

T = TypeVar("T")
D = TypeVar("D")


class Field(Generic[T]):
    """Reads the field of this name from the object's `data`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Record[Any], owner: type) -> T: ...

    def __get__(self, instance: Record[Any] | None, owner: type) -> Self | T:
        if instance is None:
            return self
        value: T = getattr(instance.data, self._name)
        return value

    def __set__(self, instance: Record[Any], value: Never) -> None:
        raise AttributeError(f"{self._name} is what the server says; change it with update(…)")


class Record(Generic[D]):
    """What the server said of one thing, in `data`; each of its fields is an attribute too."""

    def __init__(self, data: D) -> None:
        self.data = data
        """The answer of the API, as `backhaul.wire` describes it. Never changes by itself."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key == other._key

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key))

    @property
    def _key(self) -> object:
        return getattr(self.data, "id", None)

    def __repr__(self) -> str:
        from backhaul.html.plain import render_line

        return render_line(self.data)

    def _repr_html_(self) -> str:
        from backhaul.html import render

        return render(self.data)


class HostFields(Record[fleet.Host]):
    id = Field[UUID]()
    name = Field[str]()
    labels = Field[dict[str, str]]()
    facts = Field[HostFacts]()
    public_key_fingerprint = Field[str]()
    schedule_version = Field[int]()
    applied_schedule_version = Field[int]()
    enrolled_at = Field[datetime]()
    last_seen_at = Field[datetime | None]()
    drift = Field[fleet.ScheduleDrift | None]()
    state = Field[fleet.HostState]()
    last_backup_at = Field[datetime | None]()
    next_fire_at = Field[datetime | None]()


class RepositoryFields(Record[fleet.Repository]):
    id = Field[UUID]()
    name = Field[str]()
    location = Field[str]()
    environment_names = Field[tuple[str, ...]]()
    created_at = Field[datetime]()
    updated_at = Field[datetime]()
    initialized_at = Field[datetime | None]()
    restic_id = Field[str | None]()
    read_coverage = Field[float]()
    has_admin = Field[bool]()
    admin_location = Field[str | None]()
    admin_environment_names = Field[tuple[str, ...]]()
    upkeep_host = Field[str | None]()
    password_change = Field[fleet.PasswordChange | None]()
    size = Field[fleet.RepositorySize | None]()
    growth_30d = Field[fleet.RepositoryGrowth | None]()
    lock = Field[fleet.RepositoryLock | None]()
    last_check = Field[fleet.LastCheck | None]()
    last_prune = Field[fleet.LastJob | None]()
    last_forget = Field[fleet.LastJob | None]()


class RepositorySize(Record[fleet.RepositorySize]):
    """How large a repository was at a moment."""

    measured_at = Field[datetime]()
    total_size = Field[int]()
    snapshots_count = Field[int]()
    blobs_count = Field[int]()
    uncompressed_size = Field[int | None]()
    restore_size = Field[int | None]()
    job_id = Field[UUID | None]()

    @property
    def _key(self) -> object:
        return self.data


class SourceFields(Record[fleet.Source]):
    id = Field[UUID]()
    name = Field[str]()
    paths = Field[tuple[str, ...]]()
    excludes = Field[tuple[str, ...]]()
    tags = Field[tuple[str, ...]]()
    one_file_system = Field[bool]()
    retention = Field[Retention | None]()
    created_at = Field[datetime]()
    updated_at = Field[datetime]()
    exclude_files = Field[tuple[str, ...]]()
    exclude_caches = Field[bool]()
    exclude_larger_than = Field[str | None]()
    limit_upload = Field[int | None]()
    limit_download = Field[int | None]()
    compression = Field[Compression | None]()
    nice = Field[int | None]()
    ionice = Field[IoClass | None]()
    dump = Field[str | None]()


class ScheduleFields(Record[schedules.Schedule]):
    id = Field[UUID]()
    host_id = Field[UUID]()
    host = Field[str]()
    kind = Field[schedules.ScheduleKind]()
    cron = Field[str]()
    timezone = Field[str]()
    enabled = Field[bool]()
    repository_id = Field[UUID]()
    repository = Field[str]()
    source_id = Field[UUID | None]()
    source = Field[str | None]()
    catch_up = Field[schedules.CatchUp]()
    catch_up_window = Field[float | None]()
    jitter = Field[float]()
    start_deadline = Field[float | None]()
    max_duration = Field[float | None]()
    attempts = Field[int]()
    retry_delay = Field[float]()
    when_unreachable = Field[schedules.WhenUnreachable]()
    options = Field[ScheduleOptions | None]()
    destination = Field[str | None]()
    of_host = Field[str | None]()
    next_fire_at = Field[datetime | None]()
    created_at = Field[datetime]()
    updated_at = Field[datetime]()
    revision = Field[int]()
    error = Field[str | None]()


class JobFields(Record[jobs.Job]):
    id = Field[UUID]()
    kind = Field[JobKind]()
    state = Field[JobState]()
    host_id = Field[UUID]()
    host = Field[str]()
    repository_id = Field[UUID | None]()
    repository = Field[str | None]()
    destination_id = Field[UUID | None]()
    destination = Field[str | None]()
    arguments = Field[Arguments]()
    actor_kind = Field[ActorKind]()
    actor_id = Field[UUID | None]()
    schedule_id = Field[UUID | None]()
    scheduled_at = Field[datetime | None]()
    missed = Field[int]()
    ran_offline = Field[bool]()
    attempt = Field[int]()
    attempts = Field[int]()
    retry_at = Field[datetime | None]()
    created_at = Field[datetime]()
    accepted_at = Field[datetime | None]()
    started_at = Field[datetime | None]()
    finished_at = Field[datetime | None]()
    start_deadline_at = Field[datetime | None]()
    cancel_requested_at = Field[datetime | None]()
    waits_for = Field[jobs.Obstacle | None]()
    progress = Field[Progress | None]()
    progressed_at = Field[datetime | None]()
    stalled_since = Field[datetime | None]()
    exit_code = Field[int | None]()
    failure_class = Field[FailureClass | None]()
    message = Field[str | None]()
    result = Field[Result | None]()
    log_lines = Field[int]()
    revision = Field[int]()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.data.state in jobs.TERMINAL_STATES

    @property
    def summary(self) -> str:
        """One line for people: what it did, how it stands, what came of it."""
        from backhaul.html.plain import render_job_summary

        return render_job_summary(self.data)


class SnapshotFields(Record[snapshots.Snapshot]):
    id = Field[str]()
    short_id = Field[str]()
    repository_id = Field[UUID]()
    repository = Field[str]()
    time = Field[datetime]()
    hostname = Field[str]()
    paths = Field[tuple[str, ...]]()
    username = Field[str]()
    tags = Field[tuple[str, ...]]()
    tree = Field[str]()
    parent = Field[str | None]()
    original = Field[str | None]()
    program_version = Field[str | None]()
    host_id = Field[UUID | None]()
    job_id = Field[UUID | None]()
    reported_at = Field[datetime]()
    doubt = Field[str | None]()


class FileEntry(Record[snapshots.FileEntry]):
    """A file, folder or link in a snapshot."""

    path = Field[str]()
    name = Field[str]()
    type = Field[str]()
    size = Field[int | None]()
    mode = Field[int | None]()
    mtime = Field[datetime | None]()
    uid = Field[int | None]()
    gid = Field[int | None]()
    user = Field[str]()
    group = Field[str]()
    link_target = Field[str | None]()

    @property
    def _key(self) -> object:
        return self.data


class ApiTokenFields(Record[accounts.ApiToken]):
    id = Field[UUID]()
    name = Field[str]()
    created_at = Field[datetime]()
    expires_at = Field[datetime | None]()
    last_used_at = Field[datetime | None]()


class UserFields(Record[accounts.User]):
    id = Field[UUID]()
    username = Field[str]()
    created_at = Field[datetime]()
    last_login_at = Field[datetime | None]()
    disabled_at = Field[datetime | None]()


class EnrollmentTokenFields(Record[accounts.EnrollmentToken]):
    id = Field[UUID]()
    created_at = Field[datetime]()
    expires_at = Field[datetime]()
    uses_left = Field[int]()
    host_name = Field[str | None]()
    labels = Field[dict[str, str]]()


class Event(Record[events.Event]):
    """Something that happened: a job changed its state, or somebody changed something."""

    id = Field[int]()
    at = Field[datetime]()
    kind = Field[str]()
    actor = Field[str | None]()
    host_id = Field[UUID | None]()
    host = Field[str | None]()
    job_id = Field[UUID | None]()
    job_kind = Field[JobKind | None]()
    target_id = Field[UUID | None]()
    target = Field[str | None]()
    message = Field[str | None]()


class AuditEntry(Record[accounts.AuditEntry]):
    """Something that somebody changed."""

    id = Field[UUID]()
    at = Field[datetime]()
    actor_kind = Field[str]()
    actor_id = Field[UUID | None]()
    actor = Field[str | None]()
    action = Field[str]()
    target_kind = Field[str | None]()
    target_id = Field[UUID | None]()
    target = Field[str | None]()
