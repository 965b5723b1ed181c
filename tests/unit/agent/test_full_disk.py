"""No room on the disk, or too much waiting for the server: what must not be lost is not.

The error is the one that SQLite raises on a full disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from backhaul.wire.agents import Hello, UpEnvelope
from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import FailureClass, LogLine, Outcome
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul_agent.backoff import Backoff
from backhaul_agent.clock import SystemClock
from backhaul_agent.errors import BatchRefusedError, DiskFullError, LinkLostError, SupersededError
from backhaul_agent.hold import Hold
from backhaul_agent.job import EndReason
from backhaul_agent.job_log import JobLog as LogWriter
from backhaul_agent.job_loop import JobLoop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import FILE_NAME, ROOM_EVERY_S, JournalFile, open_journal_file
from backhaul_agent.poll_loop import poll_forever
from backhaul_agent.redact import Redactor
from backhaul_agent.spool import Spool
from backhaul_agent.spool_loop import send_forever
from tests.fakes.fake_restic import install_fake_restic
from tests.unit.agent.hosts import OK, START, ManualClock, ScriptedLink, build_command
from tests.unit.agent.scheduled_host import ScheduledHost, build_entry
from tests.unit.agent.test_job import BACKUP, Host

pytestmark = pytest.mark.timeout(20)

COMMAND = build_command()
STARTED = JobStarted(job_id=COMMAND.job_id, attempt=1, at=START)
FINISHED = JobFinished(
    job_id=COMMAND.job_id, attempt=1, at=START, outcome=Outcome.SUCCEEDED, log_lines=0
)


@contextmanager
def full_disk(file: JournalFile) -> Iterator[None]:
    """Let no transaction through that has written anything."""
    commit = file._commit
    written = file._connection.total_changes

    def refuse() -> None:
        nonlocal written
        if file._connection.total_changes != written:
            written = file._connection.total_changes
            file._connection.execute("ROLLBACK")
            raise build_error()
        commit()

    file._commit = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        file._commit = commit  # type: ignore[method-assign]


def build_error() -> sqlite3.OperationalError:
    """Build the error of a full disk, by having SQLite meet one."""
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA max_page_count=1")
    try:
        connection.execute("CREATE TABLE too_much (x)")
    except sqlite3.OperationalError as error:
        return error
    raise AssertionError


def build_lines(count: int, text: str = "x" * 500) -> list[LogLine]:
    return [LogLine(at=START, stream="stdout", text=f"{number} {text}") for number in range(count)]


def read_all(spool: Spool) -> list[UpEnvelope]:
    return [msgspec.json.decode(one.body, type=UpEnvelope) for one in spool._list_unsent()]


def claim(journal: Journal, spool: Spool) -> None:
    journal.accept(COMMAND)
    batch = spool._build_batch()
    spool.settle(batch, [OK] * len(batch.envelopes))
    journal.start(STARTED)


# A full disk -------------------------------------------------------------------------------------


def test_file_that_cannot_grow_is_a_full_disk(journal_file: JournalFile) -> None:
    journal_file._connection.execute("PRAGMA max_page_count=30")
    journal = Journal(journal_file)
    journal.accept(COMMAND)

    with pytest.raises(DiskFullError, match="the disk is full"):
        journal.append_log(COMMAND.job_id, attempt=1, lines=build_lines(1000))

    assert [job.job_id for job in journal.held()] == [COMMAND.job_id]
    journal.start(STARTED)


def test_transaction_on_a_full_disk_changes_nothing_and_the_next_one_works(
    journal_file: JournalFile,
) -> None:
    journal = Journal(journal_file)

    with full_disk(journal_file), pytest.raises(DiskFullError, match="the disk is full"):
        journal.accept(COMMAND)

    assert journal.held() == ()
    assert journal.accept(COMMAND)


async def test_log_lines_go_first_and_the_gap_is_marked(journal_file: JournalFile) -> None:
    journal = Journal(journal_file)
    spool = Spool(journal_file, now=SystemClock().now)
    claim(journal, spool)
    log = LogWriter(
        COMMAND.job_id,
        attempt=1,
        journal=journal,
        spool=spool,
        clock=ManualClock(),
        redactor=Redactor(()),
    )

    with full_disk(journal_file):
        for number in range(30):
            log.write("stdout", f"lost {number} {'x' * 500}")
        log.flush()
        log.write("stdout", "lost too" + "x" * 5000)
        log.flush()
    log.write("stdout", "and on")
    log.flush()
    journal.finish(FINISHED)

    _, lines, finished = read_all(spool)
    assert isinstance(lines, JobLog)
    assert [line.text for line in lines.lines] == [
        "(31 lines left out here: the agent's disk was full)",
        "and on",
    ]
    assert isinstance(finished, JobFinished)
    assert finished.log_lines == 2


async def test_gap_at_the_end_of_a_log_is_marked(
    journal_file: JournalFile, state_dir: Path, tmp_path: Path
) -> None:
    host = Host(journal_file, install_fake_restic(tmp_path / "fake"), state_dir)
    clock = ManualClock()
    host.workshop = msgspec.structs.replace(host.workshop, clock=clock)
    host.fake.on("backup", hang=True, on_sigint=130)
    run = host.prepare(BACKUP)
    running = asyncio.create_task(run.run())
    while not host.fake.calls or not [job for job in host.journal.left_running() if job.child]:
        await asyncio.sleep(0.01)

    with full_disk(journal_file):
        run.end(EndReason.CANCELLED)
        while clock.sleeps.count(5.0) < 3:
            await asyncio.sleep(0.01)
    await running

    assert host.log[-1].endswith("lines left out here: the agent had no room for them)")
    assert "signal interrupt received, cleaning up" not in host.log
    assert host.finished.log_lines == len(host.log)


async def test_end_of_a_job_waits_for_room(
    journal_file: JournalFile, state_dir: Path, tmp_path: Path
) -> None:
    host = Host(journal_file, install_fake_restic(tmp_path / "fake"), state_dir)
    clock = ManualClock()
    host.workshop = msgspec.structs.replace(host.workshop, clock=clock)
    host.fake.on("backup", hang=True, on_sigint=130)
    run = host.prepare(BACKUP)
    running = asyncio.create_task(run.run())
    while not host.fake.calls or host.journal.left_running() == ():
        await asyncio.sleep(0.01)

    with full_disk(journal_file):
        run.end(EndReason.CANCELLED)
        while clock.sleeps.count(5.0) < 3:
            await asyncio.sleep(0.01)
        assert not running.done()
    await running

    assert host.finished.outcome is Outcome.CANCELLED


async def test_slot_that_is_due_on_a_full_disk_fires_once_there_is_room(
    state_dir: Path,
) -> None:
    host = ScheduledHost(state_dir)
    await host.apply(build_entry(1, "0 * * * *"))
    file = host.file

    with full_disk(file):
        await host.live(3660, every=60)
        assert host.fires == []
    await host.live(10)

    assert [fire.scheduled_at.minute for fire in host.fires] == [0]
    host.close()


async def test_receipts_on_a_full_disk_are_asked_for_again(journal_file: JournalFile) -> None:
    journal = Journal(journal_file)
    spool = Spool(journal_file, now=SystemClock().now)
    journal.accept(COMMAND)
    link = ScriptedLink(*[None] * 100)

    with full_disk(journal_file):
        sending = asyncio.create_task(
            send_forever(link, spool, backoff=Backoff(), clock=ManualClock())
        )
        while len(link.sent) < 3:
            await asyncio.sleep(0)
        assert journal.next_claimed() is None
    await spool.job_claimed.wait()
    sending.cancel()

    claimed = journal.next_claimed()
    assert claimed is not None
    assert claimed.id == COMMAND.job_id


async def test_lost_sending_on_a_full_disk_is_taken_back_once_there_is_room(
    state_dir: Path,
) -> None:
    host = ScheduledHost(state_dir)
    await host.apply(build_entry(1, "0 * * * *"))
    await host.send_all()
    await host.live(3600, every=60)
    # While the first fire is under way, the second one is written beside it.
    link = ScriptedLink(LinkLostError("no answer"))
    host.spool.in_flight = frozenset(one.position for one in host.spool._list_unsent())
    await host.live(3600, every=60)
    assert len(host.fires) == 2
    clock = ManualClock()

    with full_disk(host.file):
        sending = asyncio.create_task(
            send_forever(link, host.spool, backoff=Backoff(), clock=clock)
        )
        while clock.sleeps.count(ROOM_EVERY_S) < 3 and not sending.done():
            await asyncio.sleep(0)
        assert not sending.done()
    await link.is_used_up.wait()
    sending.cancel()

    assert [fire.missed for fire in host.fires] == [1]
    host.close()


async def test_refused_envelope_on_a_full_disk_is_dropped_once_there_is_room(
    journal_file: JournalFile,
) -> None:
    spool = Spool(journal_file, now=SystemClock().now)
    Journal(journal_file).accept(COMMAND)
    clock = ManualClock()
    link = ScriptedLink(BatchRefusedError("too large"))

    with full_disk(journal_file):
        sending = asyncio.create_task(send_forever(link, spool, backoff=Backoff(), clock=clock))
        while clock.sleeps.count(ROOM_EVERY_S) < 3 and not sending.done():
            await asyncio.sleep(0)
        assert not sending.done()
    while not spool.is_empty:
        await asyncio.sleep(0)
    sending.cancel()

    assert len(link.sent) == 1


async def test_superseded_process_says_hello_again_once_there_is_room(state_dir: Path) -> None:
    host = ScheduledHost(state_dir)
    host.spool.hello_received.set()
    clock = ManualClock()
    polling = poll_forever(
        ScriptedLink(SupersededError("another process")),
        host.inbox,
        Hold(25.0, now_s=0.0),
        backoff=Backoff(),
        clock=clock,
    )

    with full_disk(host.file):
        task = asyncio.create_task(polling)
        while clock.sleeps.count(ROOM_EVERY_S) < 3 and not task.done():
            await asyncio.sleep(0)
        assert not task.done()
    while host.spool.is_empty:
        await asyncio.sleep(0)
    task.cancel()

    assert [type(one) for one in host.waiting] == [Hello]
    host.close()


async def test_job_that_was_left_behind_is_reported_once_there_is_room(
    journal_file: JournalFile, state_dir: Path, tmp_path: Path
) -> None:
    host = Host(journal_file, install_fake_restic(tmp_path / "fake"), state_dir)
    clock = ManualClock()
    host.workshop = msgspec.structs.replace(host.workshop, clock=clock)
    command = host.claim(BACKUP)
    host.journal.start(JobStarted(job_id=command.job_id, attempt=1, at=START))
    loop = JobLoop(host.workshop)

    with full_disk(journal_file):
        running = asyncio.create_task(loop.run_until_stopped())
        while clock.sleeps.count(ROOM_EVERY_S) < 3 and not running.done():
            await asyncio.sleep(0.001)
        assert not running.done()
    while host.journal.left_running():
        await asyncio.sleep(0.001)
    loop.stop_accepting()
    await running

    assert host.finished.failure_class is FailureClass.INTERRUPTED


async def test_job_that_was_left_behind_does_not_keep_the_agent_from_stopping(
    journal_file: JournalFile, state_dir: Path, tmp_path: Path
) -> None:
    host = Host(journal_file, install_fake_restic(tmp_path / "fake"), state_dir)
    command = host.claim(BACKUP)
    host.journal.start(JobStarted(job_id=command.job_id, attempt=1, at=START))
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    with full_disk(journal_file):
        await loop.run_until_stopped()

    assert [job.id for job in host.journal.left_running()] == [command.job_id]


async def test_clock_that_is_set_back_on_a_full_disk_does_not_end_the_cron(
    state_dir: Path,
) -> None:
    host = ScheduledHost(state_dir)
    await host.apply(build_entry(1, "0 * * * *"))
    await host.live(7200, every=60)
    host.clock.step(-3600.0)

    with full_disk(host.file):
        running = asyncio.create_task(host.cron.run_forever())
        while host.clock.sleeps.count(ROOM_EVERY_S) < 3 and not running.done():
            await asyncio.sleep(0)
        assert not running.done()
    running.cancel()
    host.close()


# A spool that is full ----------------------------------------------------------------------------


def test_full_spool_takes_no_more_log_lines_but_every_result(journal_file: JournalFile) -> None:
    journal = Journal(journal_file, spool_limit=20_000)
    spool = Spool(journal_file, now=SystemClock().now)
    claim(journal, spool)
    journal.append_log(COMMAND.job_id, attempt=1, lines=build_lines(20))
    for _ in range(3):
        journal.append_log(COMMAND.job_id, attempt=1, lines=build_lines(20))
    journal.finish(FINISHED)

    _, kept, marker, finished = read_all(spool)

    assert isinstance(kept, JobLog)
    assert len(kept.lines) == 20
    assert isinstance(marker, JobLog)
    assert (marker.seq, [line.text for line in marker.lines]) == (
        20,
        ["(60 lines left out here: the agent had no room for them)"],
    )
    assert isinstance(finished, JobFinished)
    assert finished.log_lines == 21


def test_gap_is_marked_where_it_is_once_there_is_room_again(journal_file: JournalFile) -> None:
    journal = Journal(journal_file, spool_limit=20_000)
    spool = Spool(journal_file, now=SystemClock().now)
    claim(journal, spool)
    for _ in range(2):
        journal.append_log(COMMAND.job_id, attempt=1, lines=build_lines(20))
    batch = spool._build_batch()
    spool.settle(batch, [OK] * len(batch.envelopes))

    # What the server has makes room.
    journal.append_log(COMMAND.job_id, attempt=1, lines=build_lines(2, "later"))

    (log,) = read_all(spool)
    assert isinstance(log, JobLog)
    assert (log.seq, [line.text for line in log.lines]) == (
        20,
        [
            "(20 lines left out here: the agent had no room for them)",
            "0 later",
            "1 later",
        ],
    )


def test_fires_and_claims_have_room_in_a_full_spool(journal_file: JournalFile) -> None:
    journal = Journal(journal_file, spool_limit=1)

    assert journal.accept(COMMAND)

    spool = Spool(journal_file, now=SystemClock().now)
    assert read_all(spool) == [CommandAck(job_id=COMMAND.job_id, is_accepted=True)]


# A torn write ------------------------------------------------------------------------------------


def test_torn_write_leaves_the_steps_before_it(state_dir: Path, tmp_path: Path) -> None:
    file = open_journal_file(state_dir)
    journal = Journal(file)
    commands = [build_command(job_id=uuid4()) for _ in range(5)]
    for command in commands:
        journal.accept(command)
    main = (state_dir / FILE_NAME).read_bytes()
    log = (state_dir / f"{FILE_NAME}-wal").read_bytes()
    file.close()

    counts = set()
    for number, cut in enumerate([*range(0, len(log), 1111), len(log)]):
        torn = tmp_path / str(number)
        torn.mkdir(mode=0o700)
        (torn / FILE_NAME).write_bytes(main)
        # The power went away in the midst of a write, and what was behind it is garbage.
        (torn / f"{FILE_NAME}-wal").write_bytes(log[:cut] + b"\xa5" * 700)
        opened = open_journal_file(torn)
        held = Journal(opened).held()
        opened.close()
        assert [job.job_id for job in held] == [one.job_id for one in commands[: len(held)]]
        counts.add(len(held))
    assert counts == {0, 1, 2, 3, 4, 5}
