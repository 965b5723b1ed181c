"""What jobs do: one module for each kind, with what is asked, what is ordered, and what came of it.

`…Request` is what an operator sends, `…Arguments` what an agent is told, `…Result` what it reports;
`…Options` is how a schedule of the kind is to do it. None of them imports another.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TypeAlias

import msgspec

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
    ExactSnapshotId,
    JobKind,
    Pattern,
    SnapshotId,
    Tag,
)
from backhaul.wire.kinds.check import (
    CheckArguments,
    CheckOptions,
    CheckRequest,
    CheckResult,
    ReadDataParts,
    ReadDataSubset,
)
from backhaul.wire.kinds.copy import CopyArguments, CopyOptions, CopyRequest, CopyResult
from backhaul.wire.kinds.diff import (
    DiffArguments,
    DiffChange,
    DiffCounts,
    DiffRequest,
    DiffResult,
)
from backhaul.wire.kinds.drill import DrillArguments, DrillOptions, DrillRequest, DrillResult
from backhaul.wire.kinds.forget import (
    ForgetArguments,
    ForgetGuard,
    ForgetRequest,
    ForgetResult,
    KeepCount,
    KeepWithin,
    Retention,
    SnapshotSetAside,
    SnapshotToGo,
)
from backhaul.wire.kinds.init import InitArguments, InitRequest, InitResult
from backhaul.wire.kinds.passwd import PasswdArguments, PasswdResult, PasswdStep
from backhaul.wire.kinds.prune import PruneArguments, PruneRequest, PruneResult
from backhaul.wire.kinds.restore import RestoreArguments, RestoreRequest, RestoreResult
from backhaul.wire.kinds.snapshots import SnapshotsArguments, SnapshotsRequest, SnapshotsResult
from backhaul.wire.kinds.stats import StatsArguments, StatsRequest, StatsResult
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
    | CopyArguments
    | StatsArguments
    | PasswdArguments
    | DrillArguments
    | DiffArguments
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
    | CopyRequest
    | StatsRequest
    | DrillRequest
    | DiffRequest
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
    | CopyResult
    | StatsResult
    | PasswdResult
    | DrillResult
    | DiffResult
)

ScheduleOptions: TypeAlias = CheckOptions | CopyOptions | DrillOptions

_OPTIONS: Mapping[str, type[ScheduleOptions]] = MappingProxyType(
    {JobKind.CHECK: CheckOptions, JobKind.COPY: CopyOptions, JobKind.DRILL: DrillOptions}
)


def kind_of(body: Arguments | JobRequest | Result | ScheduleOptions) -> JobKind:
    """Tell the kind of what is asked, ordered, reported or chosen."""
    return _kind_of_type(type(body))


@cache
def _kind_of_type(type_: type[msgspec.Struct]) -> JobKind:
    return JobKind(str(type_.__struct_config__.tag))


def find_options_type(kind: JobKind | str) -> type[ScheduleOptions] | None:
    """Give the options that a schedule of a kind can have; None when it has none."""
    return _OPTIONS.get(kind)


__all__ = [
    "AbsolutePath",
    "Arguments",
    "BackupArguments",
    "BackupRequest",
    "BackupResult",
    "CheckArguments",
    "CheckOptions",
    "CheckRequest",
    "CheckResult",
    "Compression",
    "CopyArguments",
    "CopyOptions",
    "CopyRequest",
    "CopyResult",
    "DiffArguments",
    "DiffChange",
    "DiffCounts",
    "DiffRequest",
    "DiffResult",
    "DrillArguments",
    "DrillOptions",
    "DrillRequest",
    "DrillResult",
    "ExactSnapshotId",
    "FileSize",
    "ForgetArguments",
    "ForgetGuard",
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
    "PasswdArguments",
    "PasswdResult",
    "PasswdStep",
    "Pattern",
    "PruneArguments",
    "PruneRequest",
    "PruneResult",
    "ReadDataParts",
    "ReadDataSubset",
    "RestoreArguments",
    "RestoreRequest",
    "RestoreResult",
    "Result",
    "Retention",
    "ScheduleOptions",
    "SnapshotId",
    "SnapshotSetAside",
    "SnapshotToGo",
    "SnapshotsArguments",
    "SnapshotsRequest",
    "SnapshotsResult",
    "StatsArguments",
    "StatsRequest",
    "StatsResult",
    "Tag",
    "UnlockArguments",
    "UnlockRequest",
    "UnlockResult",
    "find_options_type",
    "kind_of",
]
