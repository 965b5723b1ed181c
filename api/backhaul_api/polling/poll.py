"""The poll: the agent says what it has, the server answers with what differs.

Every look opens a connection, reads and closes it. Between looks the poll is parked and holds
nothing but its bell.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from litestar.types import Receive

from backhaul.wire.agents import PollReply, PollRequest
from backhaul.wire.jobs import FailureClass, JobEvent, JobState
from backhaul.wire.problems import removal_message
from backhaul_api.db.changes import touch
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts
from backhaul_api.errors import HostRemovedError, SupersededError
from backhaul_api.hosts import presence
from backhaul_api.jobs import store as jobs
from backhaul_api.jobs import turns
from backhaul_api.jobs.overdue import expire
from backhaul_api.logs import facts
from backhaul_api.polling.envelopes import Due, encode
from backhaul_api.polling.memory import Quiet
from backhaul_api.polling.parking import Connection, Wait, look_until
from backhaul_api.polling.query_runs import fetch_waiting
from backhaul_api.polling.schedule_sets import build_set
from backhaul_api.polling.sealing import Sealer
from backhaul_api.polling.wakeups import Bell
from backhaul_api.queries.store import SENT_AGAIN_AFTER, mark_taken
from backhaul_api.services import Services
from backhaul_api.settings import HOLD_JITTER

MAX_CROWD = 1000
"""Polls that wait for the database at a time. After an outage a whole fleet comes at once, and who
waits for longer than its client does comes again, and is one more."""

CROWD_PAUSE_S = (2.0, 10.0)
"""Spreads those who come in a crowd."""

REPEAT_PAUSE_S = 1.0
"""Before asking again when the answer would be the same: a cancel is due until the job ended, a set
of schedules until the agent has applied it."""

SET_IS_NEWS_FOR = timedelta(seconds=10)
"""An agent that has not applied a set by then cannot, and would ask for it without end."""

MAX_VERSIONS_LOST = 1_000_000
"""No backup is that many changes of one host old: who names such a version errs, or means harm."""

log = logging.getLogger(__name__)
_random = random.Random()  # noqa: S311 (it spreads, and hides nothing)


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll of one host."""

    services: Services
    host_id: UUID
    body: PollRequest
    name: str
    token_hash: bytes
    """With which the host is known again."""
    client: Connection | Receive
    """Tells when the client hangs up."""

    async def answer(
        self,
        *,
        until: float | None = None,
        found: Due | None = None,
        bell: Bell | None = None,
    ) -> PollReply:
        """Answer at once if anything is due, else when it is, at the latest after the hold.

        Args:
            until: in the event loop's time, when the hold of a poll that has begun before is over.
            found: what its last look found.
            bell: has been listening since before that look.

        Raises:
            SupersededError: a newer process has this host's identity.
            HostRemovedError: the host was removed while the poll was on its way or parked.
        """
        if self.services.wakeups.is_draining:
            return self.build_reply(Due())
        if until is None:
            allowed_s = self.services.settings.longest_hold
            hold_s = choose_hold(asked_s=self.body.hold, allowed_s=allowed_s)
        else:
            hold_s = until - asyncio.get_running_loop().time()
        wait = Wait(
            wakeups=self.services.wakeups,
            topic=self.host_id,
            seconds=hold_s,
            client=self.client,
            # A connection that died unnoticed leaves its poll behind; the newer one ends it.
            is_alone=True,
            bell=bell,
            recheck_s=self.services.recheck_s,
        )
        due = await look_until(
            self.look_or_leave,
            _has_news,
            wait,
            found=found,
            again_in=lambda due: due.again_in_s,
        )
        return self.build_reply(due)

    async def look_or_leave(self) -> Due:
        """Look; finds nothing when the server stops before the database has answered."""
        due = _NOTHING
        with self.services.wakeups.cuttable():
            due = await self._look()
        return due  # noqa: RET504 (where it was cut, it is still nothing)

    def is_quiet(self) -> bool:
        """Tell whether the memory knows that nothing is due for the host, if it says this."""
        memory = self.services.wakeups.memory
        quiet = memory.find(self.token_hash) if memory.is_trusted else None
        return quiet is not None and quiet.is_same(self.body)

    async def _look(self) -> Due:
        services = self.services
        look = services.wakeups.memory.begin(self.host_id)
        seen = await services.looks.take(self)
        host, due, now = seen.host, seen.due, seen.now
        if due is None:
            await self._catch_up(now)
            return await self._look()
        if host.boot_id is None or presence.is_long_ago(host.last_seen_at, now):
            await self._save_visit(now)
        if due.returned:
            await self._take_back(due.returned, now)
            return await self._look()
        if due.overdue or due.unsendable:
            await self._close_jobs(due, now)
        if due.queries:
            async with services.database.writing() as connection:
                await mark_taken(connection, due.queries, now=now)
        services.wakeups.memory.remember(look, self._build_quiet(due))
        return due

    def _build_quiet(self, due: Due) -> Quiet | None:
        """Build what may be remembered; None where something is due, or will be by itself."""
        if due.envelopes or due.overdue or due.unsendable or due.is_waiting:
            return None
        return Quiet(
            host_id=self.host_id,
            name=self.name,
            token_hash=self.token_hash,
            boot_id=self.body.boot_id,
            schedule_version=self.body.schedule_version,
            jobs=self.body.jobs,
        )

    async def add(self, due: Due, sealer: Sealer, host: Any, now: datetime) -> Due:
        """Add the schedules and the queries that are due."""
        if host.schedule_version != self.body.schedule_version:
            due = await self._add_set(due, sealer, host, now)
        if host.has_queries:
            due = await self._add_queries(due, sealer, now)
        return due

    def check(self, host: Any) -> bool:
        """Refuse a process that does not have the host's identity (any more).

        False if the host has applied a version that is yet to come here: the database was restored
        from a backup. It would take nothing older for news.
        """
        self._check_host(host)
        ahead: int = self.body.schedule_version - host.schedule_version
        return not 0 < ahead <= MAX_VERSIONS_LOST

    async def _catch_up(self, now: datetime) -> None:
        """Move the host's version past the one it has, so that it applies what is here now."""
        version = self.body.schedule_version
        async with self.services.database.writing() as connection:
            await connection.execute(
                sa.update(hosts)
                .where(hosts.c.id == self.host_id, hosts.c.schedule_version <= version)
                .values(schedule_version=version + 1, schedule_changed_at=now)
            )
        log.warning("schedules.caught_up", extra=facts(host=self.host_id, version=version + 1))

    async def _add_set(self, due: Due, sealer: Sealer, host: Any, now: datetime) -> Due:
        set_ = await build_set(sealer, self.host_id, version=host.schedule_version)
        is_news = _is_recent(host.schedule_changed_at, now)
        return dataclasses.replace(
            due,
            envelopes=[encode(set_), *due.envelopes],
            is_old_news=not is_news and (due.is_old_news or not due.envelopes),
        )

    async def _add_queries(self, due: Due, sealer: Sealer, now: datetime) -> Due:
        """Put first what somebody waits for."""
        waiting = await fetch_waiting(sealer, self.host_id, now=now)
        if not waiting:
            # The answer that brought one may have got lost, and nobody will ring for that.
            again_in_s = min(due.again_in_s or math.inf, SENT_AGAIN_AFTER.total_seconds())
            return dataclasses.replace(due, is_waiting=True, again_in_s=again_in_s)
        return dataclasses.replace(
            due,
            envelopes=[*waiting.values(), *due.envelopes],
            queries=list(waiting),
            is_old_news=False,
        )

    def _check_host(self, host: Any) -> None:
        if host.removed_at is not None:
            signature = self.services.keys.sign(removal_message(self.host_id))
            raise HostRemovedError(self.host_id, signature)
        if host.boot_id not in {None, self.body.boot_id}:
            raise SupersededError(
                "Another process has this host's identity since it said hello. Wait a while, then "
                "say hello again; if that repeats, two machines share one agent's state folder."
            )

    async def _save_visit(self, now: datetime) -> None:
        async with self.services.database.writing() as connection:
            await connection.execute(
                sa.update(hosts)
                .where(
                    hosts.c.id == self.host_id,
                    # Another process may have said hello since we looked.
                    sa.or_(hosts.c.boot_id.is_(None), hosts.c.boot_id == self.body.boot_id),
                )
                .values(boot_id=self.body.boot_id, last_seen_at=now)
            )

    async def _take_back(self, job_ids: list[UUID], now: datetime) -> None:
        """Count jobs that were lost as running again: their host was silent, and runs them still.

        Everybody else waits for them again, and they can be cancelled.
        """
        async with self.services.database.writing() as connection:
            # As a batch does: the report of their end may be under way.
            host = (await connection.execute(_LOCKED_HOST, {"host_id": self.host_id})).one()
            if host.boot_id != self.body.boot_id:
                return  # that process is not the host's any more, and the next look says so
            for job_id in job_ids:
                job = await jobs.fetch_of_host(connection, job_id, self.host_id)
                if job.state is JobState.LOST:
                    await jobs.move(
                        connection,
                        job,
                        JobEvent.START,
                        at=now,
                        started_at=job.started_at or now,
                        progressed_at=now,
                        finished_at=None,
                        message=None,
                    )
            touch(connection, *job_ids)

    async def _close_jobs(self, due: Due, now: datetime) -> None:
        """Move the jobs that this host will never get to their ends."""
        freed: set[UUID] = set()
        silent_since = self.services.silence.find_since(now)
        async with self.services.database.writing() as connection:
            await connection.execute(_LOCKED_HOST, {"host_id": self.host_id})
            for job in await expire(connection, due.overdue, now=now, silent_since=silent_since):
                freed |= await turns.find_next(connection, job)
            for job_id, reason in due.unsendable.items():
                job = await jobs.fetch_of_host(connection, job_id, self.host_id)
                if job.state is JobState.QUEUED:
                    await jobs.move(
                        connection,
                        job,
                        JobEvent.FAIL,
                        at=now,
                        failure_class=FailureClass.OTHER,
                        message=reason,
                    )
                    freed |= await turns.find_next(connection, job)
            # This host's own poll looks on by itself.
            freed.discard(self.host_id)
            touch(connection, *due.overdue, *due.unsendable, *freed)

    def build_reply(self, due: Due) -> PollReply:
        """Build the answer with what a look has found."""
        return PollReply(
            envelopes=tuple(due.envelopes),
            server_time=self.services.clock.now(),
            hold=self.services.settings.longest_hold,
            pause=self._choose_pause(due),
        )

    def _choose_pause(self, due: Due) -> float:
        settings = self.services.settings
        if self.services.wakeups.is_draining:
            return _random.uniform(*self.services.wakeups.drain_pause_s)
        if min(self.body.hold, settings.poll_hold) <= 0:
            return settings.poll_pause
        return REPEAT_PAUSE_S if due.is_old_news else 0.0


