"""Since when a host must be silent for its jobs to count as lost, and to keep nobody waiting."""

from __future__ import annotations

from datetime import datetime, timedelta

from backhaul_api.settings import Settings

HEARING_AGAIN = timedelta(minutes=5)
"""After the start of an instance, agents take up to a minute to come back. Hosts that could not be
heard for want of a server are not silent."""


class Silence:
    """What one instance can tell of it, which has listened from a moment on."""

    def __init__(self, settings: Settings, listens_from: datetime) -> None:
        self.listens_from = listens_from
        self._lost_after = timedelta(seconds=settings.lost_after)
        # A function, which may live for one request, lives too short to wait until it can tell.
        self._is_function = not settings.background or settings.poll_hold <= 0

    def find_since(self, now: datetime) -> datetime | None:
        """Give the moment; None when this instance cannot tell yet."""
        if now - self.listens_from < HEARING_AGAIN and not self._is_function:
            return None
        return now - self._lost_after
