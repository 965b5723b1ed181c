"""`make cluster`, in short: nginx as docs/instances.md has it, and what the last line promises."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import stop_for_missing
from tests.system.cluster_fleet import find_nginx


@pytest.mark.timeout(420)
def test_rolled_cluster_loses_nothing_and_does_nothing_twice(restic: str) -> None:
    if find_nginx() is None:
        stop_for_missing("nginx")
    command = [sys.executable, "-m", "tests.system.cluster", "--jobs", "16", "--samples", "20"]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    *_, last = run.stdout.splitlines()
    found = re.fullmatch(
        r"cluster: ok jobs=16 faults=(\d+) kills=(\d+) rolled=3 errors=0 lost=0 doubled=0 stuck=0",
        last,
    )
    assert found, run.stdout + run.stderr
    assert run.returncode == 0
    assert int(found[1]) >= 8
    assert int(found[2]) >= 1
