"""Which failed logins are written down: enough to see an attack, too few to be one.

Each entry of the audit log is a write, and whoever guesses passwords must not fill the disk with
them. Every attempt has its line in the log of requests anyway.
"""

from __future__ import annotations

from datetime import datetime, timedelta

WINDOW = timedelta(minutes=1)

MAX_PER_WINDOW = 20
"""For all usernames together; each of them has at most one entry."""

_SHOWN_LENGTH = 63  # as long as a username can be


class FailedLogins:
    """Remembers what this process wrote down in the current minute."""

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._noted: set[str] = set()

    def is_worth_noting(self, username: str, *, now: datetime) -> bool:
        """Tell whether to write this one down; what was told to be is not worth it again."""
        if self._since is None or now - self._since >= WINDOW:
            self._since = now
            self._noted.clear()
        if username in self._noted or len(self._noted) >= MAX_PER_WINDOW:
            return False
        self._noted.add(username)
        return True


def shorten(username: str) -> str:
    """Build what is shown of a username that somebody tried."""
    username = username.lower()
    return username if len(username) <= _SHOWN_LENGTH else f"{username[:_SHOWN_LENGTH]}…"
