"""New ids: UUIDv7, so that rows sort by the time at which they were made."""

from __future__ import annotations

from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """Make an id that is greater than those made before it in this process."""
    return uuid_utils.compat.uuid7()
