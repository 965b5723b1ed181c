"""The cron: looks once a second what is due, fires it, and follows the sets that the server sends.

Sleeps no longer than that, whatever the next slot: due-ness follows from what is on disk and the
clock alone, so suspends, restarts and steps of the clock need no special care. A look that finds
nothing costs the same for any number of schedules.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from backhaul.wire.schedules import ScheduleEntry, ScheduleFire
from backhaul_agent.clock import Clock
from backhaul_agent.errors import DiskFullError
from backhaul_agent.journal_file import ROOM_EVERY_S
from backhaul_agent.logs import fields
from backhaul_agent.offline import OfflineRuns
from backhaul_agent.room import wait_for_room
from backhaul_agent.schedule_entries import ReceivedSet
from backhaul_agent.schedule_journal import ScheduleJournal
from backhaul_agent.schedule_plan import Plan, read_entries
from backhaul_agent.spool import Spool
from backhaul_agent.timers import Due, Timer
from backhaul_agent.timetable import Timetable

log = logging.getLogger(__name__)

TICK_S = 1.0
JUMP = timedelta(seconds=5)
"""A wall clock that gains this much on the monotonic one between two ticks was suspended or set."""
_TURN = 50
"""Cron expressions that are parsed before others get a turn: about ten milliseconds."""


class CronLoop:
    """The schedules of this host. `load` comes first; `apply` and ticks wait for each other."""

    def __init__(
        self,
        *,
        host_id: UUID,
        journal: ScheduleJournal,
        spool: Spool,
        offline: OfflineRuns,
        clock: Clock,
        settle_s: float,
    ) -> None:
        self._host_id = host_id
        self._journal = journal
        self._spool = spool
        self._offline = offline
        self._clock = clock
        self._settle_s = settle_s
        self._timetable = Timetable()
        self._entries: dict[UUID, ScheduleEntry] = {}
        self._one_at_a_time = asyncio.Lock()
        self._last_now = clock.now()
        self._last_s = clock.monotonic()
        self._settled_s = self._last_s + settle_s
        self.applied_version = 0

    async def run_forever(self) -> None:
        """Tick. Ends by cancellation only."""
        while True:
            try:
                await self.tick()
            except DiskFullError as full:
                # The clock was set back, and that could not be noted: the next tick sees it again.
                await wait_for_room(full, self._clock)
            await self._clock.sleep(TICK_S)

    async def tick(self) -> None:
        """Fire what is due, and begin what waited too long for the server."""
        async with self._one_at_a_time:
            await self._fire_due()
            # Without room for the job it is tried again at the next tick.
            with contextlib.suppress(DiskFullError):
                await self._offline.begin_due(self._entries.get, now_s=self._clock.monotonic())

    def load(self) -> None:
        """Go on with the set that was applied last, each schedule from its place.

        A schedule that did not run, because an older agent could not read it, starts now. What is
        skipped may be other than before, after an upgrade or with new time zones: the server hears.
        """
        now = self._clock.now()
        self.applied_version = self._journal.load_version()
        plan = Plan(host_id=self._host_id)
        for one in self._journal.load():
            plan.add(
                one.received,
                settled_until=one.settled_until or now,
                settled_before=one.settled_before,
                fired=one.fired,
                is_new=one.settled_until is None,
            )
        plan.log_errors()
        if self._journal.acknowledge_again(plan.build_ack(self.applied_version)):
            self._spool.notify()
        timers = [
            timer.rewind(now) if timer.is_ahead_of(now) else timer.come_back(now)
            for timer in plan.timers
        ]
        self._journal.save_places(timers)
        self._follow(plan.entries, timers)
        for waiting in self._journal.list_waiting():
            if waiting in self._entries:
                self._offline.watch(
                    self._entries[waiting], since_s=self._clock.monotonic(), is_first=True
                )

    async def apply(self, received: ReceivedSet) -> bool:
        """Follow another set, in one step. False when this version was applied before.

        What is due by the old set fires first. A schedule whose expression, time zone and state did
        not change keeps its place; any other starts now.
        """
        async with self._one_at_a_time:
            if received.schedule_version <= self.applied_version:
                return False
            now = await self._fire_due()
            plan = await self._plan(received, now)
            ack = plan.build_ack(received.schedule_version)
            self._journal.apply(ack, plan.received.values(), plan.timers)
            self.applied_version = received.schedule_version
            self._follow(plan.entries, plan.timers)
        plan.log_errors()
        log.info(
            "schedules.applied",
            extra=fields(
                version=ack.schedule_version, running=len(plan.timers), skipped=len(plan.skipped)
            ),
        )
        self._spool.notify()
        return True

    async def _plan(self, received: ReceivedSet, now: datetime) -> Plan:
        plan = Plan(host_id=self._host_id)
        entries = read_entries(received)
        new = [one.schedule_id for one in entries if self._timetable.find(one.schedule_id) is None]
        fired = self._journal.load_fired(new)
        for number, one in enumerate(entries, start=1):
            known = self._timetable.find(one.schedule_id)
            if known is not None and self._is_unchanged(one.entry):
                plan.keep(one, known)
            else:
                if known is not None and one.entry is not None and one.entry.enabled:
                    known = self._fire_held_back(known, now)
                # What a schedule fired stays fired, however it changes: a clock can step back.
                slots = fired[one.schedule_id] if known is None else known.fired
                plan.add(one, settled_until=now, fired=slots, is_new=True)
            if number % _TURN == 0:
                await asyncio.sleep(0)
        return plan

    def _fire_held_back(self, timer: Timer, now: datetime) -> Timer:
        """Fire a missed slot that waits for the machine to settle: no edit may lose it."""
        timer = timer.come_back(now)
        due = timer.look(now)
        if due is None or not timer.may_fire(due, now):
            return timer
        self._fire(timer, due, now)
        return self._timetable.find(timer.schedule_id) or timer

    def _is_unchanged(self, entry: ScheduleEntry | None) -> bool:
        if entry is None:
            return False
        old = self._entries.get(entry.schedule_id)
        return old is not None and (old.cron, old.timezone, old.enabled) == (
            entry.cron,
            entry.timezone,
            entry.enabled,
        )

    def _follow(self, entries: dict[UUID, ScheduleEntry], timers: Iterable[Timer]) -> None:
        self._entries = entries
        self._timetable.replace_all(timers)

    # A tick --------------------------------------------------------------------------------------

    async def _fire_due(self) -> datetime:
        """Look at what is due, as of one moment; gives that."""
        now, now_s = self._clock.now(), self._clock.monotonic()
        self._watch_clock(now, now_s)
        for timer in self._timetable.pop_due(now):
            try:
                self._look_at(timer, now, now_s)
            except DiskFullError as full:
                # Nothing of it is on disk, so the slot stays due.
                self._timetable.put(timer, look_at=now + timedelta(seconds=ROOM_EVERY_S))
                log.error(
                    "journal.full", extra=fields(schedule_id=timer.schedule_id, reason=str(full))
                )
            # A thousand schedules may be due at midnight, each with a write to the disk.
            await asyncio.sleep(0)
        return now

    def _watch_clock(self, now: datetime, now_s: float) -> None:
        """Notice that the clock was set, or that the machine slept."""
        gained = (now - self._last_now) - timedelta(seconds=now_s - self._last_s)
        if gained > JUMP:
            log.info("clock.jumped", extra=fields(seconds=round(gained.total_seconds())))
            self._settled_s = now_s + self._settle_s
        if now < self._last_now:
            self._step_back(now)
        self._last_now, self._last_s = now, now_s

    def _step_back(self, now: datetime) -> None:
        log.info("clock.stepped_back", extra=fields(now=now, was=self._last_now))
        timers = list(self._timetable)
        rewound = [timer.rewind(now) for timer in timers if timer.is_ahead_of(now)]
        self._journal.save_places(rewound)
        moved = {timer.schedule_id: timer for timer in rewound}
        self._timetable.line_up_again(moved.get(one.schedule_id, one) for one in timers)

    def _look_at(self, timer: Timer, now: datetime, now_s: float) -> None:
        was_back, timer = timer, timer.come_back(now)
        if timer is not was_back:
            self._journal.save_places([timer])
        due = timer.look(now)
        if due is None:
            self._timetable.put(timer)
        elif due.is_late and now_s < self._settled_s:
            self._hold_back(timer, due, now + timedelta(seconds=self._settled_s - now_s))
        elif timer.may_fire(due, now):
            self._fire(timer, due, now)
        else:
            self._skip(timer, due, now)

    def _hold_back(self, timer: Timer, due: Due, until: datetime) -> None:
        """Let the machine wake up before it catches up. A slot that comes meanwhile is on time."""
        next_slot = timer.cron.next_after(due.slot) + timer.jitter
        self._timetable.put(timer, look_at=min(until, next_slot))

    def _fire(self, timer: Timer, due: Due, now: datetime) -> None:
        fire = ScheduleFire(
            schedule_id=timer.schedule_id, scheduled_at=due.slot, fired_at=now, missed=due.missed
        )
        after = timer.settle(due, now, has_fired=True)
        sent = self._journal.fire(fire, before=timer, after=after, in_flight=self._spool.in_flight)
        self._timetable.put(after)
        self._spool.notify()
        self._offline.watch(
            self._entries[timer.schedule_id],
            since_s=self._clock.monotonic(),
            is_first=sent.missed == due.missed,
        )
        log.info(
            "schedule.fired",
            extra=fields(schedule_id=timer.schedule_id, slot=due.slot, missed=sent.missed),
        )

    def _skip(self, timer: Timer, due: Due, now: datetime) -> None:
        after = timer.settle(due, now, has_fired=False)
        self._journal.save_places([after])
        self._timetable.put(after)
        log.info(
            "schedule.skipped",
            extra=fields(schedule_id=timer.schedule_id, slot=due.slot, missed=due.missed),
        )
