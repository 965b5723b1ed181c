"""The live view of a fleet in the cell of a notebook.

It lives in a thread with a client of its own, so that no other cell waits for it. News come by
long-poll: a fleet in which nothing happens costs one request in 20 s. Progress is no event, so
while a job runs, the view looks every two seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from backhaul._live import find_shell
from backhaul._watching import HOLD_S, EventWatch
from backhaul.client import Client
from backhaul.errors import BackhaulError, ConfigurationError
from backhaul.wire.events import Event
from backhaul.wire.fleet import Host, HostState
from backhaul.wire.jobs import ACTIVE_STATES, Job, JobState

if TYPE_CHECKING:
    from backhaul.async_client import AsyncClient

SHOWN_EVENTS = 10
SHOWN_ROWS = 20
"""Of jobs and of hosts: a page for people, not the whole fleet."""

RUNNING_HOLD_S = 2.0
RETRY_S = 5.0
SHORTEST_LOOK_S = 0.5
"""A fleet in which much happens is not looked at more often than somebody can read."""


class Scene:
    """What a view shows at one moment."""

    def __init__(self) -> None:
        # Replaced, never changed: another thread may be drawing them.
        self.events: tuple[Event, ...] = ()
        self.jobs: list[Job] = []
        self.away: list[Host] = []
        self.has_more = False
        self.trouble: BackhaulError | None = None
        self.is_over = False

    def look(self, client: Client) -> None:
        """Look at what is not told by events."""
        jobs = list(islice(client.list_jobs(states=sorted(ACTIVE_STATES)), SHOWN_ROWS + 1))
        away = list(islice(client.list_hosts(state=HostState.OFFLINE), SHOWN_ROWS + 1))
        self.has_more = max(len(jobs), len(away)) > SHOWN_ROWS
        self.jobs, self.away = jobs[:SHOWN_ROWS], away[:SHOWN_ROWS]

    @property
    def is_busy(self) -> bool:
        return any(job.state is JobState.RUNNING for job in self.jobs)

    def _repr_html_(self) -> str:
        from backhaul.html import render_scene

        return render_scene(self)

    def __repr__(self) -> str:
        from backhaul.html.plain import render_line

        lines: Sequence[Any] = [*self.jobs, *self.away, *reversed(self.events)]
        return "\n".join(map(render_line, lines)) or "Nothing runs, nobody is away."


class View:
    """A live view. It goes on until `stop`, or until the kernel ends."""

    def __init__(
        self,
        client: Client,
        show: Callable[[Scene], None],
        *,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._client = client
        self._show = show
        self._pause = pause
        self._stop = threading.Event()
        self._scene = Scene()
        self._thread = threading.Thread(target=self._follow, name="backhaul-view", daemon=True)

    def __repr__(self) -> str:
        return f"<View of {self._client.url}, {'following' if self.is_following else 'stopped'}>"

    def _ipython_display_(self) -> None:
        # What it shows stands above already.
        pass

    @property
    def is_following(self) -> bool:
        """Whether what it shows still changes."""
        return self._thread.is_alive() and not self._stop.is_set()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what is shown as it is. The request that is held open ends by itself."""
        if not self._stop.is_set():
            self._stop.set()
            self._scene.is_over = True
            self._show(self._scene)

    def _follow(self) -> None:
        watch = EventWatch(tail=SHOWN_EVENTS, is_followed=True)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._take_news(watch)
                self._scene.trouble = None
            except BackhaulError as error:
                # It may be back in a minute, and a view that died would look like a quiet fleet.
                self._scene.trouble = error
            if self._stop.is_set():
                break
            self._show(self._scene)
            spent_s = time.monotonic() - began
            rest_s = RETRY_S if self._scene.trouble else max(0.0, SHORTEST_LOOK_S - spent_s)
            self._pause(self._stop, max(rest_s, watch.pause_s))
        self._client.close()

    def _take_news(self, watch: EventWatch) -> None:
        call = watch.next_call()
        if call is None:
            raise RuntimeError("what follows has no end")
        page = self._client.send(call)
        watch.accept(page)
        self._scene.events = (*self._scene.events, *page.items)[-SHOWN_EVENTS:]
        self._scene.look(self._client)
        watch.hold_s = RUNNING_HOLD_S if self._scene.is_busy else HOLD_S


_shown: dict[str, View] = {}


def show_view(client: Client | AsyncClient) -> View:
    """Show a live view in the cell that runs; the one before, of the same server, stops.

    Raises:
        ConfigurationError: this is no notebook.
    """
    if find_shell() is None:
        raise ConfigurationError(
            "fleet.watch() shows itself in a notebook. Elsewhere: for event in "
            "fleet.events(follow=True), or `backhaul events -f`."
        )
    display = sys.modules["IPython.display"]
    view = View(client.copy_to_wait(), lambda scene: handle.update(scene))
    handle = display.display(view._scene, display_id=True)
    if (before := _shown.get(client.url)) is not None:
        before.stop()
    _shown[client.url] = view
    view.start()
    return view
