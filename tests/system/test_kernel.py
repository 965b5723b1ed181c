"""What a real kernel of a notebook shows of errors, and of a wait that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

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


def _execute(source: str, folder: Path) -> list[Any]:
    """Run one cell in a kernel of its own. Gives what it shows."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])  # type: ignore[no-untyped-call]
    kernel = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    client = NotebookClient(notebook, km=kernel, timeout=60, allow_errors=True)
    try:
        return list(client.execute().cells[0].outputs)
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_error_is_a_panel_and_a_line_and_no_traceback(tmp_path: Path) -> None:
    panel, error = _execute(ERROR, tmp_path)

    assert "ConfigurationError" in panel.data["text/html"]
    assert error.traceback == [
        "ConfigurationError: The token for http://127.0.0.1:9 is cut or mistyped."
    ]


def test_wait_is_one_display_that_ends_as_a_summary(tmp_path: Path) -> None:
    (shown,) = _execute(WAIT, tmp_path)

    # Three states, one place: each replaces the one before.
    assert "succeeded" in shown.data["text/html"]
    assert "progressbar" not in shown.data["text/html"]
    assert shown.data["text/plain"] == "backup of web-1: succeeded in 0.0 s"
