"""How long to wait after a failure: full jitter, growing, capped, with Retry-After obeyed.

A server that restarts meets its whole fleet again. Waits that are drawn from the full interval
spread the fleet best (AWS Architecture Blog, "Exponential Backoff And Jitter").
"""

from __future__ import annotations

import random
from collections.abc import Callable

from backhaul_agent.errors import LinkError, LinkLostError

FIRST_CEILING_S = 1.0
LAST_CEILING_S = 60.0
LONGEST_RETRY_AFTER_S = 3600.0
"""A Retry-After beyond this is taken for a mistake."""
SLOW_RETRY_S = 60.0
"""After a refusal nothing changes until a person acts."""
SUPERSEDED_RETRY_S = 30.0
"""Long enough for a restart of the other process to be over."""

Random = Callable[[], float]
"""Gives 0 to 1."""


class Backoff:
    """The waits of one loop."""

    def __init__(self, draw: Random = random.random) -> None:
        self._draw = draw
        self._failures = 0

    def reset(self) -> None:
        """Start again from the shortest wait, after a success."""
        self._failures = 0

    def delay_after(self, error: LinkError) -> float:
        """Tell how many seconds to wait after this failure; counts it."""
        if not isinstance(error, LinkLostError):
            return self.around(SLOW_RETRY_S)
        # The exponent is bounded so that a week without a network does not overflow the float.
        ceiling: float = min(LAST_CEILING_S, FIRST_CEILING_S * 2 ** min(self._failures, 16))
        self._failures += 1
        floor = min(error.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)
        return floor + self._draw() * ceiling

    def around(self, seconds: float) -> float:
        """Draw from the half to the one and a half of a duration."""
        return seconds * (0.5 + self._draw())
