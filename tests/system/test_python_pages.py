"""What README and docs/sdk.md show of Python, run as it stands against a real fleet."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.modules import ROOT
from tools.local_fleet import LocalFleet

RESTORED = Path("/tmp/restored-by-hand")


@pytest.fixture(scope="module")
def fleet(restic: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """A fleet as the pages have it: a host `web-1` and a repository `nas`."""
    fleet = LocalFleet(tmp_path_factory.mktemp("pages"), host="web-1", repository="nas")
    try:
        fleet.start_api()
        fleet.enrol_host()
        fleet.start_agent()
        assert fleet.create_repository().state == "succeeded"
        yield fleet
    finally:
        fleet.stop()


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def _run(fleet: LocalFleet, script: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=fleet.environment,
        cwd=fleet.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_script_of_the_readme_backs_up_and_prints_what_came_of_it(fleet: LocalFleet) -> None:
    (script,) = _blocks("README.md")
    assert len(script.splitlines()) <= 10

    printed = _run(fleet, script).splitlines()

    assert re.fullmatch(
        r"backup of web-1: succeeded in .* \(2 files, .* added, snapshot [0-9a-f]{8}\)", printed[0]
    )
    assert printed[1].endswith("/etc/hosts /etc/passwd")


def test_page_of_the_package_runs_from_top_to_bottom(fleet: LocalFleet) -> None:
    shutil.rmtree(RESTORED, ignore_errors=True)
    try:
        printed = _run(fleet, "\n".join(_blocks("docs/sdk.md")))
        restored = (RESTORED / "etc" / "hosts").read_bytes()
    finally:
        shutil.rmtree(RESTORED, ignore_errors=True)

    assert "web-1 online" in printed
    assert restored == Path("/etc/hosts").read_bytes()
