"""What `POST /v1/tick` did: the work that time alone makes necessary."""

from __future__ import annotations

from backhaul.wire.base import Wire


class Tick(Wire, frozen=True, kw_only=True):
    """What one tick did. A tick that found nothing to do has only zeros."""

    expired_jobs: int = 0
    """Jobs that no agent took up in time."""
    lost_jobs: int = 0
    """Jobs of hosts that were silent for too long. A late report still counts."""
    deleted_sessions: int = 0
    """Logins that had expired."""
    deleted_tokens: int = 0
    """Enrollment tokens and setup tokens that had expired."""
    deleted_answers: int = 0
    """What was kept for an `Idempotency-Key`, after a day."""
    deleted_queries: int = 0
    """Questions to hosts for whose answer nobody waits any more."""
    deleted_events: int = 0
    """Events that were older than a month."""
    deleted_log_lines: int = 0
    """Lines of jobs' logs whose lifetime was over, where the server has such a setting."""
    has_more: bool = False
    """Whether more may be left than one tick does: tick again."""
