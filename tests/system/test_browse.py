"""Looking into a snapshot and taking one file back, with the real restic."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from backhaul.errors import NotFoundError
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import BackupRequest, RestoreRequest
from tools.local_fleet import HOST, REPOSITORY, CommandFailedError, LocalFleet

LIMIT_S = 10.0
"""Many times what it takes (0.5 s, most of it restic 0.14 opening the repository), for a busy
machine; far less than the hold of a poll, so the held one brought it."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    (folder / "sub" / "hosts.bak").write_text("old\n")
    (folder / "sub" / "link").symlink_to("../hosts")
    return folder


def test_file_is_found_in_a_snapshot_and_restored_alone(
    fleet: LocalFleet, tree: Path, tmp_path: Path
) -> None:
    client, target = fleet.client, tmp_path / "restored"
    backup = fleet.run_job(BackupRequest(host=HOST, repository=REPOSITORY, paths=(str(tree),)))
    assert backup.state is JobState.SUCCEEDED
    [snapshot] = client.list_snapshots()

    started = time.monotonic()
    listed = client.list_snapshot_files(REPOSITORY, snapshot.short_id, str(tree))
    listed_s = time.monotonic() - started
    started = time.monotonic()
    found = client.find_snapshot_files(REPOSITORY, snapshot.id, "hosts*", limit=1)
    found_s = time.monotonic() - started
    rest = client.find_snapshot_files(
        REPOSITORY, snapshot.id, "hosts*", limit=1, cursor=found.next_cursor
    )
    restore = fleet.run_job(
        RestoreRequest(
            host=HOST,
            repository=REPOSITORY,
            snapshot=snapshot.id,
            target=str(target),
            include=(str(tree / "hosts"),),
        )
    )

    assert [(entry.name, entry.type) for entry in listed.entries] == [
        ("hosts", "file"),
        ("sub", "dir"),
    ]
    assert (listed.host, listed.is_cut, listed.entries[0].size) == (HOST, False, 20)
    names = [entry.name for page in (found, rest) for entry in page.entries]
    assert (names, found.is_cut, rest.is_cut) == (["hosts", "hosts.bak"], True, False)
    assert listed_s < LIMIT_S
    assert found_s < LIMIT_S
    assert restore.state is JobState.SUCCEEDED
    restored = [path for path in target.rglob("*") if not path.is_dir()]
    assert restored == [target / (tree / "hosts").relative_to("/")]
    assert restored[0].read_text() == "127.0.0.1 localhost\n"

    with pytest.raises(NotFoundError, match="there is no /nowhere in the snapshot"):
        client.list_snapshot_files(REPOSITORY, snapshot.id, "/nowhere")
    _use_command_line(fleet, snapshot.short_id, tree)
    assert fleet.restic("list", "locks").split() == []
    fleet.look_for_leaks()


def _use_command_line(fleet: LocalFleet, snapshot: str, tree: Path) -> None:
    listed = fleet.run_cli("snapshots", "ls", snapshot, str(tree), "--recursive")
    long = fleet.run_cli("snapshots", "ls", snapshot, str(tree / "sub"), "-l")
    found = json.loads(fleet.run_cli("snapshots", "find", snapshot, "link", "--json"))

    assert listed.splitlines() == [
        f"{tree}/hosts",
        f"{tree}/sub/",
        f"{tree}/sub/hosts.bak",
        f"{tree}/sub/link",
    ]
    assert [line.split()[0] for line in long.splitlines()] == ["MODE", "-rw-r--r--", "lrwxrwxrwx"]
    assert [entry["link_target"] for entry in found] == ["../hosts"]
    with pytest.raises(CommandFailedError, match="nobody"):
        fleet.run_cli("snapshots", "ls", snapshot, "--host", "nobody")
