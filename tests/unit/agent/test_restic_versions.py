"""What every restic that was recorded prints, read by the same parsers.

Each fact is asked of each version that has the recording; a command line or an output that changes
with the version has a fact of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import JobKind
from backhaul_agent.restic import backup, find, forget, init, ls, snapshots, unlock
from backhaul_agent.restic.exit_codes import Verdict, interpret, pick_message
from backhaul_agent.restic.files import EntryPage
from backhaul_agent.restic.locks import read_lock
from backhaul_agent.restic.output import parse_object, parse_progress
from backhaul_agent.restic.version import ResticVersion, parse_version
from tests.unit.agent.hosts import RECORDINGS, read_recorded

DATA = Path(__file__).parents[2] / "data"
NEWER = [version for version in RECORDINGS if version != "0.14.0"]
F, K = FailureClass, JobKind

FAILURES = [
    ("wrong-password-backup", K.BACKUP, F.WRONG_PASSWORD),
    ("wrong-password-snapshots", K.SNAPSHOTS, F.WRONG_PASSWORD),
    ("missing-repo-backup", K.BACKUP, F.REPOSITORY_MISSING),
    ("missing-repo-snapshots", K.SNAPSHOTS, F.REPOSITORY_MISSING),
    ("rest-missing-repo", K.SNAPSHOTS, F.REPOSITORY_MISSING),
    ("rest-wrong-credentials", K.SNAPSHOTS, F.OTHER),
    ("init-already-existing", K.INIT, F.REPOSITORY_EXISTS),
    ("locked-exclusive-backup", K.BACKUP, F.LOCKED),
    ("locked-exclusive-restore", K.RESTORE, F.LOCKED),
    ("locked-exclusive-snapshots", K.SNAPSHOTS, F.LOCKED),
    ("locked-shared-check", K.CHECK, F.LOCKED),
    ("locked-shared-forget", K.FORGET, F.LOCKED),
    ("locked-shared-prune", K.PRUNE, F.LOCKED),
    ("backup-nonexistent-path", K.BACKUP, F.SOURCE_MISSING),
    ("backup-repo-disk-full", K.BACKUP, F.NO_SPACE),
    ("backup-stdin-command-fails", K.BACKUP, F.OTHER),
    ("restore-target-full", K.RESTORE, F.NO_SPACE),
    ("restore-unknown-snapshot", K.RESTORE, F.SNAPSHOT_MISSING),
    ("restore-damaged-pack-json", K.RESTORE, F.DAMAGED),
    ("check-damaged-pack-read-data", K.CHECK, F.DAMAGED),
    ("check-damaged-snapshot-file", K.CHECK, F.DAMAGED),
    ("check-truncated-pack", K.CHECK, F.DAMAGED),
    ("check-missing-pack", K.CHECK, F.DAMAGED),
    ("prune-missing-pack", K.PRUNE, F.DAMAGED),
    ("config-damaged", K.SNAPSHOTS, F.DAMAGED),
    ("config-zero-size", K.SNAPSHOTS, F.DAMAGED),
    ("rest-append-only-prune", K.PRUNE, F.REFUSED),
    ("signal-sigint-backup", K.BACKUP, F.INTERRUPTED),
    ("signal-sigterm-backup", K.BACKUP, F.INTERRUPTED),
    ("signal-sigint-check", K.CHECK, F.INTERRUPTED),
]

SUCCESSES = [
    "backup-first",
    "check-ok",
    "check-read-data-subset",
    "find-in-snapshot",
    "forget-real",
    "ls",
    "prune-nothing-to-do",
    "snapshots-several",
    "stale-lock-unlock",
    "unlock-live-lock",
]


def _has(case: str, version: str) -> bool:
    return (DATA / RECORDINGS[version] / case).exists()


def _in_every_version(*cases: str) -> list[tuple[str, str]]:
    return [(case, version) for case in cases for version in RECORDINGS if _has(case, version)]


def _number(version: str) -> ResticVersion:
    found = parse_version(f"restic {version}")
    assert found is not None
    return found


def _judge(case: str, version: str, kind: JobKind) -> Verdict:
    _, stderr, exit_code = read_recorded(case, version)
    return interpret(exit_code, version=_number(version), kind=kind, stderr=stderr)


@pytest.mark.parametrize("version", RECORDINGS)
def test_version_is_read_however_restic_says_it(version: str) -> None:
    case = "version-json-ignored" if version == "0.14.0" else "version-json"
    stdout, _, _ = read_recorded(case, version)

    assert str(parse_version("\n".join(stdout))) == version


@pytest.mark.parametrize(
    ("case", "version", "kind", "expected"),
    [
        (case, version, kind, expected)
        for case, kind, expected in FAILURES
        for version in RECORDINGS
        if _has(case, version)
    ],
)
def test_failure_has_its_class_and_a_message_for_people(
    case: str, version: str, kind: JobKind, expected: FailureClass
) -> None:
    _, stderr, _ = read_recorded(case, version)

    message = pick_message(stderr)

    assert _judge(case, version, kind) == Verdict(outcome=Outcome.FAILED, failure_class=expected)
    # A signal may end 0.14 before it says anything.
    assert message or expected is F.INTERRUPTED
    assert not any(sign in (message or "") for sign in ("{", "\t", ".go:", "main."))


@pytest.mark.parametrize("case", [case for case, _, _ in FAILURES])
def test_every_failure_was_recorded_of_every_newer_restic(case: str) -> None:
    assert [version for version in NEWER if not _has(case, version)] == []


@pytest.mark.parametrize(("case", "version"), _in_every_version(*SUCCESSES))
def test_success_is_one(case: str, version: str) -> None:
    assert _judge(case, version, K.SNAPSHOTS) == Verdict(outcome=Outcome.SUCCEEDED)


@pytest.mark.parametrize("version", RECORDINGS)
def test_repository_that_was_created_has_its_id(version: str) -> None:
    case = "init-json-ignored" if version == "0.14.0" else "init-json"
    stdout, _, _ = read_recorded(case, version)

    result = init.read_result(stdout)

    assert result is not None
    assert len(result.repository_id) == (10 if version == "0.14.0" else 64)


@pytest.mark.parametrize(
    ("case", "version"),
    _in_every_version("backup-first", "backup-empty-dir", "backup-changed", "backup-stdin-command"),
)
def test_summary_of_a_backup_names_its_snapshot(case: str, version: str) -> None:
    stdout, _, _ = read_recorded(case, version)

    found = parse_object(stdout[-1])
    result = backup.read_summary(found or {})

    assert result is not None
    assert len(result.snapshot_id or "") == (8 if version == "0.14.0" else 64)
    assert result.total_duration > 0
    assert (result.total_files_processed == 0) == (case == "backup-empty-dir")


@pytest.mark.parametrize("version", NEWER)
def test_progress_is_read_until_the_interrupt(version: str) -> None:
    stdout, _, _ = read_recorded("signal-sigint-backup", version)

    progress = [parse_progress(parse_object(line) or {}) for line in stdout]

    assert any(one is not None for one in progress)


@pytest.mark.parametrize(
    ("case", "items", "exit_codes"),
    [
        ("backup-first", 0, (0, 0, 0)),
        ("backup-partial-exit3", 2, (3, 3, 3)),
        # restic before 0.19 calls a backup complete from which a whole path is missing.
        ("backup-one-path-missing", 1, (0, 0, 3)),
    ],
)
def test_what_could_not_be_read_counts_whatever_the_exit_code(
    case: str, items: int, exit_codes: tuple[int, ...]
) -> None:
    for version, exit_code in zip(RECORDINGS, exit_codes, strict=True):
        _, stderr, code = read_recorded(case, version)
        unreadable = backup.UnreadableItems()

        lines = [text for line in stderr if (text := unreadable.read(line))]

        assert (unreadable.count, code) == (items, exit_code)
        assert not any(line.startswith("{") for line in lines)


@pytest.mark.parametrize("version", RECORDINGS)
def test_snapshots_are_listed_with_their_times_and_paths(version: str) -> None:
    stdout, stderr, _ = read_recorded("snapshots-several", version)

    found = snapshots.read_snapshots(stdout, stderr)

    assert found is not None
    assert found.is_whole
    assert all(len(one.id) == 64 and one.paths for one in found.snapshots)
    assert {one.hostname for one in found.snapshots} >= {"web-1"}
    # 0.16 was the first to say which restic made a snapshot.
    made_by = None if version == "0.14.0" else f"restic {version}"
    assert {one.program_version for one in found.snapshots} == {made_by}


@pytest.mark.parametrize("version", RECORDINGS)
def test_damaged_snapshot_file_makes_the_list_less_than_whole(version: str) -> None:
    stdout, stderr, exit_code = read_recorded("snapshots-damaged-snapshot-file", version)

    found = snapshots.read_snapshots(stdout, stderr)

    assert exit_code == 0
    assert found is not None
    assert not found.is_whole


@pytest.mark.parametrize("version", RECORDINGS)
def test_groups_of_a_forget_say_what_stays_and_what_goes(version: str) -> None:
    dry, real = (read_recorded(f"forget-{how}", version)[0] for how in ("dry-run", "real"))

    planned, done = forget.read_groups(dry), forget.read_groups(real)

    assert planned
    assert done
    assert all(group.host and group.kept for group in (*planned, *done))
    removed = [one for group in done for one in group.removed]
    assert removed
    assert all(len(one.id) == 64 for one in removed)
    assert forget.find_danger(done) is None


@pytest.mark.parametrize("version", RECORDINGS)
def test_forget_of_nothing_prints_nothing(version: str) -> None:
    assert forget.read_groups(read_recorded("forget-empty-repo", version)[0]) == []


@pytest.mark.parametrize(("version", "exit_code"), [("0.18.0", 0), ("0.19.1", 3)])
def test_forget_that_the_storage_refused_is_seen_whatever_the_exit_code(
    version: str, exit_code: int
) -> None:
    _, stderr, code = read_recorded("rest-append-only-forget", version)

    assert code == exit_code
    assert forget.find_refusal(stderr) == (
        "restic could not remove every snapshot: unexpected HTTP response (403): 403 Forbidden"
    )


def test_forget_that_removed_everything_was_not_refused() -> None:
    for version in RECORDINGS:
        assert forget.find_refusal(read_recorded("forget-real", version)[1]) is None


@pytest.mark.parametrize("version", NEWER)
def test_rules_that_keep_nothing_are_refused_by_newer_restics_themselves(version: str) -> None:
    case = "forget-keep-tag-typo-dry-run"
    _, stderr, _ = read_recorded(case, version)

    assert _judge(case, version, K.FORGET).outcome is Outcome.FAILED
    assert pick_message(stderr) == (
        'refusing to delete last snapshot of snapshot group "host web-1"'
    )


@pytest.mark.parametrize(
    ("case", "version"),
    _in_every_version("locked-exclusive-backup", "locked-shared-forget", "locked-shared-prune"),
)
def test_owner_of_a_lock_is_read(case: str, version: str) -> None:
    lock = read_lock(read_recorded(case, version)[1])

    assert lock is not None
    assert lock.host == "web-1"
    assert 0 < lock.age_s < 60


@pytest.mark.parametrize("version", NEWER)
def test_locks_are_counted(version: str) -> None:
    assert len(unlock.list_locks(read_recorded("list-locks", version)[0])) == 1
    assert unlock.list_locks(read_recorded("list-locks-none", version)[0]) == []


@pytest.mark.parametrize("version", NEWER)
def test_looking_into_a_snapshot_waits_for_no_lock(version: str) -> None:
    """`ls` takes a lock since 0.17, but for `--no-lock`."""
    assert _judge("locked-exclusive-ls", version, K.SNAPSHOTS).outcome is Outcome.SUCCEEDED


def _list(case: str, version: str, path: str) -> tuple[ls.LsReader, EntryPage]:
    page = EntryPage(skip=0, limit=1000, max_bytes=1_000_000)
    reader = ls.LsReader(path, page.take)
    for line in read_recorded(case, version)[0]:
        reader.read(line)
    return reader, page


@pytest.mark.parametrize("version", NEWER)
def test_folder_of_a_snapshot_is_listed(version: str) -> None:
    folder = "/tmp/backhaul-recording/data/etc"
    reader, page = _list("ls-path", version, folder)

    assert (reader.has_snapshot, reader.has_path) == (True, True)
    assert [(one.name, one.type, one.size) for one in page.entries] == [
        ("Grüße & <co>", "file", 20),
        ("app.conf", "file", 12),
        ("link", "symlink", None),
    ]
    assert page.entries[1].mode == 0o644


@pytest.mark.parametrize("version", NEWER)
def test_folder_that_a_snapshot_lacks_is_seen(version: str) -> None:
    reader, page = _list("ls-unknown-path", version, "/nowhere")

    assert (reader.has_snapshot, reader.has_path, page.entries) == (True, False, [])


@pytest.mark.parametrize("version", NEWER)
@pytest.mark.parametrize(("case", "names"), [("in-snapshot", ["app.conf"]), ("no-hits", [])])
def test_files_are_found(case: str, names: list[str], version: str) -> None:
    page = EntryPage(skip=0, limit=1000, max_bytes=1_000_000)
    reader = find.FindReader(page)

    for line in read_recorded(f"find-{case}", version)[0]:
        reader.read(line)

    assert reader.has_list
    assert [entry.name for entry in page.entries] == names
