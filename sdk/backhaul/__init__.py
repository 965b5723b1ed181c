"""Backhaul: back up a fleet of machines with restic, from Python.

    import backhaul

    with backhaul.connect() as fleet:
        job = fleet.hosts["web-1"].backup(source="etc")
        job.wait(raise_on_failure=True)
        print(job.summary)

Names are loaded when they are first used, so that the import costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet
    from backhaul.aio.hosts import AsyncHost
    from backhaul.aio.jobs import AsyncJob
    from backhaul.aio.repositories import AsyncRepository
    from backhaul.aio.schedules import AsyncSchedule
    from backhaul.aio.snapshots import AsyncSnapshot
    from backhaul.aio.sources import AsyncSource
    from backhaul.aio.users import AsyncUser
    from backhaul.async_client import AsyncClient
    from backhaul.client import Client
    from backhaul.errors import (
        ApiError,
        BackhaulError,
        ConfigurationError,
        ConflictError,
        ConnectionFailedError,
        InvalidRequestError,
        JobFailedError,
        JobNotFinishedError,
        MissingPackageError,
        NoAnswerError,
        NotAllowedError,
        NotAuthenticatedError,
        NotFoundError,
        PreconditionFailedError,
        RateLimitedError,
        ServerFailedError,
        TimedOutError,
        UndecodableReplyError,
    )
    from backhaul.objects.fleet import Fleet
    from backhaul.objects.hosts import Host
    from backhaul.objects.jobs import Job
    from backhaul.objects.repositories import Repository
    from backhaul.objects.schedules import Schedule
    from backhaul.objects.snapshots import Snapshot
    from backhaul.objects.sources import Source
    from backhaul.objects.users import User
    from backhaul.settings import aconnect, connect
    from backhaul.wire.accounts import CreateApiToken, CreateEnrollmentToken
    from backhaul.wire.fleet import (
        CreateRepository,
        CreateSource,
        HostState,
        UpdateHost,
        UpdateRepository,
        UpdateSource,
    )
    from backhaul.wire.jobs import JobState
    from backhaul.wire.kinds import (
        BackupRequest,
        CheckRequest,
        CopyRequest,
        DiffRequest,
        DrillRequest,
        ForgetRequest,
        InitRequest,
        JobKind,
        PruneRequest,
        RestoreRequest,
        Retention,
        SnapshotsRequest,
        UnlockRequest,
    )
    from backhaul.wire.schedules import (
        CreateSchedule,
        ScheduleKind,
        SchedulePreview,
        UpdateSchedule,
    )

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncFleet",
    "AsyncHost",
    "AsyncJob",
    "AsyncRepository",
    "AsyncSchedule",
    "AsyncSnapshot",
    "AsyncSource",
    "AsyncUser",
    "BackhaulError",
    "BackupRequest",
    "CheckRequest",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "CopyRequest",
    "CreateApiToken",
    "CreateEnrollmentToken",
    "CreateRepository",
    "CreateSchedule",
    "CreateSource",
    "DiffRequest",
    "DrillRequest",
    "Fleet",
    "ForgetRequest",
    "Host",
    "HostState",
    "InitRequest",
    "InvalidRequestError",
    "Job",
    "JobFailedError",
    "JobKind",
    "JobNotFinishedError",
    "JobState",
    "MissingPackageError",
    "NoAnswerError",
    "NotAllowedError",
    "NotAuthenticatedError",
    "NotFoundError",
    "PreconditionFailedError",
    "PruneRequest",
    "RateLimitedError",
    "Repository",
    "RestoreRequest",
    "Retention",
    "Schedule",
    "ScheduleKind",
    "SchedulePreview",
    "ServerFailedError",
    "Snapshot",
    "SnapshotsRequest",
    "Source",
    "TimedOutError",
    "UndecodableReplyError",
    "UnlockRequest",
    "UpdateHost",
    "UpdateRepository",
    "UpdateSchedule",
    "UpdateSource",
    "User",
    "aconnect",
    "connect",
]

# What is public and not in this table is an error class.
_MODULES = {
    "AsyncFleet": "backhaul.aio.fleet",
    "AsyncHost": "backhaul.aio.hosts",
    "AsyncJob": "backhaul.aio.jobs",
    "AsyncRepository": "backhaul.aio.repositories",
    "AsyncSchedule": "backhaul.aio.schedules",
    "AsyncSnapshot": "backhaul.aio.snapshots",
    "AsyncSource": "backhaul.aio.sources",
    "AsyncUser": "backhaul.aio.users",
    "AsyncClient": "backhaul.async_client",
    "Client": "backhaul.client",
    "Fleet": "backhaul.objects.fleet",
    "Host": "backhaul.objects.hosts",
    "Job": "backhaul.objects.jobs",
    "Repository": "backhaul.objects.repositories",
    "Schedule": "backhaul.objects.schedules",
    "Snapshot": "backhaul.objects.snapshots",
    "Source": "backhaul.objects.sources",
    "User": "backhaul.objects.users",
    "aconnect": "backhaul.settings",
    "connect": "backhaul.settings",
    "CreateApiToken": "backhaul.wire.accounts",
    "CreateEnrollmentToken": "backhaul.wire.accounts",
    "CreateRepository": "backhaul.wire.fleet",
    "CreateSource": "backhaul.wire.fleet",
    "HostState": "backhaul.wire.fleet",
    "UpdateHost": "backhaul.wire.fleet",
    "UpdateRepository": "backhaul.wire.fleet",
    "UpdateSource": "backhaul.wire.fleet",
    "BackupRequest": "backhaul.wire.kinds",
    "CheckRequest": "backhaul.wire.kinds",
    "CopyRequest": "backhaul.wire.kinds",
    "DiffRequest": "backhaul.wire.kinds",
    "DrillRequest": "backhaul.wire.kinds",
    "ForgetRequest": "backhaul.wire.kinds",
    "InitRequest": "backhaul.wire.kinds",
    "JobKind": "backhaul.wire.kinds",
    "JobState": "backhaul.wire.jobs",
    "PruneRequest": "backhaul.wire.kinds",
    "RestoreRequest": "backhaul.wire.kinds",
    "Retention": "backhaul.wire.kinds",
    "SnapshotsRequest": "backhaul.wire.kinds",
    "UnlockRequest": "backhaul.wire.kinds",
    "CreateSchedule": "backhaul.wire.schedules",
    "ScheduleKind": "backhaul.wire.schedules",
    "SchedulePreview": "backhaul.wire.schedules",
    "UpdateSchedule": "backhaul.wire.schedules",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'backhaul' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES.get(name, "backhaul.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
