"""`make demo`, as a program: what it prints last, how it exits, and that nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.modules import ROOT

LAST_LINE = re.compile(r"demo: ok snapshot=[0-9a-f]{8} files=(\d+) bytes=\d+ restored=identical")
LIMIT_S = 110


def _start(folder: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.demo"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _processes_in(folder: Path) -> dict[int, str]:
    """Find the processes whose command line names the folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if entry.name.isdecimal() and str(folder) in command:
            found[int(entry.name)] = command
    return found


@pytest.fixture
def folder(restic: str, tmp_path: Path) -> Iterator[Path]:
    """Give a folder for temporary files. What still runs in it after the test is ended."""
    yield tmp_path
    for pid in _processes_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


def test_the_demo_ends_well_and_leaves_nothing(folder: Path) -> None:
    demo = _start(folder)
    output, _ = demo.communicate(timeout=LIMIT_S)

    last = LAST_LINE.fullmatch(output.splitlines()[-1])
    assert last is not None, output
    assert int(last[1]) >= 200
    assert demo.returncode == 0
    assert _processes_in(folder) == {}
    assert list(folder.iterdir()) == []


def test_a_demo_that_is_kept_goes_on_and_says_how_to_end_it(folder: Path) -> None:
    demo = _start(folder, KEEP="1")
    output, _ = demo.communicate(timeout=LIMIT_S)

    assert demo.returncode == 0, output
    found = re.search(r"To end it +kill ([\d ]+); rm -r (\S+)", output)
    assert found is not None
    assert len(_processes_in(folder)) >= 2
    for pid in found[1].split():
        os.kill(int(pid), signal.SIGTERM)
    assert Path(found[2]).is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_demo_that_is_interrupted_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    demo = _start(folder)
    assert demo.stdout is not None
    while "enrolled" not in (line := demo.stdout.readline()):
        assert line, "the demo ended early"

    demo.send_signal(number)
    demo.communicate(timeout=LIMIT_S)

    assert demo.returncode == 128 + number
    assert _processes_in(folder) == {}
    assert list(folder.iterdir()) == []


def test_a_demo_that_fails_says_why_in_one_line_and_where_the_logs_are(folder: Path) -> None:
    # Nothing that is called restic can be found.
    demo = _start(folder, PATH=str(folder))
    output, _ = demo.communicate(timeout=LIMIT_S)

    failure = re.fullmatch(r"demo: failed: .+ \(logs: (\S+)\)", output.splitlines()[-1])
    assert failure is not None, output
    assert demo.returncode == 1
    assert "Traceback" not in output
    assert (Path(failure[1]) / "api.err").exists()
    assert _processes_in(folder) == {}
