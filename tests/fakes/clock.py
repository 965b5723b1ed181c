"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class FakeClock:
    """Stands in for the API's `Clock`."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float = 0.0, **more: float) -> datetime:
        """Move on by seconds and by whatever else `timedelta` takes; gives the new time."""
        self._now += timedelta(seconds=seconds, **more)
        return self._now
