"""New ids: UUIDv7, so that rows sort by the time at which they were made."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """Make an id that is greater than those made before it in this process."""
    return uuid_utils.compat.uuid7()


def first_id_at(moment: datetime) -> UUID:
    """Build what is greater than all ids made before a moment, and smaller than those made later,
    to the millisecond."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80 | _VERSION_7)


# RFC 9562: 48 bits of time, then the version.
_VERSION_7 = 7 << 76
