"""How long a poll is held: what the settings, the server and the path between them can stand.

A path that cuts idle requests shows itself by polls that break late in their hold, or twice at the
same age: a server that restarts cuts at any age, a proxy always at its own. Then the hold shrinks
below that age, and once in a long while a longer one is tried again.
"""

from __future__ import annotations

from backhaul_agent.errors import LinkLostError, Loss

SHORTEST_S = 1.0
"""Of a poll that is held; below it, none is, and the server names the pause between them."""
EARLY_S = 5.0
"""Servers that restart cut at such an age, too: before it, only what happens twice counts."""
AT_ONCE_S = 0.5
"""So soon fails a gateway that has lost its server, or a dead connection: not a poll that was held,
however often it happens."""
MARGIN = 0.8
"""Of the age at which a poll was cut."""
SAME_AGE = 0.15
"""Two ages that differ by no more than this part of them, or by a second, are the same."""
SAME_EARLY_AGE_S = 0.25
"""Instead of the second, for early ones."""
PROBE_AFTER_S = 3600.0
PROBE_EARLY_AFTER_S = 600.0
"""For holds so short that they cost more than a poll that is lost now and then."""
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
        """The server named what it allows; after a quiet while the path is tried a bit longer."""
        self._server_s = server_hold_s
        self._last_cut_s = None
        quiet_s = PROBE_EARLY_AFTER_S if self._path_s < EARLY_S else PROBE_AFTER_S
        if self._path_s < self._longest_s and now_s - self._changed_at_s >= quiet_s:
            longer_s = max(self._path_s * PROBE_FACTOR, SHORTEST_S)
            self._path_s = min(longer_s, self._longest_s)
            self._changed_at_s = now_s

    def note_loss(self, lost: LinkLostError, *, now_s: float) -> None:
        """A poll broke; when it was under way and had been held for long, the path is to blame."""
        if lost.loss not in _BY_THE_PATH:
            return
        before, self._last_cut_s = self._last_cut_s, lost.age_s
        if lost.age_s < AT_ONCE_S:
            return
        is_late = lost.age_s >= max(EARLY_S, self.seconds / 2)
        if is_late or _is_same(before, lost.age_s):
            path_s = min(self.seconds, lost.age_s) * MARGIN
            self._path_s = path_s if path_s >= SHORTEST_S else 0.0
            self._changed_at_s = now_s


def _is_same(before_s: float | None, age_s: float) -> bool:
    at_least_s = 1.0 if age_s >= EARLY_S else SAME_EARLY_AGE_S
    return before_s is not None and abs(age_s - before_s) <= max(at_least_s, SAME_AGE * age_s)