class HeldPoll:
    """A poll on its connection. It looks in a task, and where its host is quiet it waits without
    one, which would cost more than all the rest of a parked poll."""

    __slots__ = ("_bell", "_connection", "_deadline", "_number", "_on_end", "_poll", "_tick")

    def __init__(self, poll: Poll, connection: Connection) -> None:
        self._poll = poll
        self._connection = connection
        self._number = poll.services.wakeups.count_wait()
        allowed_s = poll.services.settings.longest_hold
        hold_s = choose_hold(asked_s=poll.body.hold, allowed_s=allowed_s)
        self._deadline = asyncio.get_running_loop().time() + hold_s

    @property
    def body(self) -> PollRequest:
        return self._poll.body

    def enter(self) -> None:
        """Begin to listen: what changes from here on is not missed."""
        self._bell = self._poll.services.wakeups.enter(self._poll.host_id, self._number)
        self._tick = 0
        self._connection.on_hang_up = self._bell.end
        if self._connection.has_hung_up():
            self._bell.end()

    def park(self, on_end: Callable[[HeldPoll], None]) -> None:
        """Wait, once it listens. `on_end` is called when the host is woken or the hold is over,
        unless the client hangs up before."""
        self._on_end = on_end
        self._poll.services.wakeups.end_older(self._poll.host_id)
        if self._poll.body.hold <= 0 or self._bell.has_ended():
            self._end()
            return
        self._bell.takes_news = True
        self._connection.on_hang_up = self._leave
        self._tick = self._bell.arm(self._deadline, self._end)

    def has_to_look(self) -> bool:
        """Tell, at the end of the wait, whether something has changed of which no more is known."""
        bell = self._bell
        return bell.has_rung() and not bell.has_ended() and bell.news is None

    def build_reply(self) -> PollReply:
        """Build the answer without a look: with what was brought, if anything was."""
        news = self._bell.news
        return self._poll.build_reply(_NOTHING if news is None else Due(envelopes=[*news]))

    async def look(self) -> PollReply | None:
        """Look, and wait until there is something or the hold is over. None if that wait needs no
        task: then it is to be parked before anything is awaited. Raises as `Poll.answer` does."""
        poll = self._poll
        if poll.services.wakeups.is_draining:
            return poll.build_reply(_NOTHING)
        self.enter()
        goes_on = False
        try:
            due = await poll.look_or_leave()
            is_over = asyncio.get_running_loop().time() >= self._deadline
            if due.envelopes or is_over or self._bell.has_ended():
                return poll.build_reply(due)
            if not self._bell.has_rung() and poll.is_quiet():
                goes_on = True
                return None
            return await poll.answer(until=self._deadline, found=due, bell=self._bell)
        finally:
            if not goes_on:
                self._leave()

    def _end(self) -> None:
        self._leave()
        self._on_end(self)

    def _leave(self) -> None:
        self._connection.on_hang_up = None
        self._bell.disarm(self._tick)
        self._poll.services.wakeups.leave(self._poll.host_id, self._bell)


