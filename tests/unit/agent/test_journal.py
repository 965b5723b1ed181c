"""The journal at each point where the agent can die: nothing is lost, nothing runs twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from backhaul.wire.agents import Hello, Receipt, ReceiptStatus, UpEnvelope
from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import LogLine, Outcome
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul.wire.schedules import ScheduleFire, build_scheduled_job_id
from backhaul_agent import spool_table
from backhaul_agent.errors import Loss, StateFileError
from backhaul_agent.journal import MAX_KNOWN_JOBS, Journal
from backhaul_agent.journal_file import _TABLES, FILE_NAME, JournalFile, open_journal_file
from backhaul_agent.process import Child
from backhaul_agent.schedule_journal import ScheduleJournal
from backhaul_agent.spool import STUMBLES_ALONE, Spool
from backhaul_agent.spool_table import Spooled
from tests.unit.agent.hosts import FACTS, OK, START, ManualClock, build_command, rejected

CONFLICT = "urn:backhaul:problem:conflict"
LOG_GAP = "urn:backhaul:problem:log-gap"
JOB_WAITS = "urn:backhaul:problem:job-waits"
COMMAND = build_command()
LINE = LogLine(at=START, stream="stdout", text="line")
STARTED = JobStarted(job_id=COMMAND.job_id, attempt=1, at=START)
FINISHED = JobFinished(
    job_id=COMMAND.job_id, attempt=1, at=START, outcome=Outcome.SUCCEEDED, log_lines=0
)


@contextmanager
def process(state_dir: Path) -> Iterator[tuple[Journal, Spool]]:
    """One life of the agent; it ends without any goodbye."""
    file = open_journal_file(state_dir)
    try:
        yield Journal(file), Spool(file, now=ManualClock().now)
    finally:
        file.close()


def waiting(spool: Spool) -> list[UpEnvelope]:
    return [msgspec.json.decode(raw, type=UpEnvelope) for raw in spool._build_batch().envelopes]


def answer(spool: Spool, *receipts: Receipt) -> None:
    batch = spool._build_batch()
    spool.settle(batch, receipts or (OK,) * len(batch.envelopes))


def test_each_step_survives_a_crash_after_it(state_dir: Path) -> None:
    with process(state_dir) as (journal, _):
        assert journal.accept(COMMAND)
    with process(state_dir) as (journal, spool):
        assert [job.state for job in journal.held()] == ["accepted"]
        assert waiting(spool) == [CommandAck(job_id=COMMAND.job_id, is_accepted=True)]
        assert journal.next_claimed() is None
        answer(spool)
    with process(state_dir) as (journal, spool):
        claimed = journal.next_claimed()
        assert claimed is not None
        assert claimed.command == COMMAND
        assert waiting(spool) == []
        journal.start(STARTED)
        journal.record_child(COMMAND.job_id, Child(pid=5, started=6))
    with process(state_dir) as (journal, spool):
        assert journal.next_claimed() is None
        assert journal.left_running()[0].child == Child(pid=5, started=6)
        assert waiting(spool) == [STARTED]
        journal.append_log(COMMAND.job_id, attempt=1, lines=[LINE, LINE])
        journal.append_log(COMMAND.job_id, attempt=1, lines=[LINE])
    with process(state_dir) as (journal, spool):
        journal.finish(FINISHED)
    with process(state_dir) as (journal, spool):
        assert [job.state for job in journal.held()] == ["finished"]
        started, *logs, finished = waiting(spool)
        assert started == STARTED
        assert [(log.seq, len(log.lines)) for log in logs if isinstance(log, JobLog)] == [
            (0, 2),
            (2, 1),
        ]
        assert finished == msgspec.structs.replace(FINISHED, log_lines=3)
        answer(spool)
    with process(state_dir) as (journal, spool):
        assert journal.held() == ()
        assert waiting(spool) == []
        assert not journal.accept(COMMAND)
        assert journal.held() == ()


@pytest.mark.parametrize("is_claimed", [True, False])
def test_job_of_an_earlier_process_is_claimed_again_before_it_starts(
    state_dir: Path, is_claimed: bool
) -> None:
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        if is_claimed:
            answer(spool)

    with process(state_dir) as (journal, spool):
        assert journal.claim_again() == 1
        assert journal.next_claimed() is None
        assert waiting(spool) == [CommandAck(job_id=COMMAND.job_id, is_accepted=True)]
        answer(spool, Receipt(status=ReceiptStatus.DUPLICATE))
        assert journal.next_claimed() is not None


def test_job_that_the_server_gave_up_meanwhile_is_dropped(state_dir: Path) -> None:
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        answer(spool)

    with process(state_dir) as (journal, spool):
        journal.claim_again()
        answer(spool, rejected(CONFLICT))
        assert journal.held() == ()


def test_job_that_runs_or_is_over_is_not_claimed_again(state_dir: Path) -> None:
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        answer(spool)
        journal.start(STARTED)
        assert journal.claim_again() == 0
        journal.finish(FINISHED)
        assert journal.claim_again() == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda journal: journal.accept(COMMAND),
        lambda journal: journal.refuse(COMMAND, reason="no"),
    ],
    ids=["accept", "refuse"],
)
def test_a_crash_within_a_step_leaves_nothing_of_it(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, step: Callable[[Journal], object]
) -> None:
    with process(state_dir) as (journal, _), monkeypatch.context() as patch:
        patch.setattr("backhaul_agent.spool_table.put", _die)
        with pytest.raises(KeyboardInterrupt):
            step(journal)

    with process(state_dir) as (journal, spool):
        assert journal.held() == ()
        assert waiting(spool) == []
        assert journal.accept(COMMAND)


def test_a_crash_while_finishing_leaves_the_job_running(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(state_dir) as (journal, spool), monkeypatch.context() as patch:
        journal.accept(COMMAND)
        answer(spool)
        journal.start(STARTED)
        patch.setattr("backhaul_agent.spool_table.put", _die)
        with pytest.raises(KeyboardInterrupt):
            journal.finish(FINISHED)

    with process(state_dir) as (journal, _):
        assert len(journal.left_running()) == 1


def test_the_same_command_is_taken_up_once(journal: Journal, spool: Spool) -> None:
    assert journal.accept(COMMAND)
    assert not journal.accept(COMMAND)
    assert not journal.refuse(COMMAND, reason="no")

    assert len(waiting(spool)) == 1


def test_another_attempt_is_taken_up_after_the_first_is_gone(
    journal: Journal, spool: Spool
) -> None:
    again = msgspec.structs.replace(COMMAND, attempt=2)
    journal.accept(COMMAND)
    assert not journal.accept(again)

    journal.finish(FINISHED)
    answer(spool)

    assert journal.accept(again)


def test_refused_claim_drops_the_job(journal: Journal, spool: Spool) -> None:
    journal.accept(COMMAND)

    answer(spool, rejected(CONFLICT))

    assert journal.held() == ()
    assert not journal.accept(COMMAND)


def test_finishing_twice_reports_once(journal: Journal, spool: Spool) -> None:
    journal.accept(COMMAND)
    journal.finish(FINISHED)
    journal.finish(msgspec.structs.replace(FINISHED, outcome=Outcome.FAILED))

    ends = [one for one in waiting(spool) if isinstance(one, JobFinished)]
    assert [end.outcome for end in ends] == [Outcome.SUCCEEDED]


def test_hello_goes_before_what_was_left_and_only_once(journal: Journal, spool: Spool) -> None:
    journal.accept(COMMAND)
    old, new = (Hello(boot_id=COMMAND.job_id, facts=FACTS), Hello(boot_id=START_ID, facts=FACTS))
    spool.say_hello(old)
    spool.say_hello(new)

    envelopes = waiting(spool)

    assert [type(one) for one in envelopes] == [Hello]
    assert envelopes[0] == new


START_ID = build_command().job_id


def test_lines_that_the_server_lost_are_sent_again(journal: Journal, spool: Spool) -> None:
    journal.accept(COMMAND)
    answer(spool)
    for _ in range(3):
        journal.append_log(COMMAND.job_id, attempt=1, lines=[LINE, LINE])
    answer(spool)
    journal.finish(FINISHED)

    answer(spool, rejected(LOG_GAP, expected_seq=2))

    envelopes = waiting(spool)
    assert [log.seq for log in envelopes if isinstance(log, JobLog)] == [2, 4]
    assert isinstance(envelopes[-1], JobFinished)
    answer(spool)
    assert journal.held() == ()
    assert spool.is_empty


def test_lines_that_are_nowhere_any_more_are_named_as_lost(journal: Journal, spool: Spool) -> None:
    journal.accept(COMMAND)
    answer(spool)
    journal.append_log(COMMAND.job_id, attempt=1, lines=[LINE] * 3)
    answer(spool, rejected(CONFLICT))
    journal.append_log(COMMAND.job_id, attempt=1, lines=[LINE])
    journal.finish(FINISHED)

    gap = rejected(LOG_GAP, expected_seq=0)
    answer(spool, gap, gap)

    filler, log, finished = waiting(spool)
    assert isinstance(filler, JobLog)
    assert (filler.seq, len(filler.lines)) == (0, 3)
    assert "lost" in filler.lines[0].text
    assert isinstance(log, JobLog)
    assert log.seq == 3
    assert isinstance(finished, JobFinished)


def test_an_end_that_is_refused_for_ever_is_given_up(journal: Journal, spool: Spool) -> None:
    journal.accept(COMMAND)
    answer(spool)
    journal.append_log(COMMAND.job_id, attempt=1, lines=[LINE])
    journal.finish(FINISHED)

    for _ in range(5):
        batch = spool._build_batch()
        gap = rejected(LOG_GAP, expected_seq=0)
        spool.settle(batch, [gap] * len(batch.envelopes))

    assert journal.held() == ()
    assert spool.is_empty


def test_past_jobs_are_forgotten_one_day(journal: Journal, journal_file: JournalFile) -> None:
    journal.refuse(COMMAND, reason="no")
    with journal_file.transaction() as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = ?", (MAX_KNOWN_JOBS + 1,))

    journal.refuse(build_command(), reason="no")

    assert journal.accept(COMMAND)


def test_journal_is_private(state_dir: Path) -> None:
    with process(state_dir) as (journal, _):
        journal.accept(COMMAND)
        modes = {file.name: file.stat().st_mode & 0o777 for file in state_dir.iterdir()}

    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}
    assert len(modes) == 3


def test_damaged_journal_stops_the_agent_and_is_left_as_it_is(state_dir: Path) -> None:
    with process(state_dir) as (journal, _):
        journal.accept(COMMAND)
    file = state_dir / FILE_NAME
    content = b"SQLite format 3\x00" + b"\xff" * 8000
    file.write_bytes(content)

    with pytest.raises(StateFileError, match="is damaged"):
        open_journal_file(state_dir)

    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE jobs SET command = x'00'",
        "UPDATE jobs SET pid = 1, noted_end = x'7b'",
        "INSERT INTO schedules (schedule_id, entry) VALUES ('1', x'00')",
        "INSERT INTO schedules (schedule_id, entry) VALUES ('1', CAST('{}' AS BLOB))",
        "INSERT INTO spool (type, schedule_id, body) VALUES ('schedule.fire', 'one', x'00')",
        "INSERT INTO spool (type, job_id, body) VALUES ('job.log', 'one', x'00')",
    ],
)
def test_row_that_cannot_be_read_stops_the_agent(state_dir: Path, damage: str) -> None:
    """SQLite sees no damage within what a row holds."""
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        connection = sqlite3.connect(state_dir / FILE_NAME)
        connection.execute(damage)
        connection.commit()
        connection.close()

        with pytest.raises(StateFileError, match="is damaged"):
            read_all(journal, spool)


def read_all(journal: Journal, spool: Spool) -> list[object]:
    schedules = ScheduleJournal(spool._file)
    return [journal.held(), spool.is_empty, schedules.load(), schedules.list_waiting()]


def test_file_that_is_no_database_stops_the_agent(state_dir: Path) -> None:
    state_dir.mkdir()
    (state_dir / FILE_NAME).write_text("hello, this is not a database at all\n" * 50)

    with pytest.raises(StateFileError, match="is damaged"):
        open_journal_file(state_dir)


def test_journal_of_a_later_agent_stops_this_one(state_dir: Path) -> None:
    with process(state_dir):
        pass
    connection = sqlite3.connect(state_dir / FILE_NAME)
    connection.execute("PRAGMA user_version=99")
    connection.close()

    with pytest.raises(StateFileError, match="format 99"):
        open_journal_file(state_dir)


def test_journal_of_an_older_agent_is_taken_over(state_dir: Path) -> None:
    state_dir.mkdir()
    connection = sqlite3.connect(state_dir / FILE_NAME)
    connection.executescript(f"{_TABLES}PRAGMA user_version=1;")
    connection.execute(
        "INSERT INTO jobs (job_id, attempt, command, state) VALUES (?, 1, ?, 'claimed')",
        (str(COMMAND.job_id), msgspec.json.encode(COMMAND)),
    )
    connection.commit()
    connection.close()

    for _ in range(2):
        with process(state_dir) as (journal, spool):
            claimed = journal.next_claimed()
            assert claimed is not None
            assert claimed.command == COMMAND
            assert spool.is_empty


def test_death_between_file_and_tables_is_no_damage(state_dir: Path) -> None:
    state_dir.mkdir()
    (state_dir / FILE_NAME).touch()

    with process(state_dir) as (journal, _):
        assert journal.accept(COMMAND)


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_hello_goes_out_in_a_batch_of_its_own(state_dir: Path) -> None:
    hello = Hello(boot_id=uuid4(), facts=FACTS)
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        spool.say_hello(hello)

        assert waiting(spool) == [hello]
        answer(spool)
        assert waiting(spool) == [CommandAck(job_id=COMMAND.job_id, is_accepted=True)]


@pytest.mark.parametrize(
    ("loss", "sizes"),
    [
        (Loss.SERVER_FAILED, [4, 4, 4, 2, 1, 1]),
        (Loss.TIMED_OUT, [4, 4, 4, 2, 1, 1]),
        (Loss.TOO_LARGE, [4, 2, 1, 1, 1, 1]),
        (Loss.CUT, [4, 4, 4, 4, 4, 4]),
    ],
)
async def test_batch_that_may_be_at_fault_itself_shrinks_and_loses_nothing(
    state_dir: Path, loss: Loss, sizes: list[int]
) -> None:
    with process(state_dir) as (journal, spool):
        for _ in range(4):
            journal.accept(build_command())
        sent = []
        for _ in sizes:
            sent.append(len((await spool.next_batch()).spooled))
            spool.take_back(is_link_down=True, loss=loss)

        assert sent == sizes
        assert len(spool._list_unsent()) == sizes[-1]
        while spool._list_unsent():
            answer(spool)
        assert len(journal.held()) == 4


async def _fail(spool: Spool, times: int) -> None:
    for _ in range(times):
        await spool.next_batch()
        spool.take_back(is_link_down=True, loss=Loss.SERVER_FAILED)


async def test_envelope_that_the_server_always_fails_at_keeps_no_other_waiting(
    state_dir: Path,
) -> None:
    with process(state_dir) as (journal, spool):
        poison, other = build_command(), build_command()
        journal.accept(poison)
        journal.accept(other)

        while (batch := await spool.next_batch()).spooled[0].job_id == poison.job_id:
            spool.take_back(is_link_down=True, loss=Loss.SERVER_FAILED)
        answer(spool)

        # It waits with all that is told of its job, and is not given up.
        assert batch.spooled[0].job_id == other.job_id
        assert {job.job_id for job in journal.held()} == {poison.job_id, other.job_id}
        assert spool.is_empty
        spool._aside = dict.fromkeys(spool._aside, START)  # the time is over
        assert [one.job_id for one in spool._list_unsent()] == [poison.job_id]


async def test_hello_is_never_set_aside(state_dir: Path) -> None:
    with process(state_dir) as (_, spool):
        spool.say_hello(Hello(boot_id=uuid4(), facts=FACTS))

        await _fail(spool, 3 * STUMBLES_ALONE)

        assert not spool.is_empty


async def test_job_of_a_fire_waits_with_the_fire(state_dir: Path) -> None:
    fire = ScheduleFire(schedule_id=uuid4(), scheduled_at=START, fired_at=START)
    body = msgspec.json.encode(fire)
    spooled = Spooled(position=1, type="schedule.fire", job_id=None, body=body)

    subjects = spool_table.list_subjects(spooled)

    job_id = build_scheduled_job_id(fire.schedule_id, fire.scheduled_at)
    assert subjects == {str(fire.schedule_id), str(job_id)}


# Turns -------------------------------------------------------------------------------------------


def test_claim_that_is_given_back_was_never_here(state_dir: Path) -> None:
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        answer(spool, rejected(JOB_WAITS))

        assert spool.claim_given_back.is_set()
        assert journal.held() == ()
        assert waiting(spool) == []
        # It comes again when its turn has come.
        assert journal.accept(COMMAND)
        answer(spool)
        claimed = journal.next_claimed()
        assert claimed is not None
        assert claimed.id == COMMAND.job_id


def test_job_that_ended_long_ago_is_not_run_again_when_it_is_sent_again(state_dir: Path) -> None:
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        answer(spool)
        journal.start(STARTED)
        journal.finish(FINISHED)
        for _ in range(3):
            answer(spool)
        assert journal.find(COMMAND.job_id) is None

    with process(state_dir) as (journal, _):
        assert not journal.accept(COMMAND)
        assert journal.next_claimed() is None


def test_next_attempt_of_a_job_is_another_one(state_dir: Path) -> None:
    second = msgspec.structs.replace(COMMAND, attempt=2)
    with process(state_dir) as (journal, spool):
        journal.accept(COMMAND)
        answer(spool)
        journal.start(STARTED)
        assert not journal.accept(second)
        journal.finish(FINISHED)
        answer(spool)

        assert not journal.accept(COMMAND)
        assert journal.accept(second)
        assert waiting(spool) == [CommandAck(job_id=COMMAND.job_id, attempt=2, is_accepted=True)]


def test_urgent_jobs_go_first_and_each_once(state_dir: Path) -> None:
    commands = [build_command(job_id=uuid4(), priority=priority) for priority in (0, 1, 2, 1, 2)]
    with process(state_dir) as (journal, spool):
        for command in commands:
            journal.accept(command)
        answer(spool)

        order: list[int] = []
        while (
            job := journal.next_claimed(besides=[commands[i].job_id for i in order])
        ) is not None:
            order.append(commands.index(job.command))

    assert order == [2, 4, 1, 3, 0]
