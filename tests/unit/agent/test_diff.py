"""What `restic diff` prints, read from a recording and beyond its limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import DiffArguments, DiffChange, DiffCounts, DiffResult
from backhaul_agent.journal_file import JournalFile
from backhaul_agent.restic.diff import MAX_CHANGES, MAX_CHANGES_BYTES, DiffReader
from tests.fakes.fake_restic import install_fake_restic, load_play
from tests.unit.agent.test_job import Host

ARGUMENTS = DiffArguments(snapshot="09f54ad2", other="d9c8cbca")
STATISTICS = json.dumps({"message_type": "statistics", "changed_files": 1})


def test_changes_and_statistics_are_read() -> None:
    reader = DiffReader()

    for line in load_play("diff-json")["stdout"].splitlines():
        reader.read(line)

    assert reader.build_result(ARGUMENTS) == DiffResult(
        source_snapshot="09f54ad2",
        target_snapshot="d9c8cbca",
        changed_files=3,
        added=DiffCounts(data_blobs=2, tree_blobs=5, bytes=305_766),
        removed=DiffCounts(data_blobs=2, tree_blobs=5, bytes=305_765),
        changes=(
            DiffChange(path="/data/etc/app.conf", modifier="M"),
            DiffChange(path="/data/srv/shop/upload-1-hardlink.jpg", modifier="M"),
            DiffChange(path="/data/srv/shop/upload-1.jpg", modifier="M"),
        ),
    )


@pytest.mark.parametrize(("length", "kept"), [(10, MAX_CHANGES), (4000, MAX_CHANGES_BYTES // 4100)])
def test_more_changes_than_fit_are_left_out_and_that_is_said(length: int, kept: int) -> None:
    reader = DiffReader()
    change = {"message_type": "change", "path": "/" + "x" * length, "modifier": "+"}

    for _ in range(MAX_CHANGES + 1):
        reader.read(json.dumps(change))
    reader.read(STATISTICS)
    result = reader.build_result(ARGUMENTS)

    assert result is not None
    assert result.is_cut
    assert abs(len(result.changes) - kept) <= 1


def test_diff_without_an_end_has_no_result() -> None:
    reader = DiffReader()
    reader.read('{"message_type":"change","path":"/a","modifier":"+"}')

    assert reader.build_result(ARGUMENTS) is None


async def test_unknown_snapshot_fails_in_the_words_of_restic(
    journal_file: JournalFile, state_dir: Path, tmp_path: Path
) -> None:
    host = Host(journal_file, install_fake_restic(tmp_path / "bin"), state_dir)
    host.fake.on("diff", case="diff-unknown-id")

    finished = await host.run(ARGUMENTS)

    assert finished.outcome is Outcome.FAILED
    assert finished.message == 'Fatal: no matching ID found for prefix "deadbeef"'
