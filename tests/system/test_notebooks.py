"""The notebooks, executed by real kernels against a real API, agent and restic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tools import notebooks

PATHS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, restic: str) -> None:
    executed = notebooks.execute(path, tmp_path)

    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    assert _shown(executed)


def _shown(notebook: Any) -> list[Any]:
    return [one for cell in notebook.cells for one in cell.get("outputs", ())]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_and_has_a_page(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]

    assert _shown(notebook) == []
    page = (notebooks.PAGES / f"{path.stem}.md").read_text()
    for cell in notebook.cells:
        assert cell.source in page, "run: make notebooks ARGS=--write"
