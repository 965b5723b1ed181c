"""What jobs do: one module for each kind, with what is asked, what is ordered, and what came of it.

`…Request` is what an operator sends, `…Arguments` what an agent is told, `…Result` what it reports.
None of them imports another.
"""

from __future__ import annotations

from backhaul.wire.kinds.backup import (
    BackupArguments,
    BackupRequest,
    BackupResult,
    Compression,
    FileSize,
    IoClass,
    KibPerSecond,
    Niceness,
)
from backhaul.wire.kinds.base import (
    AbsolutePath,
    JobKind,
    Pattern,
    SnapshotId,
    Tag,
)
from backhaul.wire.kinds.check import CheckArguments, CheckRequest, CheckResult, ReadDataSubset
from backhaul.wire.kinds.forget import (
    ForgetArguments,
    ForgetRequest,
    ForgetResult,
    KeepCount,
    KeepWithin,
    Retention,
)
from backhaul.wire.kinds.init import InitArguments, InitRequest, InitResult
from backhaul.wire.kinds.prune import PruneArguments, PruneRequest, PruneResult
from backhaul.wire.kinds.restore import RestoreArguments, RestoreRequest, RestoreResult
from backhaul.wire.kinds.snapshots import SnapshotsArguments, SnapshotsRequest, SnapshotsResult
from backhaul.wire.kinds.unlock import UnlockArguments, UnlockRequest, UnlockResult

Arguments = (
    InitArguments
    | BackupArguments
    | SnapshotsArguments
    | RestoreArguments
    | ForgetArguments
    | PruneArguments
    | CheckArguments
    | UnlockArguments
)

JobRequest = (
    InitRequest
    | BackupRequest
    | SnapshotsRequest
    | RestoreRequest
    | ForgetRequest
    | PruneRequest
    | CheckRequest
    | UnlockRequest
)

Result = (
    InitResult
    | BackupResult
    | SnapshotsResult
    | RestoreResult
    | ForgetResult
    | PruneResult
    | CheckResult
    | UnlockResult
)


def kind_of(body: Arguments | JobRequest | Result) -> JobKind:
    """Tell the kind of what is asked, ordered or reported."""
    return JobKind(str(body.__struct_config__.tag))


__all__ = [
    "AbsolutePath",
    "Arguments",
    "BackupArguments",
    "BackupRequest",
    "BackupResult",
    "CheckArguments",
    "CheckRequest",
    "CheckResult",
    "Compression",
    "FileSize",
    "ForgetArguments",
    "ForgetRequest",
    "ForgetResult",
    "InitArguments",
    "InitRequest",
    "InitResult",
    "IoClass",
    "JobKind",
    "JobRequest",
    "KeepCount",
    "KeepWithin",
    "KibPerSecond",
    "Niceness",
    "Pattern",
    "PruneArguments",
    "PruneRequest",
    "PruneResult",
    "ReadDataSubset",
    "RestoreArguments",
    "RestoreRequest",
    "RestoreResult",
    "Result",
    "Retention",
    "SnapshotId",
    "SnapshotsArguments",
    "SnapshotsRequest",
    "SnapshotsResult",
    "Tag",
    "UnlockArguments",
    "UnlockRequest",
    "UnlockResult",
    "kind_of",
]
