"""What came back of a request: read as far as it is worth reading, or where it was lost.

Nobody is believed to be the server: only an answer with the protocol's header is read at all, and
that no further than any server of ours would write.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from backhaul.wire.base import PROTOCOL_HEADER
from backhaul_agent.errors import Loss

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Decompressed."""

_GATEWAY_STATUSES = frozenset({502, 504, 524})
"""A gateway gave up on a request that it had passed on; 524 is Cloudflare's."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, read as far as it is worth reading."""

    status: int
    is_ours: bool
    """It has the protocol's header."""
    retry_after_s: float | None
    content: bytes
    """Empty for an answer that is not ours."""


async def read_reply(response: httpx.Response) -> Reply:
    """Read an answer whose header is here, decompressed.

    Raises:
        httpx.HTTPError: the body breaks off, cannot be decompressed, or is too large.
    """
    is_ours = PROTOCOL_HEADER in response.headers
    return Reply(
        status=response.status_code,
        is_ours=is_ours,
        retry_after_s=_read_retry_after(response.headers.get("Retry-After")),
        content=await _read_bounded(response) if is_ours else b"",
    )


def find_loss(error: Exception) -> Loss:
    """Tell where a request was lost. A connection that never came about was not a request."""
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return Loss.TIMED_OUT
    if isinstance(error, httpx.NetworkError | httpx.ProtocolError):
        return Loss.NOT_SENT if isinstance(error, httpx.ConnectError) else Loss.CUT
    if isinstance(error, httpx.DecodingError):
        return Loss.OTHER
    return Loss.TIMED_OUT if type(error) is TimeoutError else Loss.NOT_SENT


def find_loss_of_stranger(status: int) -> Loss:
    if status == 413:
        return Loss.TOO_LARGE
    return Loss.CUT if status in _GATEWAY_STATUSES else Loss.OTHER


def describe(error: Exception) -> str:
    """Name an error for people: httpx leaves the text of timeouts empty."""
    name = type(error).__name__
    return f"{name}: {error}" if str(error) else name


def _read_retry_after(value: str | None) -> float | None:
    """Read both forms of Retry-After: seconds, and an HTTP date."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (at - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError, TypeError):
        return None  # Whoever wrote that may say anything.


async def _read_bounded(response: httpx.Response) -> bytes:
    """Read the body; what no server of ours sends is not kept in memory."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise httpx.DecodingError("the answer is too large", request=response.request)
    return bytes(content)
