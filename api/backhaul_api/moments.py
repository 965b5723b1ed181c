"""Moments in addresses: RFC 3339 with an offset."""

from __future__ import annotations

import re
from datetime import datetime
from typing import overload

from backhaul_api.errors import InvalidError

_LOST_PLUS = re.compile(r" (?=\d\d:?\d\d$)")
_YEARS = range(1970, 2200)
"""Rules of time zones say nothing about times far from ours."""


@overload
def parse_moment(field: str, text: str) -> datetime: ...
@overload
def parse_moment(field: str, text: None) -> None: ...
@overload
def parse_moment(field: str, text: str | None) -> datetime | None: ...
def parse_moment(field: str, text: str | None) -> datetime | None:
    """Read a moment of the query.

    Raises:
        InvalidError: it is not RFC 3339 with an offset, or far from our time.
    """
    if text is None:
        return None
    remedy = "like 2026-10-24T00:00:00+01:00 (in an address, + is written %2B)"
    try:
        # In an address that nobody encoded, the plus of the offset is read as a space.
        moment = datetime.fromisoformat(_LOST_PLUS.sub("+", text))
    except ValueError as error:
        raise InvalidError.of(field, f"write RFC 3339 with an offset, {remedy}") from error
    if moment.tzinfo is None:
        raise InvalidError.of(field, f"needs an offset, {remedy}")
    if moment.year not in _YEARS:
        raise InvalidError.of(field, f"must be in the years {_YEARS.start} to {_YEARS.stop - 1}")
    return moment
