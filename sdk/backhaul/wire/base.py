"""What every message is made of.

Messages are frozen, keyword-only msgspec structs (each says so itself: msgspec does not
inherit kw_only, nor mypy frozen). Evolution follows one rule: a new field has a
default, and the meaning or type of an existing field never changes. Readers of the agent protocol
ignore fields that they do not know, so versions can be mixed. Bodies that an operator sends derive
from `Request` instead and refuse unknown fields: a mistyped field must not be dropped silently.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

PROTOCOL_VERSION = 1
"""The version that this code speaks; it stands in every request and every answer."""

PROTOCOL_HEADER = "Backhaul-Protocol"

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware moment. Writers give UTC; the JSON form is RFC 3339."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]
"""A duration."""

Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=63,
        # Python's $ also matches before a newline at the end; a pattern ends in $(?!\n) for that.
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)",
        description="Letters, digits, dot, underscore and hyphen; starts with a letter or digit.",
    ),
]
"""What an operator calls a host, a repository or a source."""

REQUEST_KEY_PATTERN = r"^[\x21-\x7e]+$"
"""Of the header `Idempotency-Key`."""

MAX_LABELS = 64

_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)"

LabelText = Annotated[str, msgspec.Meta(max_length=255, pattern=_NO_CONTROL)]

Labels = Annotated[
    dict[Annotated[str, msgspec.Meta(min_length=1, max_length=63, pattern=_NO_CONTROL)], LabelText],
    msgspec.Meta(max_length=MAX_LABELS),
]
"""Host labels: free key and value pairs to select hosts by, without control characters."""


class Wire(msgspec.Struct, frozen=True):
    """A message or a part of one."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that an operator sends."""


class ProtocolRange(Wire, frozen=True, kw_only=True):
    """The protocol versions that a program speaks, both ends included."""

    minimum: int
    maximum: int


SPOKEN_PROTOCOLS = ProtocolRange(minimum=PROTOCOL_VERSION, maximum=PROTOCOL_VERSION)
