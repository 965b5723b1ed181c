"""The things of the fleet that operators make and look at: hosts, repositories, sources."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from backhaul.wire.agents import HostFacts
from backhaul.wire.base import Instant, Labels, Name, Request, Wire
from backhaul.wire.jobs import FailureClass, Job, JobState
from backhaul.wire.kinds import (
    AbsolutePath,
    Compression,
    FileSize,
    IoClass,
    KibPerSecond,
    Niceness,
    PasswdStep,
    Pattern,
    Retention,
    Tag,
)
from backhaul.wire.schedules import EntryError


class ScheduleDrift(Wire, frozen=True, kw_only=True):
    """How the schedules that an agent follows differ from those that it should follow."""

    desired: int
    """The version that the operators made."""
    applied: int
    """The version that the agent has applied."""
    since: Instant | None
    """When the desired version was made, as long as it is not applied."""
    errors: tuple[EntryError, ...] = ()
    """The schedules of the applied version that the agent skips, and why."""


class HostState(StrEnum):
    """Whether the agent of a host is heard of."""

    NEVER_SEEN = "never_seen"
    """Enrolled, but the agent has not come yet."""
    ONLINE = "online"
    OFFLINE = "offline"
    """Nothing was heard for three minutes; an agent that is there asks at least twice a minute."""


class Host(Wire, frozen=True, kw_only=True):
    """A machine that an agent runs on."""

    id: UUID
    name: Name
    labels: Labels
    facts: HostFacts
    public_key_fingerprint: str
    """SHA-256 of the host's public key, in hex; `backhaul agent run` shows the same."""
    schedule_version: int
    applied_schedule_version: int
    enrolled_at: Instant
    last_seen_at: Instant | None
    """When the agent last polled, or began; written at most once a minute."""
    drift: ScheduleDrift | None = None
    """None when the agent has applied the newest version, and could apply all of it."""
    state: HostState = HostState.NEVER_SEEN
    """At the moment of the answer."""
    last_backup_at: Instant | None = None
    """When its newest backup that succeeded had ended; one that left files out does not count."""
    next_fire_at: Instant | None = None
    """When the next of its schedules fires, jitter included; None without an enabled one."""


class UpdateHost(Request, frozen=True, kw_only=True):
    """Rename or relabel a host. What is left out stays."""

    name: Name | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET


Location = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00\r\n]+$(?!\n)",
        examples=["/srv/restic", "sftp:backup@nas:/restic", "s3:https://s3.example.com/bucket"],
    ),
]
RepositoryPassword = Annotated[
    str, msgspec.Meta(min_length=1, max_length=1024, pattern=r"^[^\x00\r\n]+$(?!\n)")
]
Environment = dict[
    Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)", max_length=255)],
    Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$", max_length=32_768)],
]


WholeSnapshotId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class AdminCredential(Request, frozen=True, kw_only=True):
    """What opens a repository for deleting. What is left out is as for everyday use.

    It leaves the server only to the upkeep host, for jobs that delete or that change keys.
    """

    location: Location | None = None
    """Like that of an append-only server, with another user in it."""
    password: RepositoryPassword | None = None
    """Of another key of the same repository."""
    environment: Environment | None = None
    """In place of the whole everyday one."""

    def __repr__(self) -> str:
        return "AdminCredential(…)"


class CreateRepository(Request, frozen=True, kw_only=True):
    """Record a repository. Nothing is created at its location until an `init` job ran."""

    name: Name
    location: Location
    """As restic writes it. A password in it is kept as a secret and shown as `***`."""
    password: RepositoryPassword
    environment: Environment = {}
    """For restic, like AWS_ACCESS_KEY_ID. All values are secret."""
    admin: AdminCredential | None = None
    """Needs an `upkeep_host`."""
    upkeep_host: str | None = None
    """Name or id of the only host that may forget, prune, remove all locks and change keys; None:
    each may."""

    def __repr__(self) -> str:
        return f"CreateRepository(name={self.name!r}, …)"


