"""Real processes: the API, an agent and restic, as a user would start them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backhaul.wire.fleet import CreateRepository
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import SnapshotsRequest
from tests.fakes.light_repository import PASSWORD, make_light_repository
from tools.local_fleet import LocalFleet

LONGEST = "test_schedules.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # It mostly waits for the next minute, for three of them: whatever else there is fills the gap.
    items.sort(key=lambda item: item.path.name != LONGEST)


@pytest.fixture
def fleet(restic: str, tmp_path: Path) -> Iterator[LocalFleet]:
    """Give a running API, an enrolled host with its agent, and a repository that exists."""
    fleet = LocalFleet(tmp_path)
    try:
        fleet.start_api()
        fleet.enrol_host()
        fleet.start_agent()
        give_repository(fleet)
        yield fleet
    finally:
        fleet.stop()


def give_repository(fleet: LocalFleet) -> None:
    """Record a repository that exists, as the first job on it proves."""
    make_light_repository(fleet.repository)
    fleet.secrets["repository password"] = PASSWORD
    fleet.client.create_repository(
        CreateRepository(
            name=fleet.repository_name, location=str(fleet.repository), password=PASSWORD
        )
    )
    request = SnapshotsRequest(host=fleet.host_name, repository=fleet.repository_name)
    job = fleet.run_job(request)
    assert job.state is JobState.SUCCEEDED, job.message
