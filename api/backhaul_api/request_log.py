"""The line that the log has for each request, whichever way it was answered."""

from __future__ import annotations

import logging
import time

from backhaul_api.identity import Actor, AgentIdentity
from backhaul_api.logs import facts

REQUEST_ID = "request_id"
"""Where in the state of a request its id is."""

GIVEN_ID = "given_id"
"""Where it is before, if it has one already."""

log = logging.getLogger(__name__)


def note(
    method: str, path: str, status: int, begun: float, who: Actor | AgentIdentity | None
) -> None:
    """Write the line of a request that began when the performance counter said so.

    The query is left out: people put secrets into queries.
    """
    # Not even built for a log that would not have it.
    if not log.isEnabledFor(logging.INFO):
        return
    told: dict[str, object] = {
        "method": method,
        "path": path,
        # 0: the client hung up before there was an answer.
        "status": status,
        "duration_ms": round((time.perf_counter() - begun) * 1000, 1),
    }
    if who is not None:
        told["actor"] = who.name
    log.info("request.done", extra=facts(**told))
