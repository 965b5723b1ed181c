"""Every kind of job on every type of repository: what the documentation says is what happens."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from backhaul.wire.kinds import JobKind
from tests.conftest import stop_for_missing
from tests.fakes.sftp_server import run_sftp_server
from tests.fakes.storage import ServerMissingError
from tests.system.repository_kinds import ROWS, ask_version, see_all_cells
from tools.draw_kinds import PAGE, RepositoryType, load_cells


def test_every_kind_of_job_has_a_row() -> None:
    assert set(ROWS) == set(JobKind)


@pytest.mark.timeout(300)
def test_every_kind_does_on_every_repository_what_the_page_says(
    restic: str, tmp_path: Path
) -> None:
    try:
        seen = see_all_cells(tmp_path)
    except ServerMissingError as error:
        stop_for_missing(str(error))

    recorded = load_cells()
    # A restic that the page does not tell of behaves as the newest of which it does.
    expected = recorded.get(ask_version(), list(recorded.values())[-1])
    assert seen == expected, "run: .venv/bin/python -m tests.system.repository_kinds"
    assert all(set(row) == set(RepositoryType) for row in seen.values())


def test_command_of_the_page_tells_whether_a_host_reaches_an_sftp_server(tmp_path: Path) -> None:
    """docs/repositories-and-kinds.md shows it."""
    (shown,) = re.findall(r"^\$ (ssh .*)$", PAGE.read_text(), re.MULTILINE)
    try:
        with run_sftp_server(tmp_path / "sftp") as server:
            host = server.location.removeprefix("sftp://").partition("/")[0]
            command = shown.replace("backup@nas", f"ssh://{host}")
            known, unknown = _run_shell(command, server.path), _run_shell(command, tmp_path)
    except ServerMissingError as error:
        stop_for_missing(str(error))

    assert (known.returncode, known.stdout, known.stderr) == (0, b"", b"")
    assert unknown.returncode == 255


def _run_shell(command: str, path: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, check=False, timeout=60
    )
