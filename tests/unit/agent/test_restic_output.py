"""Parsers against what restic 0.14.0 printed, and against what later versions print."""

from __future__ import annotations

import pytest

from backhaul.wire.kinds import BackupArguments, RestoreArguments
from backhaul_agent.errors import NotSupportedError
from backhaul_agent.restic import backup, init, restore, snapshots
from backhaul_agent.restic.capabilities import SINCE, Feature, require
from backhaul_agent.restic.output import (
    MAX_LINE_LENGTH,
    clean_line,
    parse_object,
    parse_progress,
    parse_time,
)
from backhaul_agent.restic.version import ResticVersion, parse_version
from tests.unit.agent.hosts import read_recorded


def read_objects(case: str) -> list[dict[str, object]]:
    stdout, _, _ = read_recorded(case)
    return [found for line in stdout if (found := parse_object(line)) is not None]


def test_first_backup_gives_progress_and_restics_summary() -> None:
    objects = read_objects("backup-first")

    progress = [found for line in objects if (found := parse_progress(line))]
    result = backup.read_summary(objects[-1])

    assert progress[1].total_files == 34
    assert progress[1].current_files[0] == "/data/srv/shop/upload-1-hardlink.jpg"
    assert result is not None
    assert result.snapshot_id is not None
    assert len(result.snapshot_id) == 8
    assert result.total_files_processed == 34


def test_impossible_estimate_is_left_out() -> None:
    progress = [parse_progress(line) for line in read_objects("backup-eta-overflow")]

    known = [one for one in progress if one is not None]
    assert len(known) == 3
    assert all(one.seconds_remaining is None for one in known)
    assert known[1].error_count == 1


def test_end_of_the_scan_is_no_progress() -> None:
    lines = read_objects("backup-json-force-verbose2")

    scans = [line for line in lines if line.get("action") == "scan_finished"]
    assert scans
    assert all(parse_progress(line) is None for line in scans)


@pytest.mark.parametrize(
    ("case", "items"),
    [
        ("backup-partial-exit3", 2),
        ("backup-partial-verbose2", 3),
        ("backup-source-unreadable-dir", 1),
        ("backup-eta-overflow", 1),
        ("backup-one-path-missing", 1),
        ("backup-first", 0),
    ],
)
def test_each_unreadable_item_counts_once(case: str, items: int) -> None:
    _, stderr, _ = read_recorded(case)
    unreadable = backup.UnreadableItems()

    for line in stderr:
        unreadable.read(line)

    assert unreadable.count == items


def test_unreadable_items_become_readable_lines() -> None:
    _, stderr, _ = read_recorded("backup-partial-exit3")
    unreadable = backup.UnreadableItems()

    lines = [unreadable.read(line) for line in stderr]

    assert lines == [
        "could not read /data/etc/private: restic gave no reason",
        "could not read /data/etc/nginx/sites-enabled/shop.conf: Permission denied",
        None,
        "Warning: at least one source file could not be read",
    ]


def test_error_with_a_message_of_later_versions_is_read() -> None:
    line = '{"message_type":"error","error":{"message":"open /x: denied"},"item":"/x"}'

    assert backup.UnreadableItems().read(line) == "could not read /x: open /x: denied"


def test_snapshots_are_read_whole() -> None:
    stdout, stderr, _ = read_recorded("snapshots-several")

    found = snapshots.read_snapshots(stdout, stderr)

    assert found is not None
    assert found.is_whole
    first = found.snapshots[0]
    assert (first.hostname, first.paths, first.tags) == ("web-1", ("/data",), ("nightly",))
    assert first.time.isoformat() == "2026-08-31T02:00:00+00:00"
    assert all(len(one.id) == 64 for one in found.snapshots)


def test_damaged_snapshot_file_makes_the_list_less_than_whole() -> None:
    stdout, stderr, exit_code = read_recorded("snapshots-damaged-snapshot-file")

    found = snapshots.read_snapshots(stdout, stderr)

    assert exit_code == 0
    assert found is not None
    assert not found.is_whole


def test_empty_repository_has_a_list_without_snapshots() -> None:
    stdout, stderr, _ = read_recorded("snapshots-empty-repo")

    found = snapshots.read_snapshots(stdout, stderr)

    assert found is not None
    assert found.is_whole
    assert found.snapshots == ()


def test_no_output_is_no_list() -> None:
    assert snapshots.read_snapshots([], []) is None


def test_snapshot_of_before_a_tag_is_named_as_original() -> None:
    stdout, stderr, _ = read_recorded("snapshots-after-tag")

    found = snapshots.read_snapshots(stdout, stderr)

    assert found is not None
    assert any(one.original for one in found.snapshots)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T02:41:50.593455529Z", "2026-11-23T02:41:50.593455+00:00"),
        ("2026-11-23T03:41:50+01:00", "2026-11-23T02:41:50+00:00"),
        ("2026-11-23T03:41:50.5+01:00", "2026-11-23T02:41:50.500000+00:00"),
    ],
    ids=["nanoseconds", "offset", "one digit"],
)
def test_times_become_utc(text: str, expected: str) -> None:
    found = parse_time(text)

    assert found is not None
    assert found.isoformat() == expected


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+09:18", "9999-12-31T23:59:59-01:00"])
def test_a_time_outside_of_all_time_is_none(text: str) -> None:
    assert parse_time(text) is None


