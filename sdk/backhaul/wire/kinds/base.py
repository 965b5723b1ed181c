"""The kinds of jobs, and what several of them are asked with."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class JobKind(StrEnum):
    """What a job does, in restic's words."""

    INIT = "init"
    BACKUP = "backup"
    SNAPSHOTS = "snapshots"
    RESTORE = "restore"
    FORGET = "forget"
    PRUNE = "prune"
    CHECK = "check"
    UNLOCK = "unlock"
    COPY = "copy"
    STATS = "stats"
    PASSWD = "passwd"
    DRILL = "drill"
    DIFF = "diff"


EXCLUSIVE_KINDS = frozenset({JobKind.FORGET, JobKind.PRUNE, JobKind.CHECK, JobKind.PASSWD})
"""restic locks the whole repository for these: they wait for all others on it, and all others for
them, on whichever host."""


AbsolutePath = Annotated[
    str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$", examples=["/etc"])
]


Pattern = Annotated[
    str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^[^\x00\r\n]+$(?!\n)")
]


Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00\r\n,]+$(?!\n)")]


SnapshotId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(latest|[0-9a-f]{8,64})$(?!\n)",
        description="A snapshot id of at least 8 hex digits, or latest.",
    ),
]


ExactSnapshotId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-f]{8,64}$(?!\n)",
        description="A snapshot id of at least 8 hex digits.",
        examples=["0a1b2c3d"],
    ),
]
"""Where `latest` would not say which one is meant."""
