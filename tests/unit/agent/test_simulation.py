"""The simulated fleet: what is drawn, what its memory keeps, and what its checker finds."""

from __future__ import annotations

import asyncio
import random
import statistics
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import msgspec
import pytest

from backhaul.cli.app import app, build_root
from backhaul.cron import Cron, parse_cron
from backhaul.wire.agents import Receipt, ReceiptStatus
from backhaul.wire.commands import CommandRun
from backhaul.wire.jobs import Job, JobState, Outcome
from backhaul.wire.kinds import (
    BackupArguments,
    BackupResult,
    CheckArguments,
    RestoreArguments,
    kind_of,
)
from backhaul.wire.problems import Problem, ProblemType
from backhaul.wire.reports import JobFinished
from backhaul.wire.schedules import CreateSchedule, ScheduleAck, ScheduleFire, ScheduleKind
from backhaul_agent.clock import SystemClock
from backhaul_agent.simulation.agent import Lanes
from backhaul_agent.simulation.checker import Verdict, find_unfollowed, judge
from backhaul_agent.simulation.connection import Connection, join_chunks
from backhaul_agent.simulation.figures import Figures, Mark, Traffic, extrapolate
from backhaul_agent.simulation.ledger import FIRE, POST, Ledger
from backhaul_agent.simulation.memory import MemoryJournal, MemorySpool
from backhaul_agent.simulation.run import TooManyAgentsError, make_room_for
from backhaul_agent.simulation.schedules import build_crons, draw_schedules, mean_rate
from backhaul_agent.simulation.work import LONGEST_S, draw_run
from tests.unit.sdk.builders import JOB_ID, NOW, SCHEDULE_ID, build_job, build_schedule

HOURLY = parse_cron("0 * * * *", "UTC")
BACKUP = BackupArguments(paths=("/srv",))


# Schedules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_day", [1 / 7, 1, 3, 4, 24, 50, 100, 1000, 1440, 5000])
def test_schedules_fire_about_as_often_as_they_are_to(per_day: float) -> None:
    crons = [parse_cron(cron, "UTC", hash_key="host/one") for cron, _ in build_crons(per_day)]

    begin, days = datetime(2026, 11, 2, tzinfo=UTC), 7 if per_day < 100 else 1
    end = begin + timedelta(days=days)
    count = sum(_count_between(cron, begin, end) for cron in crons)

    assert count / days == pytest.approx(per_day, rel=0.4)


def _count_between(cron: Cron, begin: datetime, end: datetime) -> int:
    count = 0
    for slot in cron.iterate_after(begin - timedelta(seconds=1)):
        if slot >= end:
            return count
        count += 1
    return count


def test_no_schedule_is_moved_by_more_than_the_time_until_it_fires_again() -> None:
    for per_day in (1, 4, 24, 96, 1440):
        for _, jitter in build_crons(per_day):
            assert jitter <= 86_400 / per_day


def test_the_same_seed_draws_the_same_schedules() -> None:
    def draw(seed: int) -> list[object]:
        dice = random.Random(seed)
        hosts = [_draw(dice) for _ in range(50)]
        return [(one.cron, one.kind) for host in hosts for one in host]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_mixed_fleet_backs_up_as_often_as_its_mix_says() -> None:
    dice = random.Random(1)
    rates = [len(_draw(dice)) for _ in range(10)]
    drawn = [one.cron for _ in range(2000) for one in _draw(dice)]

    assert rates == [1] * 10
    assert drawn.count("H H * * *") / len(drawn) == pytest.approx(0.80, abs=0.03)
    assert mean_rate(None) == pytest.approx(2.6)


def _draw(dice: random.Random, *, is_upkeep_host: bool = False) -> list[CreateSchedule]:
    return list(
        draw_schedules(
            dice,
            per_day=None,
            speed=1.0,
            repository="sim-000",
            source="sim-data",
            is_upkeep_host=is_upkeep_host,
        )
    )


def test_the_first_host_of_a_repository_keeps_it_up() -> None:
    kinds = [one.kind for one in _draw(random.Random(1), is_upkeep_host=True)]

    assert kinds == [ScheduleKind.BACKUP, ScheduleKind.FORGET, ScheduleKind.CHECK]


# Work --------------------------------------------------------------------------------------------


