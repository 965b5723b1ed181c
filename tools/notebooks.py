"""Execute the notebooks, each in a kernel of its own against a real API, agent and restic.

    .venv/bin/python -m tools.notebooks            all of them
    .venv/bin/python -m tools.notebooks 01 03      some
    .venv/bin/python -m tools.notebooks --write    store what they show in docs/notebooks too

They find the server as everything does, through BACKHAUL_URL and BACKHAUL_TOKEN_FILE. Those about a
month of a fleet's life look at a simulated one. A cell that fails ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools import simulator
from tools.children import BACKHAUL, Child, build_environment
from tools.local_fleet import LocalFleet

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
PAGES = ROOT / "docs" / "notebooks"
CELL_LIMIT_S = 120

_CHARTS_AS_PICTURES = "import altair; altair.renderers.enable('png', scale_factor=1); del altair"

ON_A_SIMULATED_FLEET = {"02", "05"}
IN_AN_EMPTY_FLEET = {"01"}
"""The others find a repository `nas` that was created."""


@contextmanager
def run_fleet(number: str, folder: Path) -> Iterator[dict[str, str]]:
    """Start what a notebook needs. Gives the environment of its kernel."""
    if number in ON_A_SIMULATED_FLEET:
        with _serve_simulated(folder) as environment:
            yield environment
        return
    fleet = LocalFleet(folder, host="web-1", repository="nas")
    try:
        fleet.start_api()
        fleet.enrol_host()
        fleet.start_agent()
        if number not in IN_AN_EMPTY_FLEET:
            fleet.create_repository()
        yield fleet.environment
    finally:
        fleet.stop()


@contextmanager
def _serve_simulated(folder: Path) -> Iterator[dict[str, str]]:
    data = folder / "fleet"
    shutil.copytree(Path(_simulate().name) / "fleet", data)
    command = [str(BACKHAUL), "serve", "--data-dir", str(data), "--port=0"]
    environment = build_environment(folder)
    api = Child("api", command, logs=folder, environment=environment)
    try:
        url = api.wait_for_output(r"Backhaul API on (\S+)")
        yield environment | {"BACKHAUL_URL": url, "BACKHAUL_TOKEN_FILE": str(data / "token")}
    finally:
        api.stop(signal.SIGTERM)


@cache
def _simulate() -> tempfile.TemporaryDirectory[str]:
    """Simulate a month, which takes longer than to look at it: once for all who do."""
    folder = tempfile.TemporaryDirectory(prefix="backhaul-simulated-")
    simulator.run(Path(folder.name) / "fleet", hosts=12, days=31, seed=7)
    return folder


def execute(path: Path, folder: Path) -> Any:
    """Execute a notebook from top to bottom. Gives it with its outputs.

    Raises:
        CellExecutionError: a cell failed; the message shows it.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with run_fleet(path.name[:2], folder) as environment:
        # A kernel inherits the environment of whoever starts it. The commands of this installation
        # come first, as they do for a user who has installed Backhaul.
        variables = environment | {"PATH": f"{BACKHAUL.parent}{os.pathsep}{environment['PATH']}"}
        # Sockets in the folder: nobody else on this machine can speak to the kernel.
        kernel = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
        with mock.patch.dict(os.environ, variables, clear=True):
            client = NotebookClient(
                notebook,
                km=kernel,
                timeout=CELL_LIMIT_S,
                # By itself a chart is a page that fetches its scripts from elsewhere.
                extra_arguments=[f"--IPKernelApp.exec_lines={_CHARTS_AS_PICTURES}"],
                resources={"metadata": {"path": str(folder)}},
            )
            try:
                return client.execute()
            finally:
                if client.kc is not None:
                    client.kc.stop_channels()
                kernel.shutdown_kernel(now=True)


def write_page(path: Path, notebook: Any) -> None:
    """Store an executed notebook as a page of Markdown, its pictures beside it."""
    PAGES.mkdir(exist_ok=True)
    pictures = PAGES / path.stem
    shutil.rmtree(pictures, ignore_errors=True)
    parts = [f"<!-- Written by tools/notebooks.py from notebooks/{path.name}. -->"]
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for shown in cell.outputs:
            parts += _render_output(shown, pictures, f"{number:02}.png")
    (PAGES / f"{path.stem}.md").write_text("\n\n".join(parts) + "\n")


def _render_output(shown: Any, pictures: Path, name: str) -> list[str]:
    if shown.output_type == "stream":
        return [f"```text\n{_tidy(shown.text)}\n```"]
    data = shown.get("data", {})
    if "image/png" in data:
        pictures.mkdir(exist_ok=True)
        (pictures / name).write_bytes(base64.b64decode(data["image/png"]))
        return [f"![chart]({pictures.name}/{name})"]
    if "<table" in data.get("text/html", ""):
        # A page of Markdown takes tables, and no styles.
        return [re.sub(r"<style.*?</style>|\n\s*", "", data["text/html"], flags=re.DOTALL)]
    return [f"```text\n{_tidy(data['text/plain'])}\n```"] if "text/plain" in data else []


def _tidy(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", help="like 01; all of them without")
    parser.add_argument("--write", action="store_true", help="store the pages in docs/notebooks")
    options = parser.parse_args()
    chosen = [
        path
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
        if not options.numbers or path.name[:2] in options.numbers
    ]
    if not chosen:
        parser.error(f"there is no notebook {' '.join(options.numbers)}")
    for path in chosen:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bh-notebook-") as folder:
            try:
                notebook = execute(path, Path(folder))
            except CellExecutionError as error:
                sys.stderr.write(f"{path.name}: {error}\n")
                return 1
        if options.write:
            write_page(path, notebook)
        sys.stdout.write(f"{path.name}: ok in {time.monotonic() - begin:.1f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