def test_snapshot_of_the_year_one_leaves_a_list_that_is_not_whole() -> None:
    line = '[{"id": "a", "time": "0001-01-01T00:00:00+09:18", "paths": ["/x"]}]'

    found = snapshots.read_snapshots([line], [])

    assert found is not None
    assert (found.snapshots, found.is_whole) == ((), False)


def test_error_number_that_no_system_has_is_no_reason() -> None:
    line = '{"message_type": "error", "error": {"Op": "open", "Err": 1099511627776}, "item": "/a"}'

    assert backup.UnreadableItems().read(line) == "could not read /a: open failed"


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23T03:41:50"])
def test_a_time_without_a_zone_is_none(text: str) -> None:
    assert parse_time(text) is None


def test_repository_id_is_read_from_text_and_from_json() -> None:
    stdout, _, _ = read_recorded("init-json-ignored")

    text = init.read_result(stdout)
    json = init.read_result(['{"message_type":"initialized","id":"ab12","repository":"/repo"}'])

    assert text is not None
    assert text.repository_id == "7b3eecabd1"
    assert json is not None
    assert json.repository_id == "ab12"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n", ResticVersion(0, 14, 0)),
        ('{"version":"0.17.3","go_version":"go1.23"}\n', ResticVersion(0, 17, 3)),
        ("restic 0.19.1-dev (compiled manually) compiled with go", ResticVersion(0, 19, 1, "-dev")),
        ("rclone v1.60", None),
        ("", None),
    ],
    ids=["0.14 text", "0.17 JSON", "development", "another program", "nothing"],
)
def test_version_is_read(output: str, expected: ResticVersion | None) -> None:
    assert parse_version(output) == expected


def test_no_value_can_pass_for_an_option() -> None:
    line = backup.build_arguments(
        BackupArguments(paths=("/-x", "/etc"), excludes=("--no-lock",), tags=("-r",)), host="web-1"
    )

    assert line == [
        "backup",
        "--json",
        "--cleanup-cache",
        "--host=web-1",
        "--tag=-r",
        "--exclude=--no-lock",
        "--",
        "/-x",
        "/etc",
    ]


def test_options_of_a_backup_become_those_of_restic() -> None:
    arguments = BackupArguments(
        paths=("/etc",),
        exclude_files=("/srv/x",),
        exclude_caches=True,
        exclude_larger_than="2G",
        limit_upload=1,
        limit_download=2,
        compression="max",
        dry_run=True,
    )

    line = backup.build_arguments(arguments, host="web-1")

    assert line[4:] == [
        "--exclude-file=/srv/x",
        "--exclude-larger-than=2G",
        "--limit-upload=1",
        "--limit-download=2",
        "--compression=max",
        "--exclude-caches",
        "--dry-run",
        "--",
        "/etc",
    ]
    assert set(backup.list_features(arguments)) == set(Feature)


def test_dump_is_read_from_stdin_and_names_no_path() -> None:
    line = backup.build_arguments(
        BackupArguments(paths=(), dump="db"), host="web-1", stdin_name="db.sql"
    )

    assert line[4:] == ["--stdin", "--stdin-filename=db.sql"]


@pytest.mark.parametrize("feature", Feature)
def test_older_restic_is_refused_with_the_version_that_is_needed(feature: Feature) -> None:
    major, minor, patch = SINCE[feature]

    require(ResticVersion(major, minor, patch), [feature])
    with pytest.raises(NotSupportedError, match=rf"{feature}.* {major}\.{minor}\.{patch} or newer"):
        require(ResticVersion(major, minor - 1, 9), [feature])


@pytest.mark.parametrize("case", ["backup-first", "backup-dry-run"])
def test_id_that_a_dry_run_tells_is_no_snapshot(case: str) -> None:
    result = backup.read_summary(read_objects(case)[-1])

    assert result is not None
    is_dry = case == "backup-dry-run"
    assert (result.dry_run, result.snapshot_id is None) == (is_dry, is_dry)


def test_latest_is_looked_for_among_the_snapshots_of_one_host() -> None:
    assert snapshots.build_arguments("latest", host="web-1") == [
        "snapshots",
        "--json",
        "--host=web-1",
        "--",
        "latest",
    ]


def test_restore_names_snapshot_last() -> None:
    arguments = RestoreArguments(snapshot="latest", target="/t", include=("/a",), verify=True)

    assert restore.build_arguments(arguments, snapshot_id="ab") == [
        "restore",
        "--json",
        "--target=/t",
        "--include=/a",
        "--verify",
        "--",
        "ab",
    ]


@pytest.mark.parametrize("line", ["{", "[1]", "text", "", '"x"', "{}x", "\x00{}", "{\xff"])
def test_what_is_no_json_object_is_text(line: str) -> None:
    assert parse_object(line) is None


def test_lines_are_fit_for_a_database() -> None:
    line = clean_line("\x1b[2Ksignal\x00 " + "x" * 10_000)

    assert line.startswith("signal\N{REPLACEMENT CHARACTER} x")
    assert len(line) == MAX_LINE_LENGTH
