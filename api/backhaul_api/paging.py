"""Cursors: opaque, URL-safe, made of the sort key of the last item of a page."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from litestar.params import QueryParameter

from backhaul_api.errors import InvalidError

T = TypeVar("T")

DEFAULT_LIMIT = 100

Limit = Annotated[
    int, QueryParameter(ge=1, le=1000, description="How many items a page has at most.")
]
Cursor = Annotated[
    str | None,
    QueryParameter(description="`next_cursor` of the page before; without it, the first."),
]


def encode_cursor(*key: object) -> str:
    """Build the cursor that follows the item with this sort key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode_cursor(cursor: str, type_: type[T]) -> T:
    """Read a cursor back as a tuple of the given types, like `tuple[str, UUID]`.

    Raises:
        InvalidError: it is not a cursor of this list.
    """
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        text = base64.b64decode(padded, altchars=b"-_", validate=True)
        if b"\\u0000" in text:
            raise ValueError("PostgreSQL knows no such text")
        key = msgspec.json.decode(text, type=type_)
        if isinstance(key, tuple) and any(map(_is_local, key)):
            raise ValueError("a moment is not in UTC")
        return key
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidError.of(
            "cursor", "is not a cursor of this list; use next_cursor as it was given"
        ) from error


def _is_local(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not UTC


def split_page(rows: list[Any], limit: int) -> tuple[list[Any], bool]:
    """Cut what was fetched with `limit + 1` to a page; tells whether more follows."""
    return rows[:limit], len(rows) > limit
