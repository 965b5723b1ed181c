"""What this host does for each kind of job: what we want, over what `restic` takes.

Each module has `work`, which does the job and gives its ending. A kind is added by a module here,
one in `restic` if it needs a command of its own, and a line in `_WORK`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from backhaul.wire.kinds import (
    Arguments,
    BackupArguments,
    CheckArguments,
    CopyArguments,
    DiffArguments,
    DrillArguments,
    ForgetArguments,
    InitArguments,
    PasswdArguments,
    PruneArguments,
    RestoreArguments,
    SnapshotsArguments,
    StatsArguments,
    UnlockArguments,
)
from backhaul_agent.bench import Bench
from backhaul_agent.ending import Ending
from backhaul_agent.kinds import (
    backup,
    check,
    copy,
    diff,
    drill,
    forget,
    init,
    passwd,
    prune,
    restore,
    snapshots,
    stats,
    unlock,
)

_WORK: Mapping[type[Arguments], Callable[[Bench, Any], Awaitable[Ending]]] = {
    InitArguments: init.work,
    BackupArguments: backup.work,
    SnapshotsArguments: snapshots.work,
    RestoreArguments: restore.work,
    ForgetArguments: forget.work,
    PruneArguments: prune.work,
    CheckArguments: check.work,
    UnlockArguments: unlock.work,
    CopyArguments: copy.work,
    StatsArguments: stats.work,
    PasswdArguments: passwd.work,
    DrillArguments: drill.work,
    DiffArguments: diff.work,
}


async def work(bench: Bench, arguments: Arguments) -> Ending:
    """Do a job, which the policy allows.

    Raises:
        RunEndedError, ResticMissingError, ResticStartError
    """
    return await _WORK[type(arguments)](bench, arguments)