def test_backups_take_as_long_and_fail_as_often_as_in_a_fleet() -> None:
    dice = random.Random(1)
    runs = [draw_run(dice, BACKUP) for _ in range(3000)]

    outcomes = [run.outcome for run in runs]
    assert statistics.median(run.duration_s for run in runs) == pytest.approx(90, rel=0.1)
    assert max(run.duration_s for run in runs) <= LONGEST_S
    assert outcomes.count(Outcome.FAILED) / len(runs) == pytest.approx(0.02, abs=0.01)
    assert outcomes.count(Outcome.INCOMPLETE) / len(runs) == pytest.approx(0.02, abs=0.01)
    assert all(isinstance(one.result, BackupResult) for one in runs if one.exit_code != 1)


@pytest.mark.parametrize("arguments", [BACKUP, CheckArguments()])
def test_a_result_is_that_of_the_kind(arguments: BackupArguments | CheckArguments) -> None:
    run = draw_run(random.Random(3), arguments)

    assert run.result is not None
    assert kind_of(run.result) == kind_of(arguments)


def test_what_is_not_simulated_fails_and_says_so() -> None:
    run = draw_run(random.Random(1), RestoreArguments(snapshot="latest", target="/tmp/x"))

    assert run.outcome is Outcome.FAILED
    assert "simulated" in str(run.message)


# The checker -------------------------------------------------------------------------------------


def _slot(hour: int) -> datetime:
    return NOW.replace(hour=hour)


def _job_of(hour: int, *, missed: int = 0, **changes: object) -> Job:
    return build_job(
        JobState.SUCCEEDED,
        id=UUID(int=hour),
        schedule_id=SCHEDULE_ID,
        scheduled_at=_slot(hour),
        missed=missed,
        accepted_at=NOW,
        log_lines=3,
        **changes,
    )


def _ledger(*hours: int) -> Ledger:
    ledger = Ledger(Figures())
    for hour in hours:
        ledger.note_fire(SCHEDULE_ID, _slot(hour), UUID(int=hour), is_timed=True)
        _run(ledger, UUID(int=hour))
    return ledger


def _run(ledger: Ledger, job_id: UUID, *, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    ledger.note_run(job_id, 1)
    ledger.note_end(JobFinished(job_id=job_id, attempt=1, at=NOW, outcome=outcome, log_lines=3))


def _judge(ledger: Ledger, *jobs: Job) -> Verdict:
    return judge(ledger, jobs, {SCHEDULE_ID: HOURLY})


def test_a_fleet_of_which_everything_is_there_once_is_good() -> None:
    assert _judge(_ledger(1, 2, 3), _job_of(1), _job_of(2), _job_of(3)).is_good


def test_a_fire_without_a_job_is_lost() -> None:
    verdict = _judge(_ledger(1, 2, 3), _job_of(1), _job_of(3))

    assert [one for one in verdict.lost if "02:00" in one]
    assert verdict.doubled == []


def test_a_slot_that_never_fired_between_two_that_did_is_lost() -> None:
    verdict = _judge(_ledger(1, 3), _job_of(1), _job_of(3))

    assert ["02:00" in one for one in verdict.lost] == [True]


def test_a_job_that_stands_for_missed_slots_covers_them() -> None:
    assert _judge(_ledger(1, 4), _job_of(1), _job_of(4, missed=2)).is_good


def test_a_slot_with_two_jobs_is_doubled() -> None:
    verdict = _judge(_ledger(1, 2), _job_of(1), _job_of(2, missed=1))

    assert ["01:00" in one for one in verdict.doubled] == [True]
    assert verdict.lost == []


def test_a_job_that_was_run_twice_in_one_attempt_is_doubled() -> None:
    ledger = _ledger(1)
    ledger.note_run(UUID(int=1), 1)

    assert len(_judge(ledger, _job_of(1)).doubled) == 1


def test_a_job_that_the_operator_was_told_of_and_is_not_there_is_lost() -> None:
    ledger = _ledger()
    ledger.note_post(JOB_ID, since_s=0.0)

    assert len(_judge(ledger).lost) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"state": JobState.FAILED},
        {"state": JobState.LOST},
        {"log_lines": 2},
    ],
    ids=["another end", "given up", "log lines"],
)
def test_a_job_that_differs_from_what_was_told_is_lost(changes: dict[str, object]) -> None:
    job = msgspec.structs.replace(_job_of(1), **changes)

    assert len(_judge(_ledger(1), job).lost) == 1


def test_a_job_that_is_not_over_is_stuck() -> None:
    job = msgspec.structs.replace(_job_of(1), state=JobState.RUNNING)

    verdict = _judge(_ledger(1), job)

    assert len(verdict.stuck) == 1
    assert verdict.lost == []


def test_a_schedule_that_was_deleted_meanwhile_has_no_gaps() -> None:
    verdict = judge(_ledger(1, 3), [_job_of(1), _job_of(3)], {})

    assert verdict.is_good


