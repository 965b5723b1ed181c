"""Backhaul: back up a fleet of machines with restic, from Python.

    import backhaul

    with backhaul.connect() as client:
        backup = backhaul.BackupRequest(host="web-1", repository="nas", source="etc")
        job = client.create_job(backup)
        client.wait_for_job(job.id, raise_on_failure=True)

Names are loaded when they are first used, so that the import costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
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
    from backhaul.settings import aconnect, connect
    from backhaul.wire.accounts import CreateApiToken, CreateEnrollmentToken
    from backhaul.wire.fleet import (
        CreateRepository,
        CreateSource,
        Host,
        Repository,
        Source,
        UpdateHost,
        UpdateRepository,
        UpdateSource,
    )
    from backhaul.wire.jobs import (
        BackupRequest,
        CheckRequest,
        ForgetRequest,
        InitRequest,
        Job,
        JobKind,
        JobState,
        PruneRequest,
        RestoreRequest,
        Retention,
        SnapshotsRequest,
    )
    from backhaul.wire.schedules import (
        CreateSchedule,
        Schedule,
        ScheduleKind,
        SchedulePreview,
        UpdateSchedule,
    )
    from backhaul.wire.snapshots import Snapshot

__all__ = [
    "ApiError",
    "AsyncClient",
    "BackhaulError",
    "BackupRequest",
    "CheckRequest",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "CreateApiToken",
    "CreateEnrollmentToken",
    "CreateRepository",
    "CreateSchedule",
    "CreateSource",
    "ForgetRequest",
    "Host",
    "InitRequest",
    "InvalidRequestError",
    "Job",
    "JobFailedError",
    "JobKind",
    "JobNotFinishedError",
    "JobState",
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
    "UpdateHost",
    "UpdateRepository",
    "UpdateSchedule",
    "UpdateSource",
    "aconnect",
    "connect",
]

# What is public and not in this table is an error class.
_MODULES = {
    "AsyncClient": "backhaul.async_client",
    "Client": "backhaul.client",
    "CreateApiToken": "backhaul.wire.accounts",
    "CreateEnrollmentToken": "backhaul.wire.accounts",
    "CreateRepository": "backhaul.wire.fleet",
    "CreateSource": "backhaul.wire.fleet",
    "Host": "backhaul.wire.fleet",
    "Repository": "backhaul.wire.fleet",
    "Source": "backhaul.wire.fleet",
    "UpdateHost": "backhaul.wire.fleet",
    "UpdateRepository": "backhaul.wire.fleet",
    "UpdateSource": "backhaul.wire.fleet",
    "BackupRequest": "backhaul.wire.jobs",
    "CheckRequest": "backhaul.wire.jobs",
    "ForgetRequest": "backhaul.wire.jobs",
    "InitRequest": "backhaul.wire.jobs",
    "Job": "backhaul.wire.jobs",
    "JobKind": "backhaul.wire.jobs",
    "JobState": "backhaul.wire.jobs",
    "PruneRequest": "backhaul.wire.jobs",
    "RestoreRequest": "backhaul.wire.jobs",
    "Retention": "backhaul.wire.jobs",
    "SnapshotsRequest": "backhaul.wire.jobs",
    "CreateSchedule": "backhaul.wire.schedules",
    "Schedule": "backhaul.wire.schedules",
    "ScheduleKind": "backhaul.wire.schedules",
    "SchedulePreview": "backhaul.wire.schedules",
    "UpdateSchedule": "backhaul.wire.schedules",
    "Snapshot": "backhaul.wire.snapshots",
    "aconnect": "backhaul.settings",
    "connect": "backhaul.settings",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'backhaul' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES.get(name, "backhaul.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
