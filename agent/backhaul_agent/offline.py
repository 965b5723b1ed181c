"""Backups without the server: a fire that cannot be delivered begins its job here.

Only for schedules that the server marked for it (`when_unreachable: run`), only by the template
that it sent, and only as far as the host's own policy goes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from backhaul.wire.kinds import BackupArguments
from backhaul.wire.schedules import RunTemplate, ScheduleEntry
from backhaul_agent.journal import Journal, TakeUp
from backhaul_agent.logs import fields
from backhaul_agent.policy import Policy
from backhaul_agent.spool import Spool

log = logging.getLogger(__name__)


class OfflineRuns:
    """Watches the fires that wait for the server, and begins their jobs when it stays away."""

    def __init__(self, *, journal: Journal, spool: Spool, policy: Policy, after_s: float) -> None:
        self._journal = journal
        self._spool = spool
        self._policy = policy
        self._after_s = after_s
        self._waiting_since: dict[UUID, float] = {}

    def watch(self, entry: ScheduleEntry, *, since_s: float, is_first: bool) -> None:
        """Note a fire. One that stands for an older one has waited as long as that."""
        if choose_template(entry) is None:
            return
        if is_first:
            self._waiting_since[entry.schedule_id] = since_s
        else:
            self._waiting_since.setdefault(entry.schedule_id, since_s)

    async def begin_due(
        self, find: Callable[[UUID], ScheduleEntry | None], *, now_s: float
    ) -> None:
        """Begin the jobs of what has waited long enough, as long as nothing can be sent."""
        if not self._spool.is_link_down:
            return
        due = [one for one, since in self._waiting_since.items() if now_s - since >= self._after_s]
        for schedule_id in due:
            if self._begin(find(schedule_id)) is not TakeUp.BUSY:
                del self._waiting_since[schedule_id]
            await asyncio.sleep(0)

    def _begin(self, entry: ScheduleEntry | None) -> TakeUp:
        template = choose_template(entry)
        if entry is None or template is None:
            return TakeUp.GONE
        refusal = self._policy.refusal(template.arguments)
        if refusal is not None:
            log.warning(
                "schedule.not_run_offline",
                extra=fields(schedule_id=entry.schedule_id, reason=refusal),
            )
            return TakeUp.GONE
        step = self._journal.take_up(entry, template, in_flight=self._spool.in_flight)
        if step is TakeUp.BEGUN:
            log.warning("schedule.runs_offline", extra=fields(schedule_id=entry.schedule_id))
            self._spool.job_claimed.set()
        return step


def choose_template(entry: ScheduleEntry | None) -> RunTemplate | None:
    """Give what may run without the server. Only a backup adds and never removes."""
    if entry is None or not entry.enabled or entry.when_unreachable != "run":
        return None
    template = entry.template
    is_backup = template is not None and isinstance(template.arguments, BackupArguments)
    return template if is_backup else None