def test_a_schedule_that_its_host_has_dropped_unasked_is_found() -> None:
    """Its slots are not: no fire of it is missing from the first to the last."""
    schedule = build_schedule(id=SCHEDULE_ID)
    disabled = build_schedule(id=JOB_ID, enabled=False)

    assert find_unfollowed([schedule, disabled], {SCHEDULE_ID: HOURLY}) == []
    assert len(find_unfollowed([schedule, disabled], {})) == 1


# Latencies and bytes -----------------------------------------------------------------------------


class Stopwatch:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_command_that_is_here_before_the_answer_to_its_post_counts_from_the_post() -> None:
    watch = Stopwatch()
    ledger = Ledger(Figures(), clock_s=watch)

    watch.now_s = 100.004
    ledger.note_command(JOB_ID, is_operators=True, is_timed_since=lambda _: True)
    watch.now_s = 100.009
    ledger.note_post(JOB_ID, since_s=100.0)

    assert ledger.figures.latencies[POST] == [pytest.approx(0.004)]


def test_a_fire_that_waits_for_its_repository_counts_for_no_latency() -> None:
    lanes, ledger = Lanes(), _ledger(1)
    lanes.enter(0, SCHEDULE_ID)

    ledger.note_command(
        UUID(int=1),
        is_operators=False,
        is_timed_since=lambda since_s: lanes.was_free(0, since_s=since_s),
    )

    assert FIRE not in ledger.figures.latencies


def test_a_repository_that_was_freed_after_the_fire_was_not_free() -> None:
    lanes = Lanes()
    lanes.enter(0, SCHEDULE_ID)
    lanes.leave(0, SCHEDULE_ID, now_s=10.0)

    assert not lanes.was_free(0, since_s=9.0)
    assert lanes.was_free(0, since_s=11.0)
    assert lanes.was_free(1, since_s=9.0)


def test_a_day_is_its_quiet_polls_by_the_time_and_its_jobs_by_their_number() -> None:
    begin = Mark(
        at_s=0.0, at=NOW, polls=0, fires=0, ended=0, quiet=Traffic(500, 500), busy=Traffic()
    )
    end = Mark(
        at_s=50.0,
        at=NOW,
        polls=20,
        fires=4,
        ended=4,
        quiet=Traffic(20_500, 10_500),
        busy=Traffic(8_000, 4_000),
    )

    day = extrapolate(begin, end, agents=10, jobs_per_day=3.0)

    assert day is not None
    assert day.sent == 20_000 / 10 * 1728 + 3 * 2_000
    assert day.received == 10_000 / 10 * 1728 + 3 * 1_000


# The spool and the journal in memory -------------------------------------------------------------


class Ear:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def hear_claim(self) -> None:
        pass

    def hear_ack(self, ack: ScheduleAck) -> None:
        self.heard.append(ack.schedule_version)

    def hear_end(self, finished: JobFinished) -> None:
        self.heard.append(finished.job_id)


class Host:
    """A spool and its journal, and a server that gives the receipts it is told to."""

    def __init__(self) -> None:
        self.ear = Ear()
        self.figures = Figures()
        self.spool = MemorySpool(SystemClock(), self.figures, self.ear)
        self.journal = MemoryJournal(self.spool)

    async def send(self, *receipts: Receipt) -> list[object]:
        batch = await asyncio.wait_for(self.spool.next_batch(), 1)
        self.spool.settle(batch, receipts or (_OK,) * len(batch.spooled))
        return [msgspec.json.decode(bytes(raw)) for raw in batch.envelopes]


_OK = Receipt(status=ReceiptStatus.OK)


def _refuse(type_: ProblemType) -> Receipt:
    problem = Problem(type=type_, title="no", status=409, detail="no")
    return Receipt(status=ReceiptStatus.REJECTED, problem=problem)


def _command() -> CommandRun:
    return CommandRun(
        job_id=JOB_ID,
        attempt=1,
        kind="backup",
        arguments=msgspec.Raw(msgspec.json.encode(BACKUP)),
    )


async def test_a_job_that_was_taken_up_is_not_taken_up_again_until_it_is_given_back() -> None:
    host = Host()

    assert host.journal.accept(_command())
    assert not host.journal.accept(_command())
    await host.send(_refuse(ProblemType.JOB_WAITS))

    assert host.spool.claim_given_back.is_set()
    assert host.journal.accept(_command())
    assert host.figures.errors == {}


async def test_a_job_begins_after_the_receipt_of_its_claim() -> None:
    host = Host()
    host.journal.accept(_command())
    before = host.journal.next_claimed()

    await host.send()

    after = host.journal.next_claimed()
    assert before is None
    assert after is not None
    assert after.id == JOB_ID


