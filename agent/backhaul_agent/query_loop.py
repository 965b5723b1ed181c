"""Questions that an operator waits for: what is in a snapshot. Two at a time, beside everything
else.

Nothing of it is written to disk: after its time nobody waits, and the server asks again what was
lost on the way. The answer is sent at once, past the spool, in whose queue it would come too late.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from uuid import UUID

import msgspec

from backhaul.wire.commands import QueryAnswer, QueryFailure, QueryRun
from backhaul.wire.snapshots import FoundFiles, QueryArguments
from backhaul_agent.errors import AgentError, LinkError, LinkLostError, QueryFailedError
from backhaul_agent.job import Workshop
from backhaul_agent.link import Link
from backhaul_agent.logs import fields
from backhaul_agent.redact import build_redactor
from backhaul_agent.restic.environment import build_environment
from backhaul_agent.restic.files import EntryPage
from backhaul_agent.restic_listing import ParkedListings
from backhaul_agent.restic_look import Look

log = logging.getLogger(__name__)

WORKERS = 2
"""Operators look one after the other; more at a time would take the machine from its own work."""

REMEMBERED = 1000
"""Ids of queries. One that comes again after so many others is long past its time."""

SEND_AGAIN_S = 0.5


class _Waiting(msgspec.Struct, frozen=True, kw_only=True):
    query: QueryRun
    ends_s: float
    """By the monotonic clock."""


class QueryLoop:
    """Answers the queries that the inbox takes."""

    def __init__(self, workshop: Workshop, link: Link) -> None:
        self._workshop = workshop
        self._link = link
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._parked = ParkedListings(workshop.clock)
        self._taken: OrderedDict[UUID, None] = OrderedDict()

    def take(self, query: QueryRun) -> bool:
        """Take a query up; False for one that was here before. Returns at once."""
        if query.query_id in self._taken:
            return False
        self._taken[query.query_id] = None
        while len(self._taken) > REMEMBERED:
            self._taken.popitem(last=False)
        ends_s = self._workshop.clock.monotonic() + query.ttl
        self._waiting.put_nowait(_Waiting(query=query, ends_s=ends_s))
        return True

    async def run_forever(self) -> None:
        """Answer. Ends by cancellation only, which also ends what restic is at."""
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(WORKERS):
                    workers.create_task(self._work())
        finally:
            await self._parked.close()

    async def _work(self) -> None:
        while True:
            waiting = await self._waiting.get()
            query = waiting.query
            left_s = waiting.ends_s - self._workshop.clock.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    answer = await self._answer(query)
                    await self._send(answer)
            except TimeoutError:
                log.warning("query.dropped", extra=fields(query=query.query_id, ttl_s=query.ttl))

    async def _answer(self, query: QueryRun) -> QueryAnswer:
        try:
            page = await self._look(query)
        except QueryFailedError as failed:
            return _refuse(query, str(failed), failed.failure)
        except AgentError as error:
            return _refuse(query, str(error), QueryFailure.FAILED)
        except Exception as error:
            log.error("query.broke", exc_info=error)
            reason = f"the agent failed at it ({type(error).__name__}); its log says where"
            return _refuse(query, reason, QueryFailure.FAILED)
        log.info("query.answered", extra=fields(kind=query.kind, entries=len(page.entries)))
        found = FoundFiles(entries=tuple(page.entries))
        return QueryAnswer(
            query_id=query.query_id,
            answer=msgspec.Raw(msgspec.json.encode(found)),
            is_cut=page.is_full,
        )

    async def _look(self, query: QueryRun) -> EntryPage:
        workshop = self._workshop
        refusal = workshop.policy.query_refusal()
        if refusal is not None:
            raise QueryFailedError(refusal, QueryFailure.REFUSED)
        arguments = _read_arguments(query)
        credentials = workshop.identity.open_credentials(query)
        environment = build_environment(
            credentials,
            inherited=workshop.inherited,
            cache_dir=workshop.settings.effective_cache_dir,
            also_allowed=workshop.policy.environment,
        )
        look = Look(
            workshop.settings.restic,
            environment=environment,
            redactor=build_redactor(credentials),
            parked=self._parked,
        )
        return await look.run(arguments)

    async def _send(self, answer: QueryAnswer) -> None:
        """Send an answer, again and again until its time is over."""
        envelope = msgspec.Raw(msgspec.json.encode(answer))
        while True:
            try:
                [receipt] = await self._link.send((envelope,))
            except LinkLostError:
                await self._workshop.clock.sleep(SEND_AGAIN_S)
                continue
            except LinkError as error:
                log.warning("query.not_sent", extra=fields(reason=str(error)))
                return
            if receipt.problem is not None:
                log.info("query.not_wanted", extra=fields(reason=receipt.problem.detail))
            return


def _read_arguments(query: QueryRun) -> QueryArguments:
    try:
        arguments: QueryArguments = msgspec.json.decode(query.arguments, type=QueryArguments)
    except msgspec.ValidationError as error:
        raise QueryFailedError(
            f"this agent cannot answer {query.kind!r} as it was asked ({error})",
            QueryFailure.REFUSED,
        ) from error
    return arguments


def _refuse(query: QueryRun, reason: str, failure: QueryFailure) -> QueryAnswer:
    log.info("query.refused", extra=fields(kind=query.kind, reason=reason))
    return QueryAnswer(query_id=query.query_id, error=reason, failure=failure)
