"""The agent is killed at each step of a change of a password: the repository stays open to what the
server has, and the change ends, done or given up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from backhaul.objects.fleet import Fleet
from backhaul.wire.fleet import ChangePassword, ContinuePasswordChange
from backhaul.wire.jobs import FailureClass, JobState
from backhaul.wire.kinds import PasswdStep
from backhaul_api.db.tables import repository_secrets
from backhaul_api.keys import load_keys
from tools.local_fleet import HOST, REPOSITORY, LocalFleet, name_restic

pytestmark = pytest.mark.timeout(300)

DEADLY = r"""#!/bin/sh
# restic for the agent, which it kills at the command of a job that the test names.
restic='{restic}' folder='{folder}'
if [ -z "$BACKHAUL_JOB_ID" ] || ! read -r moment number <"$folder/deadly"; then
    exec "$restic" "$@"
fi
count=$(($(cat "$folder/count") + 1))
echo "$count" >"$folder/count"
[ "$count" = "$number" ] || exec "$restic" "$@"
rm "$folder/deadly"
# The agent is the parent. restic goes on without it, or was done and nobody hears of it.
[ "$moment" = during ] && kill -KILL "$PPID" && exec "$restic" "$@"
"$restic" "$@" >/dev/null
kill -KILL "$PPID"
"""


class Change:
    """The changes of a password, and an agent that is killed in them."""

    def __init__(self, fleet: LocalFleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder
        self.objects = Fleet(fleet.client)

    def arm(self, moment: str, number: int) -> None:
        """Kill the agent `during` the command of that number from now on, or right `after` it."""
        (self.folder / "count").write_text("0\n")
        (self.folder / "deadly").write_text(f"{moment} {number}\n")

    def be_killed(self) -> PasswdStep | None:
        """Wait until the agent is dead, start another, and give up its attempt, as an operator can
        who does not wait for the next. Gives the step that the change is at."""
        assert self.fleet.agent.process.wait(60) == -9
        assert self.opens(self.read_password())
        self.fleet.start_agent()
        change = self.fleet.client.get_repository(REPOSITORY).password_change
        assert change is not None
        assert change.job_id is not None
        job = self.objects.jobs[str(change.job_id)]
        for seen in job.follow(60):
            if seen.failure_class is not None:
                break
        assert job.failure_class is FailureClass.INTERRUPTED
        assert job.cancel().state is JobState.CANCELLED
        return change.step

    def begin(self, password: str) -> None:
        self.fleet.client.change_repository_password(
            REPOSITORY, ChangePassword(password=password, host=HOST)
        )

    def go_on(self) -> None:
        self.fleet.client.continue_password_change(REPOSITORY, ContinuePasswordChange())

    def finish(self) -> None:
        """Wait for the end of the whole change."""
        while True:
            change = self.fleet.client.get_repository(REPOSITORY).password_change
            if change is None:
                return
            assert change.job_id is not None
            job = self.fleet.client.wait_for_job(change.job_id, timeout=60)
            assert job.state is JobState.SUCCEEDED, job.message

    def read_password(self) -> str:
        """Read what the server gives its hosts from now on."""
        keys = load_keys(self.fleet.folder / "api" / "secret.key")
        engine = sa.create_engine(f"sqlite:///{self.fleet.folder}/api/backhaul.sqlite3")
        query = sa.select(repository_secrets).where(repository_secrets.c.name == "password")
        with engine.connect() as connection:
            row = connection.execute(query).one()
        engine.dispose()
        return keys.decrypt(
            row.ciphertext, table="repository_secrets", row_id=row.id, column="ciphertext"
        ).decode()

    def opens(self, password: str) -> bool:
        environment = {
            "PATH": "/usr/bin:/bin",
            "RESTIC_REPOSITORY": str(self.fleet.repository),
            "RESTIC_PASSWORD": password,
        }
        command = [name_restic(), "--no-lock", "--no-cache", "cat", "config"]
        run = subprocess.run(command, env=environment, capture_output=True, check=False)
        return run.returncode == 0


@pytest.fixture
def change(restic: str, tmp_path: Path) -> Iterator[Change]:
    deadly = tmp_path / "deadly-restic"
    deadly.mkdir()
    script = deadly / "restic"
    script.write_text(DEADLY.format(restic=restic, folder=deadly))
    script.chmod(0o755)
    (tmp_path / "fleet").mkdir()
    fleet = LocalFleet(tmp_path / "fleet")
    fleet.environment["BACKHAUL_AGENT_RESTIC"] = str(script)
    try:
        fleet.start_api()
        fleet.enrol_host()
        fleet.start_agent()
        fleet.create_repository()
        yield Change(fleet, deadly)
    finally:
        fleet.stop()


def test_agent_that_is_killed_at_any_step_locks_nobody_out(change: Change) -> None:
    old = change.read_password()
    steps = []

    change.arm("during", 2)  # of the job: is the new one there already, add it, try it
    change.begin("given up")
    steps.append(change.be_killed())
    change.fleet.client.give_up_password_change(REPOSITORY)
    after_giving_up = (change.read_password(), change.opens(old))

    change.arm("after", 2)  # it is added, and nobody has tried it
    change.begin("new")
    steps.append(change.be_killed())
    change.arm("after", 1)  # it was found to be there, and the server does not hear of it
    change.go_on()
    steps.append(change.be_killed())
    change.arm("after", 3)  # found; and of the next job: tried, and the old one's key looked up
    change.go_on()
    steps.append(change.be_killed())
    change.arm("during", 3)  # tried, looked up, and now that key goes
    change.go_on()
    steps.append(change.be_killed())
    change.arm("after", 2)  # tried, and found to be gone, and the server does not hear of it
    change.go_on()
    steps.append(change.be_killed())
    between = (change.read_password(), change.opens(old))
    change.go_on()
    change.finish()

    assert after_giving_up == (old, True)
    assert steps == [PasswdStep.ADD] * 3 + [PasswdStep.REMOVE] * 3
    assert between == ("new", False)
    assert change.read_password() == "new"
    assert change.opens("new")
    assert not change.opens(old)