async def test_a_refused_claim_is_counted_and_never_begins() -> None:
    host = Host()
    host.journal.accept(_command())

    await host.send(_refuse(ProblemType.CONFLICT))

    assert host.journal.is_empty
    assert host.figures.errors == {"receipt: conflict": 1}


async def test_fires_that_wait_become_one_that_stands_for_all() -> None:
    host = Host()
    slots = [NOW + timedelta(minutes=number) for number in range(3)]
    for slot in slots:
        host.spool.put_fire(_fire(slot))

    sent = await host.send()

    (fire,) = msgspec.convert(sent, list[ScheduleFire])
    assert (fire.scheduled_at, fire.missed, fire.missed_since) == (slots[2], 2, slots[0])
    assert host.spool.is_empty


async def test_a_fire_under_way_is_merged_only_when_it_comes_back() -> None:
    host = Host()
    host.spool.put_fire(_fire(NOW))
    await host.spool.next_batch()
    host.spool.put_fire(_fire(NOW + timedelta(minutes=1)))

    host.spool.take_back(is_link_down=True)
    host.spool.merge_fires()

    (fire,) = msgspec.convert(await host.send(), list[ScheduleFire])
    assert fire.missed == 1


def _fire(slot: datetime) -> ScheduleFire:
    return ScheduleFire(schedule_id=SCHEDULE_ID, scheduled_at=slot, fired_at=slot)


async def test_the_server_hears_of_the_newest_set_only() -> None:
    host = Host()
    host.spool.put_ack(ScheduleAck(schedule_version=1))
    host.spool.put_ack(ScheduleAck(schedule_version=2))

    await host.send()

    assert host.ear.heard == [2]


# Connections -------------------------------------------------------------------------------------

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nBackhaul-Protocol: 1\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
)


class Wire(asyncio.Transport):
    """Where requests go."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_over = False

    def write(self, data: object) -> None:
        self.written += bytes(data)  # type: ignore[call-overload]

    def is_closing(self) -> bool:
        return self.is_over

    def abort(self) -> None:
        self.is_over = True


def _connect() -> tuple[Connection, Wire]:
    connection, wire = Connection(), Wire()
    connection.connection_made(wire)
    return connection, wire


@pytest.mark.parametrize("answer", [ANSWER, CHUNKED], ids=["whole", "in chunks"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_an_answer_may_come_in_any_pieces(answer: bytes, size: int) -> None:
    connection, wire = _connect()
    awaited = connection.exchange(b"request")

    for begin in range(0, len(answer), size):
        assert not awaited.done()
        connection.data_received(answer[begin : begin + size])

    found = await awaited
    assert wire.written == b"request"
    assert found.body == b"hello"
    assert found.size == len(answer)


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
async def test_an_answer_that_does_not_say_how_long_it_is_ends_the_connection(data: bytes) -> None:
    connection, wire = _connect()
    awaited = connection.exchange(b"request")

    connection.data_received(data)

    with pytest.raises(httpx.RemoteProtocolError):
        await awaited
    assert wire.is_over


async def test_a_chunk_that_does_not_say_how_long_it_is_ends_the_connection() -> None:
    connection, wire = _connect()
    awaited = connection.exchange(b"request")

    connection.data_received(CHUNKED.replace(b"3\r\nhel", b"x\r\nhel"))

    with pytest.raises(httpx.RemoteProtocolError):
        await awaited
    assert wire.is_over


async def test_a_server_that_hangs_up_is_noticed_by_who_waits() -> None:
    connection, _ = _connect()
    awaited = connection.exchange(b"request")

    connection.connection_lost(None)

    with pytest.raises(httpx.ReadError):
        await awaited
    with pytest.raises(httpx.ReadError):
        await connection.exchange(b"request")


def test_chunks_that_have_not_all_come_are_no_body() -> None:
    data = CHUNKED.partition(b"\r\n\r\n")[2]

    assert join_chunks(data[:-6]) is None
    assert join_chunks(data) == b"hello"


# The command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--speed", "10000"), "--speed"),
        (("--prefix", "-x"), "--prefix"),
        (("--duration", "soon"), "--duration"),
        (("--ramp", "-1s"), "--ramp"),
        (("--agents", "0"), "--agents"),
    ],
)
def test_bad_input_names_the_option(
    options: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build_root(app)(["simulate", *options])

    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_more_agents_than_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 1024))

    with pytest.raises(TooManyAgentsError, match="1,250 open files"):
        make_room_for(1000)
