"""What a real kernel of a notebook shows of errors, and of a wait that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tools.local_fleet import LocalFleet

ERROR = """
import backhaul
backhaul.connect(url="http://127.0.0.1:9", token="nonsense")
"""

WAIT = """
from backhaul._live import show_job
from backhaul.wire.jobs import JobState, Progress
from tests.unit.sdk.builders import NOW, build_job

with show_job(build_job(), is_quiet=False) as shown:
    shown.update(build_job(JobState.RUNNING, started_at=NOW, progress=Progress(percent_done=0.5)))
    shown.update(build_job(JobState.SUCCEEDED, started_at=NOW, finished_at=NOW))
"""


WATCH = """
import time
import backhaul

fleet = backhaul.connect()
view = fleet.watch()
"""

# While the view follows, the kernel runs other cells.
BACK_UP = """
job = fleet.hosts["demo-host"].backup(["/etc/hostname"])
job.wait(raise_on_failure=True, quiet=True)
deadline = time.monotonic() + 20
while not any(event.kind == "job.succeeded" for event in view._scene.events):
    assert time.monotonic() < deadline
    time.sleep(0.05)
print("is following:", view.is_following)
"""

AGAIN = "fleet.watch().stop()"


def _execute(
    *sources: str, folder: Path, environment: dict[str, str] | None = None
) -> list[list[Any]]:
    """Run cells in a kernel of their own. Gives what each shows in the end."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    kernel = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    client = NotebookClient(notebook, km=kernel, timeout=60, allow_errors=True)
    try:
        executed = client.execute(**({"env": environment} if environment else {}))
        return [list(cell.outputs) for cell in executed.cells]
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_error_is_a_panel_and_a_line_and_no_traceback(tmp_path: Path) -> None:
    ((panel, error),) = _execute(ERROR, folder=tmp_path)

    assert "ConfigurationError" in panel.data["text/html"]
    assert error.traceback == [
        "ConfigurationError: The token for http://127.0.0.1:9 is cut or mistyped."
    ]


def test_wait_is_one_display_that_ends_as_a_summary(tmp_path: Path) -> None:
    ((shown,),) = _execute(WAIT, folder=tmp_path)

    # Three states, one place: each replaces the one before.
    assert "succeeded" in shown.data["text/html"]
    assert "progressbar" not in shown.data["text/html"]
    assert shown.data["text/plain"] == "backup of web-1: succeeded in 0.0 s"


def test_live_view_follows_while_other_cells_run(fleet: LocalFleet, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()

    shown, ran, again = _execute(
        WATCH, BACK_UP, AGAIN, folder=tmp_path / "kernels", environment=fleet.environment
    )

    # One display in the first cell, which went on to change after that cell had ended.
    (view,) = shown
    assert "job.succeeded" in view.data["text/html"]
    # The second view took the place of the first.
    assert "Stopped" in view.data["text/html"]
    assert [one.text for one in ran] == ["is following: True\n"]
    assert len(again) == 1
