"""What the server says: commands are checked against the policy and written to the journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from backhaul.wire.agents import DownEnvelope, Hello, PollRequest
from backhaul.wire.commands import CommandCancel, CommandRun, QueryRun
from backhaul.wire.kinds import Arguments
from backhaul_agent.journal import Journal
from backhaul_agent.logs import fields
from backhaul_agent.policy import Policy
from backhaul_agent.schedule_entries import ReceivedSet
from backhaul_agent.spool import Spool

log = logging.getLogger(__name__)


class _Typed(msgspec.Struct):
    type: str


class Canceller(Protocol):
    """Ends a job that this host holds, whether it runs or waits."""

    def cancel(self, job_id: UUID) -> bool:
        """Give False when that was asked before, or there is no such job."""


class Answerer(Protocol):
    """Answers what operators wait for."""

    def take(self, query: QueryRun) -> bool:
        """Give False when the query was taken before."""


class Cron(Protocol):
    """Follows the set of schedules that was applied last."""

    @property
    def applied_version(self) -> int: ...

    async def apply(self, received: ReceivedSet) -> bool:
        """Give False when this version was applied before."""


class Inbox:
    """Where the poll's answers go, and what its questions are made of."""

    def __init__(  # noqa: PLR0913 (whom it hands on to)
        self,
        *,
        introduction: Hello,
        journal: Journal,
        spool: Spool,
        policy: Policy,
        canceller: Canceller,
        cron: Cron,
        answerer: Answerer,
        now: Callable[[], datetime],
    ) -> None:
        self._introduction = introduction
        self._journal = journal
        self._spool = spool
        self._policy = policy
        self._canceller = canceller
        self._cron = cron
        self._answerer = answerer
        self._now = now
        self._logged: set[str] = set()

    @property
    def claim_given_back(self) -> asyncio.Event:
        """A job that the last poll named as held is not held any more."""
        return self._spool.claim_given_back

    async def is_known(self) -> None:
        """Wait until the server has the hello of this process."""
        await self._spool.hello_received.wait()

    def say_hello(self) -> None:
        """Introduce this process, at its start and after another one was in its place."""
        self._spool.say_hello(
            msgspec.structs.replace(self._introduction, jobs=self._journal.held())
        )

    def build_request(self, hold_s: float) -> PollRequest:
        """Build the next poll: what this host has."""
        return PollRequest(
            boot_id=self._introduction.boot_id,
            schedule_version=self._cron.applied_version,
            settings_version=0,
            jobs=self._journal.held(),
            clock=self._now(),
            hold=hold_s,
        )

    async def take(self, envelopes: Sequence[msgspec.Raw]) -> bool:
        """Take an answer up. False when it brought nothing new."""
        news = [await self._take_one(raw) for raw in envelopes]
        return any(news)

    async def _take_one(self, raw: msgspec.Raw) -> bool:
        try:
            if msgspec.json.decode(raw, type=_Typed).type == "schedule.set":
                return await self._take_set(msgspec.json.decode(raw, type=ReceivedSet))
            envelope = msgspec.json.decode(raw, type=DownEnvelope)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return self._log_once("envelope.unreadable", str(error))
        match envelope:
            case CommandRun():
                return self._take_command(envelope)
            case CommandCancel():
                return self._canceller.cancel(envelope.job_id)
            case QueryRun():
                return self._answerer.take(envelope)
            case _:
                tag = str(type(envelope).__struct_config__.tag)
                return self._log_once("envelope.not_supported", tag)

    async def _take_set(self, received: ReceivedSet) -> bool:
        if await self._cron.apply(received):
            return True
        # The server was set back to a time before it, and will not stop to send this one.
        version = received.schedule_version
        return self._log_once("schedules.older_than_applied", f"schedule version {version}")

    def _take_command(self, command: CommandRun) -> bool:
        reason = self._refusal(command)
        if reason is None:
            is_new = self._journal.accept(command)
        else:
            is_new = self._journal.refuse(command, reason=reason)
        if is_new:
            event = "job.accepted" if reason is None else "job.refused"
            log.info(event, extra=fields(job_id=command.job_id, kind=command.kind, reason=reason))
            self._spool.notify()
            # Until the server has the refusal, its polls bring the command again.
            self._logged.add(str(command.job_id))
        elif self._journal.find(command.job_id) is None:
            # The server was set back to a time before it; nothing runs twice for that.
            self._log_once("job.was_here_before", str(command.job_id))
        return is_new

    def _refusal(self, command: CommandRun) -> str | None:
        try:
            arguments = msgspec.json.decode(command.arguments, type=Arguments)
        except msgspec.ValidationError as error:
            return f"this agent cannot do {command.kind!r} jobs as they were asked for ({error})"
        return self._policy.refusal(arguments)

    def _log_once(self, event: str, fact: str) -> bool:
        """Log what would come back with every poll only once; always gives False."""
        if fact not in self._logged:
            self._logged.add(fact)
            log.warning(event, extra=fields(fact=fact))
        return False
