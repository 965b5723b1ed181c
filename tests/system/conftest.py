"""Real processes: the API, an agent and restic, as a user would start them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.local_fleet import LocalFleet


@pytest.fixture
def fleet(restic: str, tmp_path: Path) -> Iterator[LocalFleet]:
    """Give a running API, an enrolled host with its agent, and a repository that exists."""
    fleet = LocalFleet(tmp_path)
    try:
        fleet.start_api()
        fleet.enrol_host()
        fleet.start_agent()
        fleet.create_repository()
        yield fleet
    finally:
        fleet.stop()