class UpdateRepository(Request, frozen=True, kw_only=True):
    """Change the record of a repository. What is left out stays."""

    name: Name | UnsetType = UNSET
    location: Location | UnsetType = UNSET
    password: RepositoryPassword | UnsetType = UNSET
    """What Backhaul will use from now on; the repository's own keys are not touched."""
    environment: Environment | UnsetType = UNSET
    admin: AdminCredential | UnsetType | None = UNSET
    """Replaced as a whole; None forgets it."""
    upkeep_host: str | UnsetType | None = UNSET
    """Refused while schedules that delete exist on other hosts."""

    def __repr__(self) -> str:
        return f"UpdateRepository(name={self.name!r}, …)"


class ChangePassword(Request, frozen=True, kw_only=True):
    """Give a repository a new password: the one that is given, or one that the server makes."""

    password: RepositoryPassword | None = None
    generate: bool = False
    show: bool = False
    """Tell the password that was made, this once."""
    host: str | None = None
    """Name or id of the host that does it; may be left out when there is an upkeep host."""

    def __repr__(self) -> str:
        return "ChangePassword(…)"


class ContinuePasswordChange(Request, frozen=True, kw_only=True):
    """Do again what failed, or go on without those who are waited for."""

    host: str | None = None
    """Name or id; when it is left out, the host that did the step before."""
    force: bool = False
    """Remove the old password although some hosts may only know that one."""


class PasswordChange(Wire, frozen=True, kw_only=True):
    """A change of a repository's password that is not over."""

    step: PasswdStep
    """`add`: the old password is in use. `remove`: the new one is, and the old one still opens the
    repository."""
    since: Instant
    """When the step began."""
    job_id: UUID | None
    """The job of the step; None while it waits for hosts."""
    waits_for: tuple[Name, ...] = ()
    """The hosts that may back up with the old password while they cannot reach the server."""


class StartedPasswordChange(Wire, frozen=True, kw_only=True):
    """The job that a change began with."""

    job: Job
    password: str | None = None
    """Only when the server made it and was asked to show it."""

    def __repr__(self) -> str:
        return f"StartedPasswordChange(job={self.job.id}, …)"


class RepositorySize(Wire, frozen=True, kw_only=True):
    """What a `stats` job measured. Sizes in bytes; `StatsResult` says of what."""

    measured_at: Instant
    total_size: int
    snapshots_count: int
    blobs_count: int
    uncompressed_size: int | None
    restore_size: int | None
    job_id: UUID | None


class RepositoryGrowth(Wire, frozen=True, kw_only=True):
    """How much larger the newest measurement is than the newest that is 30 days older; or than the
    oldest, while there is none so old."""

    bytes: int
    """Negative when it got smaller."""
    since: Instant
    """When the older one was made."""


class RepositoryLock(Wire, frozen=True, kw_only=True):
    """Jobs fail because another process holds the repository's lock, as far as the jobs know."""

    since: Instant
    """The end of the first job that failed of it."""
    job_id: UUID
    """The newest that did."""
    holder: str | None
    """In restic's words, like `PID 1967 on web-1 by root`; None when it did not tell."""
    message: str | None


class LastJob(Wire, frozen=True, kw_only=True):
    """The newest job of a kind that ended, or failed, on a host."""

    job_id: UUID
    host: Name
    state: JobState
    finished_at: Instant
    message: str | None


class LastCheck(LastJob, frozen=True, kw_only=True):
    """The newest check that came to an end, with or without errors found."""

    read_data_subset: str | None
    """Which part of the data it was to read; None when only the structure. One that failed without
    finding errors may have read nothing."""
    failure_class: FailureClass | None
    """`damaged` when it found errors."""


class Repository(Wire, frozen=True, kw_only=True):
    """A restic repository, without its secrets."""

    id: UUID
    name: Name
    location: str
    """With `***` in the place of a password."""
    environment_names: tuple[str, ...]
    created_at: Instant
    updated_at: Instant
    initialized_at: Instant | None
    """When it was first known to exist: after an `init`, or after a first job that used it."""
    restic_id: str | None
    """restic's own id of it, where restic told."""
    read_coverage: float = 0.0
    """How much of its data the checks of the last 30 days have read, 0 to 1. What was stored since
    counts as the rest does."""
    has_admin: bool = False
    """There is an admin credential."""
    admin_location: str | None = None
    """With `***` in the place of a password; None when it is the everyday one."""
    admin_environment_names: tuple[str, ...] = ()
    upkeep_host: Name | None = None
    """The only host that is given the admin credential, and that may delete."""
    password_change: PasswordChange | None = None
    size: RepositorySize | None = None
    """The newest measurement."""
    growth_30d: RepositoryGrowth | None = None
    lock: RepositoryLock | None = None
    """None as far as is known: a later job got the lock, or an unlock left none."""
    last_check: LastCheck | None = None
    last_prune: LastJob | None = None
    last_forget: LastJob | None = None


