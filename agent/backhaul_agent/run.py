"""The agent's process: starts the loops, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import msgspec

from backhaul.wire.agents import Hello, HostFacts
from backhaul_agent.backoff import Backoff
from backhaul_agent.clock import Clock, SystemClock
from backhaul_agent.cron_loop import CronLoop
from backhaul_agent.errors import HostRemovedError
from backhaul_agent.facts import gather_facts
from backhaul_agent.hold import Hold
from backhaul_agent.identity import Identity, delete_identity, load_identity
from backhaul_agent.inbox import Inbox
from backhaul_agent.job import Workshop
from backhaul_agent.job_loop import JobLoop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import JournalFile, delete_journal, open_journal_file
from backhaul_agent.link import Link, build_client
from backhaul_agent.logs import fields
from backhaul_agent.offline import OfflineRuns
from backhaul_agent.policy import Policy
from backhaul_agent.poll_loop import poll_forever
from backhaul_agent.query_loop import QueryLoop
from backhaul_agent.room import write_once_there_is_room
from backhaul_agent.schedule_journal import ScheduleJournal
from backhaul_agent.settings import Settings
from backhaul_agent.spool import Spool
from backhaul_agent.spool_loop import send_forever
from backhaul_agent.state_lock import only_process

log = logging.getLogger(__name__)

LAST_SENDING_S = 5.0
"""For what is in the spool when the agent stops; the rest goes out at the next start."""
IDLE_SENDING_S = 1.0
"""When no job was ended, nobody waits for what is left."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The running agent."""

    link: Link
    inbox: Inbox
    spool: Spool
    hold: Hold
    jobs: JobLoop
    cron: CronLoop
    queries: QueryLoop
    clock: Clock


