"""Who waits at a server that stores nothing, and what came for those who did not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

HOLD_S = 600.0
"""The longest; what an agent asks for counts, so that no poll ends while it is measured."""


class Parking:
    """An Event for each poll, as one would write it. The handler waits: a call more would be a
    frame more for each poll."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}
        self._due: dict[str, int] = {}

    def enter(self, token: str) -> asyncio.Event:
        """Give the event to wait for; it is set already if a job was quicker."""
        event = self._events[token] = asyncio.Event()
        if token in self._due:
            event.set()
        return event

    def build_reply(self, token: str) -> dict[str, Any]:
        """Take what is due."""
        found = [{"type": "command.run"}] * self._due.pop(token, 0)
        return {"envelopes": found, "hold": HOLD_S, "pause": 0.0}

    def wake(self, tokens: Iterable[str]) -> dict[str, str]:
        """Give each a job."""
        for token in tokens:
            self._due[token] = self._due.get(token, 0) + 1
            event = self._events.get(token)
            if event is not None:
                event.set()
        return {"state": "queued"}


def build_receipts(envelopes: Sequence[object]) -> dict[str, Any]:
    """Give the answer to a batch."""
    return {"receipts": [{"status": "ok"} for _ in envelopes]}
