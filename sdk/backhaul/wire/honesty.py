"""Which snapshots are honest: made by a job, or vouched for, at a time that can be true.

Whoever holds what opens a repository can write snapshots with any time, host name and tag. By such
snapshots nothing is decided. The server shows its doubts by these rules; before a forget, the agent
judges by the same ones what restic lists.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from backhaul.wire.base import Wire

TOLERANCE = timedelta(minutes=5)
"""How far a host's clock may be off the server's before its snapshots are doubted."""

ID_DIGITS = 16
"""Of a snapshot's id: enough that nobody finds a second one that begins like it."""


class Doubt(StrEnum):
    """Why a snapshot is neither counted nor removed."""

    FUTURE = "its time is in the future"
    UNKNOWN = "no job of Backhaul has reported it"
    TIME = "its time is not that of its job"
    HOST = "its host is not that of its job"


class Origin(Wire, frozen=True, array_like=True):
    """Where a snapshot comes from, and what must be true of it then.

    ["9f86d081884c7d65", 1763985300, 1763985960, "web-1"]
    """

    id: str
    """The first `ID_DIGITS` digits."""
    since: int
    """Its time is not before this: seconds since 1970."""
    until: int
    hostname: str
    """Empty when its job's host may not write under the name that it bears."""


def judge(
    *, time: datetime | None, hostname: str, origin: Origin | None, now: datetime
) -> Doubt | None:
    """Say what speaks against a snapshot, or None; a time of None is one that cannot be read."""
    if time is not None and time - now > TOLERANCE:
        return Doubt.FUTURE
    if origin is None:
        return Doubt.UNKNOWN
    if time is None or not origin.since <= time.timestamp() <= origin.until:
        return Doubt.TIME
    return None if hostname == origin.hostname else Doubt.HOST
