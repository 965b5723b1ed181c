"""Child processes: read to the end, ended in order, known by more than their number."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backhaul_agent.errors import StateFileError
from backhaul_agent.lines import LineSplitter
from backhaul_agent.process import (
    Child,
    ChildProcess,
    Graces,
    Stream,
    end_orphan,
    is_alive,
    read_start_time,
)
from tests.fakes.fake_restic import FakeRestic, install_fake_restic

pytestmark = pytest.mark.timeout(20)

SHORT = Graces(interrupt=0.1, terminate=0.1)
ENVIRONMENT = {"PATH": os.defpath}


@pytest.fixture
def fake(tmp_path: Path) -> FakeRestic:
    return install_fake_restic(tmp_path / "bin")


async def start(fake: FakeRestic, graces: Graces = SHORT) -> ChildProcess:
    return await ChildProcess.start([fake.path, "backup"], ENVIRONMENT, graces)


async def start_hanging(fake: FakeRestic) -> tuple[ChildProcess, asyncio.Task[int]]:
    child = await start(fake)
    reading = asyncio.create_task(child.read_to_end(lambda *_: None))
    await asyncio.sleep(0)  # the child may be ready already, and a task that never began ends none
    await wait_until_ready(fake)
    return child, reading


async def wait_until_ready(fake: FakeRestic) -> None:
    async with asyncio.timeout(10):
        while not any("ready" in call for call in notes(fake)):
            await asyncio.sleep(0.01)


def notes(fake: FakeRestic) -> list[dict[str, object]]:
    file = fake.folder / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def signals(fake: FakeRestic) -> list[object]:
    return [note["signal"] for note in notes(fake) if "signal" in note]


async def test_lines_of_megabytes_arrive_whole(fake: FakeRestic) -> None:
    fake.on("backup", big_line=3_000_000, stdout="first\n", stderr="error\n", exit=3)
    lines: list[tuple[Stream, int]] = []

    child = await start(fake)
    code = await child.read_to_end(lambda stream, line: lines.append((stream, len(line))))

    assert code == 3
    assert sorted(lines) == [("stderr", 5), ("stdout", 5), ("stdout", 3_000_000)]


async def test_child_has_a_session_of_its_own_and_nothing_to_read(fake: FakeRestic) -> None:
    fake.on("backup", hang=True)

    child, reading = await start_hanging(fake)

    assert os.getsid(child.child.pid) == child.child.pid
    assert os.readlink(f"/proc/{child.child.pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{child.child.pid}/cwd") == "/"
    child.kill()
    assert await reading == -signal.SIGKILL


async def test_sigint_comes_first_and_suffices(fake: FakeRestic) -> None:
    fake.on("backup", hang=True, on_sigint=130)

    child, reading = await start_hanging(fake)
    await child.end()

    assert await reading == 130
    assert signals(fake) == [signal.SIGINT]
    assert not child.was_killed


async def test_sigterm_comes_second_and_sigkill_last(fake: FakeRestic) -> None:
    fake.on("backup", hang=True, ignore_signals=["SIGINT", "SIGTERM"])

    child, reading = await start_hanging(fake)
    await child.end()

    assert await reading == -signal.SIGKILL
    assert signals(fake) == [signal.SIGINT, signal.SIGTERM]
    assert child.was_killed


async def test_cancelled_reading_ends_the_child(fake: FakeRestic) -> None:
    fake.on("backup", hang=True, on_sigint=130)

    child, reading = await start_hanging(fake)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    assert reading.cancelled()
    assert not is_alive(child.child)
    assert signals(fake) == [signal.SIGINT]


async def test_failing_reader_ends_the_child_and_is_told(fake: FakeRestic) -> None:
    fake.on("backup", stdout="line\n" * 10_000, hang=True, on_sigint=130)

    def fail(*_: object) -> None:
        raise StateFileError("disk full")

    child = await start(fake)
    with pytest.raises(StateFileError):
        await child.read_to_end(fail)

    assert not is_alive(child.child)


async def test_reader_that_fails_unforeseen_leaves_nothing_running(fake: FakeRestic) -> None:
    fake.on("backup", stdout="line\n", hang=True, on_sigint=130)

    def fail(*_: object) -> None:
        raise OverflowError

    child = await start(fake)
    with pytest.raises(OverflowError):
        await child.read_to_end(fail)

    assert not is_alive(child.child)


async def test_reading_that_is_cancelled_twice_still_ends_the_child(fake: FakeRestic) -> None:
    fake.on("backup", hang=True, ignore_signals=["SIGINT"])

    child, reading = await start_hanging(fake)
    reading.cancel()
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    assert reading.cancelled()
    assert not is_alive(child.child)


async def test_helper_in_a_session_of_its_own_does_not_hold_up_the_end() -> None:
    graces = Graces(interrupt=0.1, terminate=0.1, pipe=0.1)
    # The helper keeps the pipes open for longer than this test may take.
    script = "setsid sleep 60 & echo $!; exit 3"
    lines: list[str] = []

    child = await ChildProcess.start(["/bin/sh", "-c", script], ENVIRONMENT, graces)
    async with asyncio.timeout(10):
        code = await child.read_to_end(lambda _, line: lines.append(line))

    os.kill(int(lines[0]), signal.SIGKILL)
    assert code == 3
    assert child.is_gone


async def test_missing_program_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await ChildProcess.start([str(tmp_path / "nothing")], ENVIRONMENT)


async def test_child_outlives_its_agent_unharmed_until_it_is_ended_in_order(tmp_path: Path) -> None:
    marker = tmp_path / "ended"
    script = (
        f"trap 'touch {marker}; exit 130' INT; while :; do echo line || exit 1; sleep 0.01; done"
    )
    agent = (
        "import asyncio, os, signal\n"
        "from backhaul_agent.process import ChildProcess\n"
        "async def main():\n"
        f"    child = await ChildProcess.start(['/bin/sh', '-c', {script!r}], {{}})\n"
        "    print(child.child.pid, child.child.started, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", agent], capture_output=True, text=True, check=False
    )
    pid, started = map(int, run.stdout.split())
    orphan = Child(pid=pid, started=started)

    # A closed pipe would have ended it at its next line.
    await asyncio.sleep(0.3)
    assert is_alive(orphan)
    await end_orphan(orphan, Graces(interrupt=5.0))

    assert marker.exists()


async def test_orphan_is_ended_by_sigint() -> None:
    with subprocess.Popen(["sleep", "60"]) as orphan:  # noqa: ASYNC220 (it only starts)
        child = Child(pid=orphan.pid, started=read_start_time(orphan.pid) or 0)
        assert is_alive(child)

        await end_orphan(child, SHORT)

        assert not is_alive(child)
        assert orphan.wait() == -signal.SIGINT


async def test_a_stranger_with_the_same_number_is_left_alone() -> None:
    own = read_start_time(os.getpid())
    assert own is not None
    stranger = Child(pid=os.getpid(), started=own - 1)

    assert not is_alive(stranger)
    await end_orphan(stranger, SHORT)


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))),
    st.integers(1, 7),
)
def test_lines_do_not_depend_on_where_chunks_end(lines: list[str], size: int) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    splitter = LineSplitter()

    found: list[str] = []
    for start in range(0, len(content), size):
        found += splitter.feed(content[start : start + size])
    found += splitter.feed(b"", is_last=True)

    assert found == lines


def test_line_without_its_end_is_a_line_too() -> None:
    splitter = LineSplitter()

    assert splitter.feed(b"one\r\ntw") == ["one"]
    assert splitter.feed(b"o", is_last=True) == ["two"]
