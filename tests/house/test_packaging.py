"""What is installed with what: the bare install stays small, and an agent needs no server."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.house.modules import ROOT

IMPORT_LIMIT_S = 0.3
"""What `import backhaul` may take, best of several runs."""


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in requirements}


def test_the_bare_install_is_the_sdk_and_the_cli() -> None:
    assert _names(_project()["dependencies"]) == {"httpx", "msgspec", "rich", "typer"}


def test_an_agent_installs_no_database_and_no_server() -> None:
    assert _names(_project()["optional-dependencies"]["agent"]) == {"croniter", "pynacl"}


@pytest.mark.parametrize("extra", ["agent", "api", "postgresql", "lambda", "notebook", "all"])
def test_every_extra_of_the_design_is_there(extra: str) -> None:
    assert extra in _project()["optional-dependencies"]


def test_the_lock_names_no_index_and_hashes_everything() -> None:
    lock = (ROOT / "requirements" / "dev.lock").read_text()

    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
    requirements = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE).strip())
    assert [line for line in requirements if "--hash=sha256:" not in line] == []


def test_the_lock_holds_all_that_is_declared() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = _names(content["project"]["dependencies"]) | _names(
        content["dependency-groups"]["dev"]
    )
    for extra in content["project"]["optional-dependencies"].values():
        declared |= _names(extra)
    locked = _names(
        re.findall(
            r"^[A-Za-z0-9][^ ]*==", (ROOT / "requirements" / "dev.lock").read_text(), re.MULTILINE
        )
    )

    assert declared - {"backhaul"} - locked == set()


def test_importing_the_sdk_is_quick_and_takes_no_extra() -> None:
    script = (
        "import time; start = time.perf_counter(); import backhaul; "
        "print(time.perf_counter() - start); import sys; "
        "print(sorted({'croniter', 'nacl', 'sqlalchemy', 'litestar', 'pandas'} & set(sys.modules)))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for _ in range(5)
    ]

    assert min(float(seconds) for seconds, _ in runs) < IMPORT_LIMIT_S
    assert {extras for _, extras in runs} == {"[]"}