class Stop:
    """The wish to stop, and the one who is asked for it twice."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def ask(self, jobs: JobLoop) -> None:
        """Stop in order; asked again, stop at once."""
        if not self.asked.is_set():
            log.info("agent.stopping")
            self.asked.set()
            return
        log.warning("agent.stopped_at_once")
        jobs.kill_jobs()
        # What is on disk is enough: the next start reports what was left behind.
        os._exit(1)


async def run_agent(settings: Settings, environment: Mapping[str, str]) -> int:
    """Run until a signal comes; gives the exit code.

    Raises:
        AgentError: the agent cannot start, or its state cannot be kept.
    """
    identity = load_identity(settings.state_dir)
    with only_process(settings.state_dir):
        try:
            await _run_as(identity, settings, environment)
        except* HostRemovedError as removed:
            log.error("agent.removed", extra=fields(reason=str(removed.exceptions[0])))
            delete_identity(settings.state_dir)
            delete_journal(settings.state_dir)
            return_code = 2
        else:
            return_code = 0
    return return_code


async def _run_as(identity: Identity, settings: Settings, environment: Mapping[str, str]) -> None:
    clock = SystemClock()
    file = await write_once_there_is_room(partial(open_journal_file, settings.state_dir), clock)
    try:
        client = build_client(settings, server_url=identity.server_url, ca_file=identity.ca_file)
        facts = await gather_facts(settings)
        log.info(
            "agent.started",
            extra=fields(
                host=identity.name,
                fingerprint=identity.fingerprint,
                restic=facts.restic_version or "not found",
                server=identity.server_url,
            ),
        )
        workshop = Workshop(
            settings=settings,
            identity=identity,
            policy=Policy(
                settings.policy,
                own_folders=settings.own_folders,
                dumps=settings.dumps,
            ),
            journal=Journal(file, spool_limit=settings.spool_limit),
            spool=Spool(file, now=clock.now),
            clock=clock,
            inherited=environment,
        )
        waiting = await write_once_there_is_room(workshop.journal.claim_again, clock)
        if waiting:
            log.info("jobs.claimed_again", extra=fields(count=waiting))
        cron = build_cron(workshop, file)
        await write_once_there_is_room(cron.load, clock)
        parts = build_parts(workshop, cron, Link(client, identity), facts)
        try:
            await write_once_there_is_room(parts.inbox.say_hello, clock)
            await _run_loops(parts)
        finally:
            await parts.link.close()
    finally:
        file.close()


def build_cron(workshop: Workshop, file: JournalFile) -> CronLoop:
    """Build the cron of a host, which has to be loaded."""
    offline = OfflineRuns(
        journal=workshop.journal,
        spool=workshop.spool,
        policy=workshop.policy,
        after_s=workshop.settings.offline_after,
    )
    return CronLoop(
        host_id=workshop.identity.host_id,
        journal=ScheduleJournal(file),
        spool=workshop.spool,
        offline=offline,
        clock=workshop.clock,
        settle_s=workshop.settings.settle,
    )


def build_parts(workshop: Workshop, cron: CronLoop, link: Link, facts: HostFacts) -> Parts:
    jobs = JobLoop(workshop)
    queries = QueryLoop(workshop, link)
    inbox = Inbox(
        introduction=Hello(boot_id=uuid4(), facts=facts),
        journal=workshop.journal,
        spool=workshop.spool,
        policy=workshop.policy,
        canceller=jobs,
        cron=cron,
        answerer=queries,
        now=workshop.clock.now,
    )
    hold = Hold(workshop.settings.poll_hold, now_s=workshop.clock.monotonic())
    return Parts(
        link=link,
        inbox=inbox,
        spool=workshop.spool,
        hold=hold,
        jobs=jobs,
        cron=cron,
        queries=queries,
        clock=workshop.clock,
    )


@dataclass(frozen=True, slots=True)
class Loops:
    """What a running agent does, all at the same time."""

    sending: asyncio.Task[None]
    polling: asyncio.Task[None]
    working: asyncio.Task[None]
    firing: asyncio.Task[None]
    answering: asyncio.Task[None]


def start_loops(parts: Parts, tasks: asyncio.TaskGroup) -> Loops:
    """Start everything. The hello of this process is in the spool."""
    return Loops(
        sending=tasks.create_task(
            send_forever(parts.link, parts.spool, backoff=Backoff(), clock=parts.clock)
        ),
        polling=tasks.create_task(
            poll_forever(parts.link, parts.inbox, parts.hold, backoff=Backoff(), clock=parts.clock)
        ),
        working=tasks.create_task(parts.jobs.run_until_stopped()),
        firing=tasks.create_task(parts.cron.run_forever()),
        answering=tasks.create_task(parts.queries.run_forever()),
    )


async def _run_loops(parts: Parts) -> None:
    """Run the loops until a signal comes. An unexpected error in any of them ends them all."""
    stop = Stop()
    _listen_for_signals(stop, parts.jobs)
    async with asyncio.TaskGroup() as tasks:
        loops = start_loops(parts, tasks)
        await stop.asked.wait()

        # 1. Nothing new: what would fire from now on is missed, and caught up at the next start.
        #    The held poll is dropped, and what the server would have said in its answer is said
        #    again. Whoever waits for the answer to a query is told that it did not come.
        loops.firing.cancel()
        loops.polling.cancel()
        loops.answering.cancel()
        # 2. No further job; the one that runs is ended with SIGINT, and reports that.
        parts.jobs.stop_accepting()
        had_job = parts.jobs.abort_jobs()
        await asyncio.wait({loops.working})
        # 3. What happened goes out, for a short while; it is on disk in any case.
        await _send_the_rest(parts.spool, LAST_SENDING_S if had_job else IDLE_SENDING_S)
        # 4. Only now nobody needs the link any more.
        loops.sending.cancel()
    log.info("agent.stopped")


async def _send_the_rest(spool: Spool, limit_s: float) -> None:
    waited_s = 0.0
    while not spool.is_empty and waited_s < limit_s:
        await asyncio.sleep(_LOOK_EVERY_S)
        waited_s += _LOOK_EVERY_S


_LOOK_EVERY_S = 0.05


def _listen_for_signals(stop: Stop, jobs: JobLoop) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask, jobs)
    # A restic elsewhere that shares our hostname but not our processes tests whether a lock's
    # owner lives by sending SIGHUP to its number, which can be ours.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
