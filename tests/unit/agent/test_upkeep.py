"""Forget, prune and check: what restic is asked, and what is never asked of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backhaul.wire.agents import UpEnvelope
from backhaul.wire.honesty import ID_DIGITS, Origin
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import (
    Arguments,
    CheckArguments,
    CheckResult,
    ForgetArguments,
    ForgetGuard,
    ForgetResult,
    JobKind,
    PruneArguments,
    PruneResult,
    Retention,
    UnlockArguments,
    UnlockResult,
)
from backhaul.wire.reports import JobFinished, JobLog
from backhaul.wire.snapshots import SnapshotsReport
from backhaul_agent.clock import SystemClock
from backhaul_agent.job import JobRun, Workshop
from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import JournalFile
from backhaul_agent.policy import Policy
from backhaul_agent.restic import forget
from backhaul_agent.restic.exit_codes import interpret
from backhaul_agent.restic.output import parse_percent
from backhaul_agent.setting_aside import MAX_NAMED, Plan, build_result
from backhaul_agent.settings import PolicySettings, Settings
from backhaul_agent.spool import Spool
from tests.fakes.fake_restic import FakeRestic, install_fake_restic, load_play
from tests.unit.agent.hosts import (
    OK,
    build_command,
    build_credentials,
    build_identity,
    read_recorded,
    seal,
)

pytestmark = pytest.mark.timeout(20)

FORGET = ForgetArguments(tag="nightly", keep=Retention(keep_last=2, keep_within="1y5m"))


class Host:
    """A host that runs one job."""

    def __init__(self, file: JournalFile, fake: FakeRestic, state_dir: Path) -> None:
        self.fake = fake
        self.identity = build_identity()
        self.spool = Spool(file, now=SystemClock().now)
        self.workshop = Workshop(
            settings=Settings(state_dir=state_dir, restic=fake.path),
            identity=self.identity,
            policy=Policy(PolicySettings()),
            journal=Journal(file),
            spool=self.spool,
            clock=SystemClock(),
            inherited={},
        )

    async def run(self, arguments: Arguments) -> JobFinished:
        credentials = build_credentials()
        command = build_command(
            arguments,
            repository_id=credentials.repository_id,
            credentials=seal(self.identity, credentials),
        )
        self.workshop.journal.accept(command)
        batch = self.spool._build_batch()
        self.spool.settle(batch, [OK] * len(batch.envelopes))
        job = self.workshop.journal.next_claimed()
        assert job is not None
        await JobRun(job, self.workshop).run()
        finished = self.of(JobFinished)[0]
        assert isinstance(finished, JobFinished)
        return finished

    def of(self, type_: type[Any]) -> list[Any]:
        unsent = self.spool._list_unsent()
        envelopes = [msgspec.json.decode(one.body, type=UpEnvelope) for one in unsent]
        return [one for one in envelopes if isinstance(one, type_)]

    @property
    def log(self) -> list[str]:
        return [line.text for log in self.of(JobLog) for line in log.lines]

    @property
    def commands(self) -> list[list[str]]:
        return [call["argv"][1:] for call in self.fake.calls]


def recorded_groups() -> list[forget.Group]:
    groups = forget.read_groups(read_recorded("forget-dry-run")[0])
    assert groups is not None
    return groups


@pytest.fixture
def host(journal_file: JournalFile, state_dir: Path, tmp_path: Path) -> Host:
    return Host(journal_file, install_fake_restic(tmp_path / "bin"), state_dir)


async def test_forget_is_tried_dry_and_what_is_to_go_then_goes_by_its_ids(host: Host) -> None:
    host.fake.on("forget", case="forget-dry-run")
    host.fake.on("forget", stdout="")
    host.fake.on("snapshots", case="snapshots-several")

    finished = await host.run(FORGET)

    assert finished.outcome is Outcome.SUCCEEDED
    asked = [
        "forget",
        "--json",
        "--tag=nightly",
        "--group-by=host",
        "--keep-last=2",
        "--keep-within=1y5m",
        "--dry-run",
    ]
    removed = [one.id for group in recorded_groups() for one in group.removed]
    assert host.commands == [
        asked,
        ["forget", "--json", "--", *removed],
        ["snapshots", "--json"],
    ]
    assert isinstance(finished.result, ForgetResult)
    assert (finished.result.kept, finished.result.removed) == (8, 8)
    assert {len(one) for one in finished.result.removed_snapshots} == {8}


async def test_server_learns_what_is_left_after_a_forget(host: Host) -> None:
    host.fake.on("forget", case="forget-real")
    host.fake.on("snapshots", case="snapshots-several")

    await host.run(FORGET)

    assert [report.is_complete for report in host.of(SnapshotsReport)] == [True]


async def test_forget_that_cannot_be_listed_afterwards_stays_a_success(host: Host) -> None:
    host.fake.on("forget", case="forget-real")
    host.fake.on("snapshots", case="locked-exclusive-backup")

    finished = await host.run(FORGET)

    assert finished.outcome is Outcome.SUCCEEDED
    assert host.of(SnapshotsReport) == []
    assert "the snapshots that are there now were not listed" in host.log


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (ForgetArguments(tag="nightly", keep=Retention()), "no keep rule"),
        (ForgetArguments(tag="", keep=FORGET.keep), "tag"),
        (ForgetArguments(tag="nightly,db", keep=FORGET.keep), "tag"),
    ],
    ids=["no rule", "no tag", "several tags"],
)
async def test_restic_is_not_even_asked_to_forget_too_much(
    host: Host, arguments: ForgetArguments, named: str
) -> None:
    finished = await host.run(arguments)

    assert finished.failure_class is FailureClass.REFUSED
    assert named in (finished.message or "")
    assert "nothing was removed" in (finished.message or "")
    assert host.fake.calls == []


async def test_forget_that_would_keep_nothing_ends_after_the_dry_run(host: Host) -> None:
    host.fake.on("forget", case="forget-keep-tag-typo-dry-run")

    finished = await host.run(FORGET)

    assert (finished.failure_class, finished.exit_code) == (FailureClass.REFUSED, 0)
    assert finished.message == (
        "the keep rules match none of 2 snapshots of db-1: all of them would go, "
        "so nothing was removed"
    )
    assert len(host.fake.calls) == 1


async def test_one_host_whose_snapshots_would_all_go_stops_the_forget_of_every_host(
    host: Host,
) -> None:
    groups = [
        {"host": "db-1", "keep": [{"id": "a" * 64}], "remove": [{"id": "b" * 64}]},
        {"host": "db-2", "keep": None, "remove": [{"id": "c" * 64}]},
    ]
    host.fake.on("forget", stdout=json.dumps(groups) + "\n")

    finished = await host.run(FORGET)

    assert finished.outcome is Outcome.FAILED
    assert "db-2" in (finished.message or "")
    assert len(host.fake.calls) == 1


@pytest.mark.parametrize(
    ("case", "kept"), [("forget-nothing-to-remove", 8), ("forget-empty-repo", 0)]
)
async def test_forget_with_nothing_to_remove_is_done_after_the_dry_run(
    host: Host, case: str, kept: int
) -> None:
    host.fake.on("forget", case=case)

    finished = await host.run(FORGET)

    assert finished.result == ForgetResult(kept=kept, removed=0)
    assert len(host.fake.calls) == 1


@pytest.mark.parametrize(
    "stdout",
    ["no json\n", "[1]\n", '[{"keep": 1, "remove": []}]\n', "{}\n"],
    ids=["text", "no group", "no list", "no array"],
)
async def test_dry_run_that_cannot_be_read_removes_nothing(host: Host, stdout: str) -> None:
    host.fake.on("forget", stdout=stdout)

    finished = await host.run(FORGET)

    assert finished.outcome is Outcome.FAILED
    assert "nothing was removed" in (finished.message or "")
    assert len(host.fake.calls) == 1


async def test_forget_whose_deletes_are_refused_fails(host: Host) -> None:
    host.fake.on("forget", case="forget-dry-run")
    host.fake.on("forget", case="rest-append-only-forget")

    finished = await host.run(FORGET)

    assert finished.outcome is Outcome.FAILED
    assert finished.exit_code == 1
    assert "What opens this repository may not delete from it" in (finished.message or "")
    assert host.of(SnapshotsReport) == []


async def test_dry_run_of_a_forget_tells_what_would_go_and_removes_nothing(host: Host) -> None:
    host.fake.on("forget", case="forget-dry-run")

    finished = await host.run(msgspec.structs.replace(FORGET, dry_run=True))

    assert len(host.fake.calls) == 1
    result = finished.result
    assert isinstance(result, ForgetResult)
    assert (result.dry_run, result.kept, result.removed, result.to_go) == (True, 8, 0, 8)
    told = result.snapshots_to_go[0]
    assert (len(told.id), told.hostname, told.time is not None) == (8, "web-1", True)
    assert f"would remove {told.id} of " in "\n".join(host.log)


async def test_what_has_no_origin_is_set_aside_and_the_rules_go_by_the_rest(host: Host) -> None:
    host.fake.on("forget", case="forget-dry-run")
    host.fake.on("snapshots", case="snapshots-several")
    first, second = recorded_groups()
    by_time = sorted((*first.kept, *first.removed), key=lambda one: str(one.time))
    honest, others = by_time[:3], [*by_time[3:], *second.kept]
    guard = ForgetGuard(
        keep=Retention(keep_last=2), at=datetime.now(UTC), origins=tuple(map(origin_of, honest))
    )

    finished = await host.run(ForgetArguments(tag="nightly", guard=guard))

    assert host.commands[0][-2:] == ["--keep-last=2", "--dry-run"]
    assert host.commands[1] == ["forget", "--json", "--", honest[0].id]
    result = finished.result
    assert isinstance(result, ForgetResult)
    assert (result.kept, result.removed, result.set_aside) == (2, 1, len(others))
    assert {one.id for one in result.snapshots_set_aside} == {one.id[:8] for one in others}
    assert (finished.message or "").startswith(f"{len(others)} snapshots were set aside")


async def test_forget_in_which_nothing_is_honest_removes_nothing(host: Host) -> None:
    host.fake.on("forget", case="forget-dry-run")
    guard = ForgetGuard(keep=Retention(keep_last=2), at=datetime.now(UTC), origins=())

    finished = await host.run(ForgetArguments(tag="nightly", guard=guard))

    assert finished.outcome is Outcome.SUCCEEDED
    assert len(host.fake.calls) == 1
    assert isinstance(finished.result, ForgetResult)
    assert (finished.result.kept, finished.result.removed) == (0, 0)


def test_agent_that_knows_no_guard_refuses_the_job() -> None:
    class OldArguments(msgspec.Struct, tag_field="kind", tag="forget"):
        tag: str
        keep: Retention

    guard = ForgetGuard(keep=Retention(keep_last=2), at=datetime.now(UTC), origins=())
    command = msgspec.json.encode(ForgetArguments(tag="nightly", guard=guard))

    with pytest.raises(msgspec.ValidationError, match="missing required field `keep`"):
        msgspec.json.decode(command, type=OldArguments)


def origin_of(one: forget.Listed) -> Origin:
    assert one.time is not None
    at = int(one.time.timestamp())
    return Origin(one.id[:ID_DIGITS], at - 5, at + 5, one.hostname)


async def test_forget_that_leaves_some_and_exits_with_0_fails(host: Host) -> None:
    host.fake.on("forget", case="forget-dry-run")
    play = load_play("forget-real")
    stderr = "unable to remove <snapshot/28471ff0e3> from the repository\n"
    host.fake.on("forget", **{**play, "stderr": stderr})

    finished = await host.run(FORGET)

    assert finished.outcome is Outcome.FAILED
    assert "could not remove every snapshot" in (finished.message or "")


@pytest.mark.parametrize(
    ("arguments", "case"),
    [(FORGET, "locked-shared-forget"), (PruneArguments(), "locked-shared-prune")],
)
async def test_locked_repository_is_named_as_that(
    host: Host, arguments: Arguments, case: str
) -> None:
    host.fake.on(str(arguments.__struct_config__.tag), case=case)

    finished = await host.run(arguments)

    assert finished.outcome is Outcome.FAILED
    assert finished.failure_class is FailureClass.LOCKED
    assert len(host.fake.calls) == 1


async def test_lock_is_explained_with_its_remedy(host: Host) -> None:
    host.fake.on("prune", case="locked-shared-prune")

    finished = await host.run(PruneArguments())

    assert "already locked" in (finished.message or "")
    assert "restic works on the repository on web-1 (process 1967): wait" in (
        finished.message or ""
    )


@pytest.mark.parametrize("remove_all", [False, True])
async def test_unlock_counts_what_is_left(host: Host, remove_all: bool) -> None:
    host.fake.on("unlock", case="unlock-remove-all" if remove_all else "stale-lock-unlock")
    host.fake.on("list", stdout=f"{'ab' * 32}\n{'cd' * 32}\n")

    finished = await host.run(UnlockArguments(remove_all=remove_all))

    assert (finished.outcome, finished.result) == (Outcome.SUCCEEDED, UnlockResult(locks_left=2))
    assert host.commands == [
        ["unlock", "--remove-all"] if remove_all else ["unlock"],
        ["list", "locks", "--no-lock"],
    ]
    assert "2 locks left" in str(host.log)


async def test_prune_is_judged_by_its_exit_code(host: Host) -> None:
    host.fake.on("prune", case="prune-json-ignored")

    finished = await host.run(PruneArguments())

    assert (finished.outcome, finished.result) == (Outcome.SUCCEEDED, PruneResult())
    assert host.commands == [["prune"]]
    assert "removing 32 old packs" in host.log


async def test_prune_that_fails_has_no_result(host: Host) -> None:
    host.fake.on("prune", case="prune-missing-pack")

    finished = await host.run(PruneArguments())

    assert finished.failure_class is FailureClass.DAMAGED
    assert finished.result is None


@pytest.mark.parametrize(
    ("subset", "asked"), [(None, ["check"]), ("10%", ["check", "--read-data-subset=10%"])]
)
async def test_check_without_errors_succeeds(
    host: Host, subset: str | None, asked: list[str]
) -> None:
    host.fake.on("check", case="check-read-data-subset")

    finished = await host.run(CheckArguments(read_data_subset=subset))

    assert finished.outcome is Outcome.SUCCEEDED
    assert finished.result == CheckResult(read_data_subset=subset)
    assert host.commands == [asked]


@pytest.mark.parametrize(
    "case",
    [
        "check-damaged-pack-read-data",
        "check-missing-pack",
        "check-damaged-snapshot-file",
        "check-truncated-pack",
    ],
)
async def test_check_that_finds_errors_calls_the_repository_damaged(host: Host, case: str) -> None:
    host.fake.on("check", case=case)

    finished = await host.run(CheckArguments())

    assert finished.failure_class is FailureClass.DAMAGED
    assert "repository contains errors" in (finished.message or "")


def test_check_that_a_dead_network_failed_proves_no_damage() -> None:
    stderr = ["error: load <snapshot/09f54ad262>: dial tcp: connection refused"]
    stderr += ["Fatal: repository contains errors"]

    verdict = interpret(1, version=None, kind=JobKind.CHECK, stderr=stderr)

    assert verdict.failure_class is FailureClass.NETWORK


async def test_only_the_end_of_each_step_is_logged(host: Host) -> None:
    stdout = "read all data\n[0:01] 10.50%  1 / 2 packs\n[0:02] 100.00%  2 / 2 packs\ndone\n"
    host.fake.on("check", stdout=stdout)

    await host.run(CheckArguments())

    assert host.log == ["$ restic check", "read all data", "[0:02] 100.00%  2 / 2 packs", "done"]


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("[0:45] 97.22%  35 / 36 packs processed", 0.9722),
        ("[1:02:03] 100.00%  3 / 3 packs", 1.0),
        ("[0:00] 0 files 0 B", None),
        ("unused size after prune: 0 B (0.00% of remaining size)", None),
        ("", None),
    ],
)
def test_percent_is_read_from_lines_of_progress_only(line: str, percent: float | None) -> None:
    assert parse_percent(line) == percent


def test_every_rule_of_a_retention_reaches_restic() -> None:
    rules = dict.fromkeys(Retention.__struct_fields__, 3) | {"keep_within": "7d"}

    line = forget.build_dry_run(
        ForgetArguments(tag="nightly", keep=Retention(**rules))  # type: ignore[arg-type]  # by name
    )

    assert len([word for word in line if word.startswith("--keep-")]) == len(rules)


def test_many_snapshots_are_removed_in_several_commands_and_named_in_part() -> None:
    many = tuple(forget.Listed(id=f"{number:064x}") for number in range(1500))
    kept = forget.Listed(id="f" * 64)
    plan = Plan(groups=(forget.Group(host="web-1", kept=(kept,), removed=many),))

    lines = list(forget.build_removals([one.id for one in plan.removals]))
    result = build_result(plan, is_dry_run=False)

    assert [word for line in lines for word in line[3:]] == [one.id for one in many]
    assert max(map(len, lines)) == forget.IDS_AT_ONCE + 3
    assert not any("--prune" in line for line in lines)
    assert result.removed == 1500
    assert len(result.removed_snapshots) == MAX_NAMED


def test_recorded_groups_are_read() -> None:
    assert [(group.host, len(group.kept), len(group.removed)) for group in recorded_groups()] == [
        ("web-1", 6, 8),
        ("web-1", 2, 0),
    ]
