"""Getting files back with the real restic: in place, for another host, and drilled."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import (
    BackupArguments,
    BackupResult,
    DiffArguments,
    DiffChange,
    DiffResult,
    DrillArguments,
    DrillResult,
    RestoreArguments,
    RestoreResult,
)
from backhaul_agent.settings import PolicySettings, Settings
from tests.fakes.light_repository import make_light_repository
from tests.integration.test_agent_restic import RunningHost, read_tree, run_agent
from tests.unit.agent.hosts import build_credentials

pytestmark = pytest.mark.timeout(120)

AWKWARD = {
    "sub/deeper/binary": bytes(range(256)) * 300,
    "a[1].txt": b"brackets",
    "a1.txt": b"what the brackets would match",
    "st*r? \\ $HOME\nline": b"signs",
    "dir*/[x]/y": b"",
}


@pytest.fixture
async def host(tmp_path: Path, restic: str) -> AsyncIterator[RunningHost]:
    """A host that may restore in place below `live`."""
    settings = Settings(
        state_dir=tmp_path / "state",
        restic=restic,
        policy=PolicySettings(
            restore_in_place=True, restore_paths=(str(tmp_path / "live"), str(tmp_path / "to"))
        ),
    )
    (tmp_path / "live").mkdir()
    async with run_agent(settings) as api:
        running = RunningHost(api, build_credentials(location=str(tmp_path / "repo")))
        make_light_repository(tmp_path / "repo")
        yield running


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "live"


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


async def back_up(host: RunningHost, path: Path) -> str:
    finished = await host.run(BackupArguments(paths=(str(path),)))
    assert isinstance(finished.result, BackupResult)
    return finished.result.snapshot_id or ""


def back_up_as(host: RunningHost, hostname: str, path: Path) -> None:
    """Back up as another host of the fleet does."""
    environment = {
        "PATH": os.environ["PATH"],
        "RESTIC_REPOSITORY": host.credentials.location,
        "RESTIC_PASSWORD": host.credentials.password,
    }
    command = ["restic", "backup", "--quiet", "--no-cache", f"--host={hostname}", str(path)]
    subprocess.run(command, env=environment, check=True)


def put_back(*paths: Path, snapshot: str = "latest") -> RestoreArguments:
    return RestoreArguments(
        snapshot=snapshot, target="/", include=tuple(map(str, paths)), in_place=True
    )


def flip_a_byte_of(content: bytes, repository: Path) -> None:
    """Flip a byte of the pack that holds this content, which is the only one so large."""
    pack = max(repository.joinpath("data").rglob("*"), key=lambda one: one.stat().st_size)
    assert pack.stat().st_size > len(content)
    pack.chmod(0o600)
    data = bytearray(pack.read_bytes())
    data[len(content) // 2] ^= 0xFF
    pack.write_bytes(data)


async def test_drill_over_every_file_passes_and_leaves_nothing_behind(
    host: RunningHost, live: Path, tmp_path: Path
) -> None:
    write_files(live, AWKWARD)
    write_files(live, {os.fsdecode(b"not utf-8 \xff"): b"cannot be named"})
    snapshot = await back_up(host, live)

    drilled = await host.run(DrillArguments(files=1000))

    result = drilled.result
    assert isinstance(result, DrillResult)
    assert (drilled.outcome, drilled.message) == (Outcome.SUCCEEDED, None)
    assert (result.hostname, result.snapshot_id[: len(snapshot)]) == ("web-1", snapshot)
    assert (result.files_total, result.files_compared) == (len(AWKWARD) + 1, len(AWKWARD))
    assert result.bytes_compared == sum(map(len, AWKWARD.values()))
    assert (result.skipped_unnameable, result.skipped_too_large) == (1, 0)
    assert list((tmp_path / "state" / "drill").iterdir()) == []


async def test_flipped_byte_is_found_by_a_drill_that_names_the_file(
    host: RunningHost, live: Path, tmp_path: Path
) -> None:
    content = os.urandom(300_000)
    write_files(live, {"sound": b"small", "hurt [1]": content})
    await back_up(host, live)
    flip_a_byte_of(content, tmp_path / "repo")

    drilled = await host.run(DrillArguments(files=1000))

    result = drilled.result
    assert isinstance(result, DrillResult)
    assert (drilled.outcome, drilled.failure_class) == (Outcome.FAILED, FailureClass.DAMAGED)
    assert str(live / "hurt [1]") in {*result.unreadable, *result.differing}
    assert str(live / "hurt [1]") in (drilled.message or "")
    assert result.files_compared >= 1
    assert list((tmp_path / "state" / "drill").iterdir()) == []


async def test_drill_and_restore_take_the_snapshot_of_another_host(
    host: RunningHost, tmp_path: Path
) -> None:
    write_files(tmp_path / "theirs", {"file": b"of db-1"})
    await asyncio.to_thread(back_up_as, host, "db-1", tmp_path / "theirs")

    drilled = await host.run(DrillArguments())
    restored = await host.run(
        RestoreArguments(snapshot="latest", target=str(tmp_path / "to/x"), of_host="db-1")
    )

    assert isinstance(drilled.result, DrillResult)
    assert (drilled.outcome, drilled.result.hostname) == (Outcome.SUCCEEDED, "db-1")
    assert restored.outcome is Outcome.SUCCEEDED
    assert set(read_tree(tmp_path / "to/x").values()) == {b"of db-1"}


async def test_files_are_put_back_over_what_is_there_and_nothing_else_is_touched(
    host: RunningHost, live: Path
) -> None:
    write_files(live, {"site/index": b"good", "site/sub/page": b"page", "other": b"then"})
    await back_up(host, live)
    write_files(live, {"site/index": b"broken, and longer", "site/new": b"new", "other": b"now"})
    (live / "site/sub/page").unlink()

    finished = await host.run(put_back(live / "site"))

    assert isinstance(finished.result, RestoreResult)
    assert (finished.result.files_restored, finished.result.bytes_restored) == (2, 8)
    assert read_tree(live) == {
        "site/index": b"good",
        "site/sub/page": b"page",
        "site/new": b"new",
        "other": b"now",
    }


async def test_nothing_is_put_back_through_a_link_or_into_what_is_protected(
    host: RunningHost, live: Path, tmp_path: Path
) -> None:
    write_files(live, {"a/sub/file": b"then", "b/.ssh/authorized_keys": b"key", "c/file": b"then"})
    await back_up(host, live)
    outside = tmp_path / "outside"
    write_files(outside, {"file": b"precious"})
    (live / "a/sub/file").unlink()
    (live / "a/sub").rmdir()
    (live / "a/sub").symlink_to(outside)
    (live / "c/file").unlink()
    (live / "c/file").symlink_to(outside / "file")

    through_folder = await host.run(put_back(live / "a"))
    through_file = await host.run(put_back(live / "c"))
    keys = await host.run(put_back(live / "b"))

    ends = (through_folder, through_file, keys)
    assert [one.outcome for one in ends] == [Outcome.FAILED] * 3
    assert "nothing was restored: the policy of this host" in (through_folder.message or "")
    assert "the policy of this host does not allow" in (through_file.message or "")
    assert "could change how this host works" in (keys.message or "")
    assert read_tree(outside) == {"file": b"precious"}


async def test_folders_above_what_is_free_keep_their_mode_or_nothing_is_put_back(
    host: RunningHost, live: Path, tmp_path: Path
) -> None:
    write_files(live, {"file": b"then"})
    os.chmod(tmp_path, 0o500)
    await back_up(host, live)
    os.chmod(tmp_path, 0o700)
    write_files(live, {"file": b"now"})

    refused = await host.run(put_back(live / "file"))
    mode = os.stat(tmp_path).st_mode & 0o777
    os.chmod(tmp_path, 0o500)
    done = await host.run(put_back(live / "file"))
    os.chmod(tmp_path, 0o700)

    assert f"{tmp_path} has another mode or owner" in (refused.message or "")
    assert mode == 0o700
    assert done.outcome is Outcome.SUCCEEDED
    assert read_tree(live) == {"file": b"then"}


async def test_diff_tells_what_has_changed(host: RunningHost, live: Path) -> None:
    write_files(live, {"changed": b"a", "gone": b"b"})
    first = await back_up(host, live)
    write_files(live, {"changed": b"longer", "new": b"c"})
    (live / "gone").unlink()
    second = await back_up(host, live)

    told = await host.run(DiffArguments(snapshot=first, other=second))

    assert isinstance(told.result, DiffResult)
    assert set(told.result.changes) == {
        DiffChange(path=f"{live}/changed", modifier="M"),
        DiffChange(path=f"{live}/gone", modifier="-"),
        DiffChange(path=f"{live}/new", modifier="+"),
    }
    assert (told.result.added.files, told.result.removed.files) == (1, 1)
    assert (told.result.changed_files, told.result.is_cut) == (1, False)
