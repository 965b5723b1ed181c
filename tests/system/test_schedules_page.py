"""The page on schedules, done to the letter: its commands, its Python and its requests run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backhaul.wire.accounts import CreateEnrollmentToken
from backhaul.wire.fleet import CreateRepository
from tests.conftest import stop_for_missing
from tests.house.modules import ROOT
from tools.local_fleet import LocalFleet

PAGE = (ROOT / "docs" / "schedules.md").read_text()
LIMIT_S = 60


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Give an API with the host and the first repository that the page names. No agent runs."""
    fleet = LocalFleet(tmp_path_factory.mktemp("page"))
    try:
        fleet.start_api()
        made = fleet.client.create_enrollment_token(CreateEnrollmentToken(host_name="web-1"))
        server = ("--server", fleet.client.url, "--state-dir", str(fleet.state))
        fleet.run_cli("agent", "enroll", *server, typed=made.token)
        add_repository(fleet, "nas")
        yield fleet
    finally:
        fleet.stop()


def add_repository(fleet: LocalFleet, name: str) -> None:
    fleet.client.create_repository(
        CreateRepository(name=name, location=f"/srv/{name}", password="not used")
    )


def _blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _commands() -> list[tuple[str, str]]:
    """List the commands of the page, with what stands below each."""
    parts = [part for block in _blocks("console") for part in block.split("$ ")[1:]]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def test_what_the_page_tells_works(fleet: LocalFleet, tmp_path: Path) -> None:
    assert len(_commands()) > 10

    _run_commands(fleet)
    _run_python(fleet)
    _run_requests(fleet, tmp_path)

    kinds = [str(one.kind) for one in fleet.client.list_schedules(host="web-1")]
    assert sorted(kinds) == ["backup", "check", "check", "copy", "drill", "forget", "prune"]


def _run_commands(fleet: LocalFleet) -> None:
    for command, shown in _commands():
        names = {one.name for one in fleet.client.list_repositories()}
        if "cloud" in command and "cloud" not in names:
            # Only now: the commands before leave out which repository they mean.
            add_repository(fleet, "cloud")
        made = next(iter(fleet.client.list_schedules()), None)
        words = shlex.split(command.replace("SCHEDULE", str(made.id) if made else ""))
        printed = fleet.run_cli(*words[1:])
        assert not shown or printed == shown, command


def _run_python(fleet: LocalFleet) -> None:
    (program,) = _blocks("python")
    run = subprocess.run(
        [sys.executable, "-"],
        input=program,
        env=fleet.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 3


def _run_requests(fleet: LocalFleet, folder: Path) -> None:
    """Run the requests, with what the README's walk prepares for its own."""
    if shutil.which("curl") is None:
        stop_for_missing("curl")
    (function,) = re.findall(r"^api\(\) \{.*?^\}\n", (ROOT / "README.md").read_text(), re.M | re.S)
    (folder / "header").write_text(f"Authorization: Bearer {fleet.secrets['API token']}\n")
    prepared = f"set -eu\nurl={fleet.client.url}\njson='Content-Type: application/json'\n"
    (requests,) = _blocks("sh")
    run = subprocess.run(
        ["bash", "-s"],
        input=prepared + function + requests,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"enabled":false' in run.stdout
