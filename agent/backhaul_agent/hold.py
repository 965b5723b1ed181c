"""How long a poll is held: what the settings, the server and the path between them can stand.

A path that cuts idle requests shows itself by polls that break late in their hold, or twice at the
same age: a server that restarts cuts at any age, a proxy always at its own. Then the hold shrinks
below that age, and once in a long while a longer one is tried again.
"""

from __future__ import annotations

from backhaul_agent.errors import LinkLostError, Loss

SHORTEST_S = 5.0
MARGIN = 0.8
"""Of the age at which a poll was cut."""
SAME_AGE = 0.15
"""Two ages that differ by no more than this part of them, or by a second, are the same."""
PROBE_AFTER_S = 3600.0
PROBE_FACTOR = 1.5
_BY_THE_PATH = frozenset({Loss.CUT, Loss.TIMED_OUT})


class Hold:
    """The hold of the next poll, in seconds."""

    def __init__(self, longest_s: float, *, now_s: float) -> None:
        self._longest_s = longest_s
        self._server_s = longest_s
        self._path_s = longest_s
        self._changed_at_s = now_s
        self._last_cut_s: float | None = None

    @property
    def seconds(self) -> float:
        return min(self._longest_s, self._server_s, self._path_s)

    def note_answer(self, server_hold_s: float, *, now_s: float) -> None:
        """The server named what it allows; after a quiet hour the path is tried a bit longer."""
        self._server_s = server_hold_s
        self._last_cut_s = None
        if self._path_s < self._longest_s and now_s - self._changed_at_s >= PROBE_AFTER_S:
            self._path_s = min(self._path_s * PROBE_FACTOR, self._longest_s)
            self._changed_at_s = now_s

    def note_loss(self, lost: LinkLostError, *, now_s: float) -> None:
        """A poll broke; when it was under way and had been held for long, the path is to blame."""
        if lost.loss not in _BY_THE_PATH:
            return
        before, self._last_cut_s = self._last_cut_s, lost.age_s
        if lost.age_s < SHORTEST_S:
            return
        if lost.age_s >= self.seconds / 2 or _is_same(before, lost.age_s):
            self._path_s = max(SHORTEST_S, min(self.seconds, lost.age_s) * MARGIN)
            self._changed_at_s = now_s


def _is_same(before_s: float | None, age_s: float) -> bool:
    return before_s is not None and abs(age_s - before_s) <= max(1.0, SAME_AGE * age_s)
