"""`make chaos`, in short: what it looks at, and what its last line promises."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.timeout(420)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_mistreated_fleet_loses_nothing_and_does_nothing_twice(restic: str, database: str) -> None:
    command = [sys.executable, "-m", "tests.system.chaos", "--jobs", "20", "--database", database]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    *_, last = run.stdout.splitlines()
    found = re.fullmatch(r"chaos: ok jobs=(\d+) faults=(\d+) lost=0 doubled=0 stuck=0", last)
    assert found, run.stdout + run.stderr
    assert run.returncode == 0
    assert int(found[1]) == 20
    assert int(found[2]) >= 8