class AdoptRepository(Request, frozen=True, kw_only=True):
    """Vouch for snapshots that no job of Backhaul made."""

    snapshots: Annotated[tuple[WholeSnapshotId, ...], msgspec.Meta(max_length=1000)] | None = None
    """Whole ids; without them, all that the repository was last seen to hold and whose time is not
    in the future."""


class Adoption(Wire, frozen=True, kw_only=True):
    """What became of a repository that was taken over."""

    repository: Repository
    adopted: int
    """How many snapshots were doubted before, and are vouched for now."""
    doubted: int
    """How many still are."""


SourcePaths = Annotated[tuple[AbsolutePath, ...], msgspec.Meta(max_length=1000)]


class CreateSource(Request, frozen=True, kw_only=True):
    """Name a set of paths, or a dump. The name becomes the tag of each of its snapshots."""

    name: Name
    paths: SourcePaths = ()
    """At least one, unless it is a `dump`."""
    excludes: tuple[Pattern, ...] = ()
    tags: tuple[Tag, ...] = ()
    one_file_system: bool = False
    retention: Retention | None = None
    exclude_files: tuple[AbsolutePath, ...] = ()
    """Files of the host with a pattern in each line."""
    exclude_caches: bool = False
    """Leave out folders that hold a CACHEDIR.TAG."""
    exclude_larger_than: FileSize | None = None
    limit_upload: KibPerSecond | None = None
    """In KiB a second, like `limit_download`."""
    limit_download: KibPerSecond | None = None
    compression: Compression | None = None
    """Only in a repository of format 2; without it restic decides (`auto`)."""
    nice: Niceness | None = None
    ionice: IoClass | None = None
    dump: Name | None = None
    """The name of a dump command that the agent of each host has in its settings file."""


class UpdateSource(Request, frozen=True, kw_only=True):
    """Change a source. What is left out stays."""

    name: Name | UnsetType = UNSET
    """Snapshots that exist keep the old name as their tag."""
    paths: SourcePaths | UnsetType = UNSET
    """Empty them where `dump` is set."""
    excludes: tuple[Pattern, ...] | UnsetType = UNSET
    tags: tuple[Tag, ...] | UnsetType = UNSET
    one_file_system: bool | UnsetType = UNSET
    retention: Retention | UnsetType | None = UNSET
    exclude_files: tuple[AbsolutePath, ...] | UnsetType = UNSET
    exclude_caches: bool | UnsetType = UNSET
    exclude_larger_than: FileSize | UnsetType | None = UNSET
    limit_upload: KibPerSecond | UnsetType | None = UNSET
    limit_download: KibPerSecond | UnsetType | None = UNSET
    compression: Compression | UnsetType | None = UNSET
    nice: Niceness | UnsetType | None = UNSET
    ionice: IoClass | UnsetType | None = UNSET
    dump: Name | UnsetType | None = UNSET


class Source(Wire, frozen=True, kw_only=True):
    """What to back up and how: named paths or a dump, excludes, limits, retention."""

    id: UUID
    name: Name
    paths: tuple[str, ...]
    excludes: tuple[str, ...]
    tags: tuple[str, ...]
    one_file_system: bool
    retention: Retention | None
    created_at: Instant
    updated_at: Instant
    exclude_files: tuple[str, ...] = ()
    exclude_caches: bool = False
    exclude_larger_than: str | None = None
    limit_upload: int | None = None
    """In KiB a second, like `limit_download`."""
    limit_download: int | None = None
    compression: Compression | None = None
    nice: int | None = None
    ionice: IoClass | None = None
    dump: str | None = None


class Health(Wire, frozen=True, kw_only=True):
    """Whether this instance should be sent requests."""

    status: str
    version: str
