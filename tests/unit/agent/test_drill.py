"""Drills: what is drawn, what counts as proof, and what is left behind. restic is played."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import DrillArguments, DrillResult
from backhaul_agent.job_loop import JobLoop
from backhaul_agent.journal_file import JournalFile
from backhaul_agent.restic.drill import MAX_LINE_BYTES, Sampler, escape, split_by_length
from backhaul_agent.restic.drill import SampledFile as File
from backhaul_agent.scratch import make_scratch, remove_scratch
from tests.fakes.fake_restic import install_fake_restic
from tests.unit.agent.test_job import Host

pytestmark = pytest.mark.timeout(20)

SNAPSHOT = "d9c8cbca"
JOB_ID = UUID("0192e4a0-0000-7000-8000-00000000000a")


@pytest.fixture
def host(journal_file: JournalFile, state_dir: Path, tmp_path: Path) -> Host:
    """A host whose repository holds the two files of `drill_of`."""
    host = Host(journal_file, install_fake_restic(tmp_path / "bin"), state_dir)
    host.fake.on("snapshots", case="snapshots-several")
    return host


def print_ls(files: Mapping[str, int]) -> Iterator[str]:
    yield json.dumps({"struct_type": "snapshot", "id": SNAPSHOT})
    yield json.dumps({"struct_type": "node", "type": "dir", "path": "/data"})
    for path, size in files.items():
        # restic leaves a size of 0 out.
        fields: dict[str, Any] = {"size": size} if size else {}
        yield json.dumps({"struct_type": "node", "type": "file", "path": path, **fields})


def prepare(host: Host, *, restored: Mapping[str, str], **restore: Any) -> Path:
    """Let restic list and restore two files of five bytes. Gives the scratch folder."""
    host.fake.on("ls", stdout="\n".join(print_ls({"/data/a": 5, "/data/b": 5})) + "\n")
    folder = host.workshop.settings.effective_scratch_dir
    job_folder = folder / f"backhaul-drill-{JOB_ID}"
    files = {str(job_folder / f"data/{name}"): text for name, text in restored.items()}
    host.fake.on("restore", files=files, **restore)
    return folder


async def drill(host: Host) -> DrillResult:
    await host.run(DrillArguments(snapshot=SNAPSHOT), job_id=JOB_ID)
    assert isinstance(host.finished.result, DrillResult), host.finished.message
    return host.finished.result


def test_every_file_is_as_likely_as_any_other_and_only_the_sample_is_kept() -> None:
    counts: Counter[str] = Counter()
    lines = list(print_ls({f"/{number}": 1 for number in range(20)}))
    source = random.Random(1)

    for _ in range(4000):
        sampler = Sampler(5, source)
        for line in lines:
            sampler.read(line)
        counts.update(file.path for file in sampler.choose(100)[0])

    # 1000 of each are expected; this is five times the standard deviation away.
    assert len(counts) == 20
    assert all(860 < count < 1140 for count in counts.values()), counts


def test_what_cannot_be_named_is_never_drawn_and_what_does_not_fit_is_skipped() -> None:
    names = {"/ok": 60, "/large": 200, "/second": 60, "/bad\N{REPLACEMENT CHARACTER}": 1}
    sampler = Sampler(10, random.Random(1))

    for line in print_ls({**names, "/../etc/shadow": 1, "relative": 1}):
        sampler.read(line)
    chosen, too_large = sampler.choose(100)

    assert (sampler.files, sampler.unnameable, sampler.has_snapshot) == (6, 3, True)
    assert [file.path for file in chosen] in (["/ok"], ["/second"])
    assert too_large == 2


def test_pattern_of_a_path_is_escaped() -> None:
    assert escape(r"/a*b?[c]\d") == r"/a\*b\?\[c]\\d"


def test_command_lines_stay_short_and_name_each_file_once() -> None:
    files = [File(path=f"/{number:04}" + "x" * 4000, size=1) for number in range(200)]

    parts = list(split_by_length(files))

    assert [path for part in parts for path in part] == [file.path for file in files]
    assert all(sum(map(len, part)) < MAX_LINE_BYTES for part in parts)


async def test_same_bytes_twice_are_the_proof(host: Host) -> None:
    folder = prepare(host, restored={"a": "same!", "b": "same!"})
    host.fake.on("dump", stdout="same!")

    result = await drill(host)

    assert host.finished.outcome is Outcome.SUCCEEDED
    assert (result.files_total, result.files_compared, result.bytes_compared) == (2, 2, 10)
    assert (result.hostname, result.files_differing, result.files_unreadable) == ("web-1", 0, 0)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


async def test_what_differs_and_what_is_missing_are_damage_with_names(host: Host) -> None:
    folder = prepare(host, restored={"a": "other"})
    host.fake.on("dump", stdout="same!")

    result = await drill(host)

    finished = host.finished
    assert (finished.outcome, finished.failure_class) == (Outcome.FAILED, FailureClass.DAMAGED)
    assert (result.differing, result.unreadable) == (("/data/a",), ("/data/b",))
    assert "2 files with two reads that differ, or that cannot be read" in (finished.message or "")
    assert list(folder.iterdir()) == []


async def test_network_that_fails_is_no_damage(host: Host) -> None:
    folder = prepare(host, restored={"a": "same!", "b": "same!"})
    host.fake.on("dump", stdout="sa", stderr="Fatal: connection refused\n", exit=1)

    result = await drill(host)

    assert host.finished.failure_class is FailureClass.NETWORK
    assert (result.files_compared, result.files_unreadable) == (0, 0)
    assert list(folder.iterdir()) == []


async def test_restore_with_errors_is_no_success_though_the_bytes_are_right(host: Host) -> None:
    prepare(
        host, restored={"a": "same!", "b": "same!"}, stderr="Fatal: There were 1 errors\n", exit=1
    )
    host.fake.on("dump", stdout="same!")

    result = await drill(host)

    assert (host.finished.outcome, host.finished.exit_code) == (Outcome.FAILED, 1)
    assert host.finished.message == "Fatal: There were 1 errors"
    assert result.files_compared == 2


async def test_drill_that_compares_nothing_proves_nothing(host: Host) -> None:
    host.fake.on("ls", stdout="\n".join(print_ls({"/large": 2**40})) + "\n")

    result = await drill(host)

    assert host.finished.outcome is Outcome.FAILED
    assert "nothing is proven" in (host.finished.message or "")
    assert (result.files_total, result.skipped_too_large) == (1, 1)


async def test_next_start_removes_what_a_drill_left_and_nothing_else(host: Host) -> None:
    parent = host.workshop.settings.effective_scratch_dir
    left = make_scratch(parent, JOB_ID)
    (left / "data").mkdir()
    (left / "data/secret").touch()
    (left / "data").chmod(0o500)
    (parent / "of somebody else").touch()
    loop = JobLoop(host.workshop)
    loop.stop_accepting()

    await loop.run_until_stopped()

    assert [file.name for file in parent.iterdir()] == ["of somebody else"]


def test_link_in_the_place_of_a_scratch_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    link = tmp_path / f"backhaul-drill-{JOB_ID}"
    link.symlink_to(tmp_path / "precious")

    remove_scratch(link)

    assert (tmp_path / "precious").exists()
