"""The things of the fleet that operators make and look at: hosts, repositories, sources."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from backhaul.wire.agents import HostFacts
from backhaul.wire.base import Instant, Labels, Name, Request, Wire
from backhaul.wire.kinds import (
    AbsolutePath,
    Compression,
    FileSize,
    IoClass,
    KibPerSecond,
    Niceness,
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


class CreateRepository(Request, frozen=True, kw_only=True):
    """Record a repository. Nothing is created at its location until an `init` job ran."""

    name: Name
    location: Location
    """As restic writes it. A password in it is kept as a secret and shown as `***`."""
    password: RepositoryPassword
    environment: Environment = {}
    """For restic, like AWS_ACCESS_KEY_ID. All values are secret."""

    def __repr__(self) -> str:
        return f"CreateRepository(name={self.name!r}, …)"


class UpdateRepository(Request, frozen=True, kw_only=True):
    """Change the record of a repository. What is left out stays."""

    name: Name | UnsetType = UNSET
    location: Location | UnsetType = UNSET
    password: RepositoryPassword | UnsetType = UNSET
    """What Backhaul will use from now on; the repository's own keys are not touched."""
    environment: Environment | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"UpdateRepository(name={self.name!r}, …)"


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
