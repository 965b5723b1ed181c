"""The poll and the spool, with a clock that tests move and a link that they script."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from backhaul.wire.agents import Hello, UpEnvelope
from backhaul.wire.commands import CommandAck, CommandCancel, QueryRun
from backhaul.wire.jobs import Progress
from backhaul.wire.kinds import RestoreArguments
from backhaul.wire.reports import JobProgress
from backhaul_agent.backoff import Backoff
from backhaul_agent.errors import (
    BatchRefusedError,
    HostRemovedError,
    LinkLostError,
    LinkRefusedError,
    SupersededError,
)
from backhaul_agent.hold import Hold
from backhaul_agent.inbox import Inbox
from backhaul_agent.journal import Journal
from backhaul_agent.policy import Policy
from backhaul_agent.poll_loop import SHORTEST_INTERVAL_S, poll_forever
from backhaul_agent.schedule_entries import ReceivedSet
from backhaul_agent.settings import PolicySettings
from backhaul_agent.spool import MAX_BATCH_BODY_BYTES, Spool
from backhaul_agent.spool_loop import send_forever
from tests.unit.agent.hosts import (
    FACTS,
    START,
    ManualClock,
    ScriptedLink,
    build_command,
    poll_reply,
    rejected,
)

pytestmark = pytest.mark.timeout(10)


class NotedCancels:
    """Stands in for the job loop."""

    def __init__(self) -> None:
        self.cancelled: list[UUID] = []

    def cancel(self, job_id: UUID) -> bool:
        self.cancelled.append(job_id)
        return len(self.cancelled) == 1


class NotedSets:
    """Stands in for the cron."""

    def __init__(self) -> None:
        self.applied_version = 0

    async def apply(self, received: ReceivedSet) -> bool:
        is_new = received.schedule_version > self.applied_version
        self.applied_version = max(self.applied_version, received.schedule_version)
        return is_new


class NotedQueries:
    """Stands in for the query loop."""

    def __init__(self) -> None:
        self.taken: list[QueryRun] = []

    def take(self, query: QueryRun) -> bool:
        self.taken.append(query)
        return True


@pytest.fixture
def cancels() -> NotedCancels:
    return NotedCancels()


@pytest.fixture
def inbox(journal: Journal, spool: Spool, clock: ManualClock, cancels: NotedCancels) -> Inbox:
    return Inbox(
        introduction=Hello(boot_id=uuid4(), facts=FACTS),
        journal=journal,
        spool=spool,
        policy=Policy(PolicySettings()),
        canceller=cancels,
        cron=NotedSets(),
        answerer=NotedQueries(),
        now=clock.now,
    )


@contextlib.asynccontextmanager
async def running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(loop)
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def turn_until(claim: Callable[[], bool]) -> None:
    """Let the other tasks have their turns until a claim is true, or long enough."""
    for _ in range(200):
        if claim():
            return
        await asyncio.sleep(0)


async def poll_to_the_end(link: ScriptedLink, inbox: Inbox, clock: ManualClock) -> None:
    inbox._spool.hello_received.set()
    loop = poll_forever(
        link, inbox, Hold(25.0, now_s=0.0), backoff=Backoff(lambda: 0.5), clock=clock
    )
    async with running(loop):
        await link.is_used_up.wait()


async def send_to_the_end(link: ScriptedLink, spool: Spool, clock: ManualClock) -> None:
    loop = send_forever(link, spool, backoff=Backoff(lambda: 0.5), clock=clock)
    async with running(loop) as task:
        await turn_until(lambda: spool.is_empty or link.is_used_up.is_set() or task.done())


def sent(link: ScriptedLink) -> list[list[UpEnvelope]]:
    return [[msgspec.json.decode(raw, type=UpEnvelope) for raw in raws] for raws in link.sent]


async def test_no_poll_before_the_server_has_the_hello(inbox: Inbox, clock: ManualClock) -> None:
    link = ScriptedLink()
    inbox.say_hello()

    loop = poll_forever(link, inbox, Hold(25.0, now_s=0.0), backoff=Backoff(), clock=clock)
    async with running(loop):
        await turn_until(lambda: False)

    assert link.polled == []


async def test_command_is_on_disk_before_the_next_poll_says_so(
    inbox: Inbox, clock: ManualClock
) -> None:
    command = build_command()
    link = ScriptedLink(poll_reply(command))

    await poll_to_the_end(link, inbox, clock)

    assert [job.job_id for job in link.polled[1].jobs] == [command.job_id]
    assert clock.sleeps == [0.0]


async def test_poll_that_names_a_job_which_was_given_back_asks_again(
    inbox: Inbox, spool: Spool, clock: ManualClock
) -> None:
    command = build_command()
    link = ScriptedLink(poll_reply(command))
    inbox._spool.hello_received.set()
    loop = poll_forever(link, inbox, Hold(25.0, now_s=0.0), backoff=Backoff(), clock=clock)
    async with running(loop):
        await link.is_used_up.wait()
        batch = spool._build_batch()
        spool.settle(batch, [rejected("urn:backhaul:problem:job-waits")])
        await turn_until(lambda: len(link.polled) == 3)

    assert [[job.job_id for job in poll.jobs] for poll in link.polled] == [
        [],
        [command.job_id],
        [],
    ]
    # A server that offers the job at once, and refuses each claim, cannot spin us.
    assert clock.sleeps == [0.0, SHORTEST_INTERVAL_S]


async def test_quiet_server_that_answers_at_once_cannot_spin_us(
    inbox: Inbox, clock: ManualClock
) -> None:
    await poll_to_the_end(ScriptedLink(*[poll_reply()] * 3), inbox, clock)

    assert clock.sleeps == [SHORTEST_INTERVAL_S] * 3


async def test_pause_of_the_server_is_kept(inbox: Inbox, clock: ManualClock) -> None:
    await poll_to_the_end(ScriptedLink(poll_reply(build_command(), pause=40.0)), inbox, clock)

    assert clock.sleeps == [40.0]


async def test_lost_link_waits_longer_each_time_and_starts_again_after_success(
    inbox: Inbox, clock: ManualClock
) -> None:
    lost = LinkLostError("no answer")
    link = ScriptedLink(lost, lost, lost, poll_reply(build_command()), lost)

    await poll_to_the_end(link, inbox, clock)

    assert clock.sleeps == [0.5, 1.0, 2.0, 0.0, 0.5]


async def test_refused_poll_goes_on_slowly_and_loudly(
    inbox: Inbox, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await poll_to_the_end(ScriptedLink(LinkRefusedError("token unknown")), inbox, clock)

    assert clock.sleeps == [60.0]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_superseded_process_waits_and_says_hello_again(
    inbox: Inbox, spool: Spool, clock: ManualClock
) -> None:
    link = ScriptedLink(SupersededError("another process"))
    spool.hello_received.set()

    loop = poll_forever(link, inbox, Hold(25.0, now_s=0.0), backoff=Backoff(), clock=clock)
    async with running(loop):
        await turn_until(lambda: not spool.is_empty)
        await turn_until(lambda: False)

    assert 15.0 <= clock.sleeps[0] <= 45.0
    assert not spool.hello_received.is_set()
    assert len(link.polled) == 1


async def test_removal_ends_the_poll(inbox: Inbox, clock: ManualClock) -> None:
    inbox._spool.hello_received.set()
    link = ScriptedLink(HostRemovedError("removed"))
    hold = Hold(25.0, now_s=0.0)

    with pytest.raises(HostRemovedError):
        await poll_forever(link, inbox, hold, backoff=Backoff(), clock=clock)


async def test_unreadable_envelope_spoils_no_other(inbox: Inbox, journal: Journal) -> None:
    command = build_command()
    raws = [
        b'{"type":"from.the.future"}',
        b'{"type":"command.run","job_id":5}',
        b'{"type":"schedule.set","schedule_version":"one","schedules":[]}',
        b'["no envelope"]',
        msgspec.json.encode(command),
    ]

    assert await inbox.take([msgspec.Raw(raw) for raw in raws])

    assert [job.job_id for job in journal.held()] == [command.job_id]


async def test_refused_command_is_answered_once_and_not_held(
    inbox: Inbox, journal: Journal, spool: Spool
) -> None:
    bad = [
        build_command(arguments_of(b'{"kind":"defragment"}'), kind="defragment"),
        build_command(RestoreArguments(snapshot="latest", target="relative")),
        build_command(arguments_of(b'{"kind":"backup"}')),
    ]
    raws = [msgspec.Raw(msgspec.json.encode(command)) for command in bad]

    first, second = await inbox.take(raws), await inbox.take(raws)

    assert (first, second) == (True, False)
    assert journal.held() == ()
    batch = spool._build_batch()
    acks = [msgspec.json.decode(raw, type=UpEnvelope) for raw in batch.envelopes]
    assert [(ack.job_id, ack.is_accepted) for ack in acks if isinstance(ack, CommandAck)] == [
        (command.job_id, False) for command in bad
    ]
    assert all(isinstance(ack, CommandAck) and ack.reason for ack in acks)


async def test_cancel_reaches_the_job_loop(inbox: Inbox, cancels: NotedCancels) -> None:
    cancel = CommandCancel(job_id=uuid4())
    raw = msgspec.Raw(msgspec.json.encode(cancel))

    assert await inbox.take([raw])
    assert not await inbox.take([raw])
    assert cancels.cancelled == [cancel.job_id] * 2


async def test_everything_stays_in_order_until_it_has_a_receipt(
    journal: Journal, spool: Spool, clock: ManualClock
) -> None:
    commands = [build_command() for _ in range(3)]
    for command in commands:
        journal.accept(command)
    link = ScriptedLink(LinkLostError("no answer"), None)

    await send_to_the_end(link, spool, clock)

    first, second = sent(link)
    assert first == second
    assert [ack.job_id for ack in first if isinstance(ack, CommandAck)] == [
        command.job_id for command in commands
    ]
    assert clock.sleeps == [0.5]


async def test_batches_keep_to_their_size(spool: Spool, clock: ManualClock) -> None:
    big = CommandAck(job_id=uuid4(), is_accepted=False, reason="x" * 400_000)
    for _ in range(3):
        spool.put(big, job_id=uuid4())
    link = ScriptedLink(None, None)

    await send_to_the_end(link, spool, clock)

    assert [len(batch) for batch in link.sent] == [2, 1]
    assert all(sum(map(len, batch)) < MAX_BATCH_BODY_BYTES for batch in link.sent)


async def test_many_envelopes_go_out_five_hundred_at_a_time(
    journal: Journal, spool: Spool, clock: ManualClock
) -> None:
    for _ in range(501):
        journal.refuse(build_command(), reason="no")
    link = ScriptedLink(None, None)

    await send_to_the_end(link, spool, clock)

    assert [len(batch) for batch in link.sent] == [500, 1]


async def test_batch_that_is_too_large_is_split_and_the_culprit_dropped(
    journal: Journal, spool: Spool, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        journal.accept(build_command())
    too_large = BatchRefusedError("too large")
    link = ScriptedLink(too_large, too_large, too_large, None, None, None)

    await send_to_the_end(link, spool, clock)

    assert [len(batch) for batch in link.sent] == [4, 2, 1, 1, 2]
    assert [record.message for record in caplog.records] == ["envelope.dropped"]
    assert spool.is_empty


async def test_only_the_newest_progress_goes_out_and_after_what_came_before_it(
    journal: Journal, spool: Spool, clock: ManualClock
) -> None:
    command = build_command()
    journal.accept(command)
    for percent in (0.1, 0.5):
        progress = Progress(percent_done=percent)
        spool.offer_progress(
            JobProgress(job_id=command.job_id, attempt=1, at=START, progress=progress)
        )
    link = ScriptedLink(None)

    await send_to_the_end(link, spool, clock)

    ack, progress_report = sent(link)[0]
    assert isinstance(ack, CommandAck)
    assert isinstance(progress_report, JobProgress)
    assert progress_report.progress.percent_done == 0.5


async def test_progress_is_not_kept_for_a_lost_link(spool: Spool, clock: ManualClock) -> None:
    spool.offer_progress(
        JobProgress(job_id=uuid4(), attempt=1, at=START, progress=Progress(percent_done=0.5))
    )
    link = ScriptedLink(LinkLostError("no answer"))

    loop = send_forever(link, spool, backoff=Backoff(lambda: 0.0), clock=clock)
    async with running(loop):
        await turn_until(lambda: False)

    assert len(link.sent) == 1


def arguments_of(raw: bytes) -> Any:
    """Stand in for arguments that no struct of this version describes."""

    class Future(msgspec.Struct, tag_field="kind", tag=msgspec.json.decode(raw)["kind"]):
        pass

    return Future()
