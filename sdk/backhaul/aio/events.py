"""Events: what happened in the fleet, and what happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from backhaul import _requests
from backhaul._fields import Event, HostFields
from backhaul.aio.collections import AsyncCollection
from backhaul.wire.events import Event as EventData

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet

SHOWN = 100
"""So many of the newest events are `fleet.events`, until more are asked for."""


class AsyncEvents(AsyncCollection[Event]):
    """The newest events, oldest first. Call it to narrow down, to go further back, or to follow."""

    def __init__(
        self,
        fleet: AsyncFleet,
        *,
        follow: bool = False,
        tail: int | None = SHOWN,
        kinds: tuple[str, ...] = (),
        host: str | None = None,
    ) -> None:
        self._fleet = fleet
        self._follow = follow
        self._tail = tail
        self._kinds = kinds
        self._host = host
        filters = {"kind": kinds, "host": host, "follow": follow}
        super().__init__(self._read, Event, noun="events", filters=filters)

    def __call__(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        kind: str | Iterable[str] = (),
        host: HostFields | UUID | str | None = None,
    ) -> AsyncEvents:
        """Give all events of the last 30 days, or the last `tail`; asks nothing yet.

        With `follow`, iterating never ends: each event is given within a second of its happening,
        after the last `tail` that are there (by default none). `kind` is like `job.failed`, or
        `job` for all of jobs; it takes several.
        """
        return AsyncEvents(
            self._fleet,
            follow=follow,
            tail=0 if follow and tail is None else tail,
            kinds=(kind,) if isinstance(kind, str) else tuple(kind),
            host=_requests.find_key("host", host),
        )

    def _repr_html_(self) -> str:
        if not self._follow:
            return super()._repr_html_()
        from backhaul.html import render_note

        return render_note(f"{self._describe()}: iterate, or see fleet.watch().")

    async def _read(self, limit: int | None) -> AsyncIterator[EventData]:
        client, left = self._fleet.client, limit
        if left is not None and left <= 0:
            return
        if self._follow:
            events = client.follow_events(kinds=self._kinds, host=self._host, tail=self._tail or 0)
        else:
            events = client.list_events(kinds=self._kinds, host=self._host, tail=self._tail)
        async for event in events:
            yield event
            left = None if left is None else left - 1
            if left == 0:
                return
