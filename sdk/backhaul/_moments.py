"""Moments and durations as people write them: `7d`, `12h`, `30m`, or what Python has for them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import overload

from backhaul.errors import refuse

_TERM = re.compile(r"(\d{1,6})([wdhms])")
_TEXT = re.compile(rf"(?:{_TERM.pattern})+")
SECONDS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}


def find_now() -> datetime:
    """Give the time in UTC."""
    return datetime.now(UTC)


def find_moment(field: str, value: datetime | timedelta | str | None) -> datetime | None:
    """Give the moment: itself, or so long ago.

    Raises:
        InvalidRequestError: it has no time zone, or cannot be read.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise refuse(field, "needs a time zone, like datetime.now(UTC) has")
        return value
    if isinstance(value, str) and not _TEXT.fullmatch(value):
        return _parse_moment(field, value)
    try:
        return find_now() - timedelta(seconds=find_seconds(field, value))
    except OverflowError:
        raise refuse(field, f"{value!r} is before all time") from None


@overload
def find_seconds(field: str, value: timedelta | str) -> float: ...
@overload
def find_seconds(field: str, value: None) -> None: ...
@overload
def find_seconds(field: str, value: timedelta | str | None) -> float | None: ...
def find_seconds(field: str, value: timedelta | str | None) -> float | None:
    """Give a duration in seconds.

    Raises:
        InvalidRequestError: it cannot be read, or is negative.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if not _TEXT.fullmatch(value):
            raise refuse(field, f"{value!r} is no duration like 7d, 12h, 30m or 1d12h")
        return float(sum(int(n) * SECONDS[unit] for n, unit in _TERM.findall(value)))
    if not isinstance(value, timedelta):
        raise refuse(field, f"takes a duration like '7d' or timedelta(days=7), not {value!r}")
    if value < timedelta(0):
        raise refuse(field, "must not be negative")
    return value.total_seconds()


def _parse_moment(field: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise refuse(
            field, f"{text!r} is neither a duration like 7d nor a moment like 2026-11-01T00:00:00Z"
        ) from None
    if moment.utcoffset() is None:
        raise refuse(field, f"{text!r} needs a time zone, like 2026-11-01T00:00:00Z")
    return moment