def build_farewell(services: Services) -> PollReply:
    """Build the answer of a stopping server to a poll that it has not looked for, or not to the
    end."""
    return _send_away(services, services.wakeups.drain_pause_s)


def is_crowded(services: Services) -> bool:
    """Tell whether so many polls wait for the database that one more would only wait longer."""
    return services.looks.waiting + services.wakeups.memory.agents.introducing >= MAX_CROWD


def build_refusal(services: Services) -> PollReply:
    """Build the answer to a poll that has to come again when there are fewer."""
    return _send_away(services, CROWD_PAUSE_S)


def _send_away(services: Services, pause_s: tuple[float, float]) -> PollReply:
    return PollReply(
        envelopes=(),
        server_time=services.clock.now(),
        hold=services.settings.longest_hold,
        pause=_random.uniform(*pause_s),
    )


def choose_hold(*, asked_s: float, allowed_s: float) -> float:
    """Choose how long to hold: spread, so that a fleet does not come back at once, and never
    longer than the agent can stand."""
    spread = _random.uniform(1 - HOLD_JITTER, 1 + HOLD_JITTER)
    return min(allowed_s * spread, asked_s * min(spread, 1.0))


def _has_news(due: Due) -> bool:
    return bool(due.envelopes)


_NOTHING = Due()


def _is_recent(changed_at: datetime | None, now: datetime) -> bool:
    return changed_at is not None and now - changed_at < SET_IS_NEWS_FOR


_LOCKED_HOST = constant(
    sa.select(hosts.c.boot_id)
    .where(hosts.c.id == sa.bindparam("host_id"))
    .with_for_update(key_share=True)
)
