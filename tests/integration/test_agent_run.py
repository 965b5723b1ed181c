"""The agent as a process: joining, running, stopping, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import nacl.public
import pytest

from backhaul.wire.agents import EnrollRequest, Hello
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import BackupArguments
from backhaul.wire.problems import ProblemType
from backhaul.wire.reports import JobFinished
from backhaul.wire.tokens import TokenKind, build_token
from backhaul_agent.enrolment import ATTEMPTS, Application, enroll
from backhaul_agent.errors import EnrolmentError
from backhaul_agent.settings import Settings
from tests.fakes.fake_api import FakeApi, Reply
from tests.fakes.fake_restic import FakeRestic, install_fake_restic
from tests.unit.agent.hosts import ManualClock, build_credentials

pytestmark = pytest.mark.timeout(60)

PROGRAM = "from backhaul_agent.cli import agent; agent(prog_name='backhaul agent')"


class Machine:
    """A machine with a state folder and a restic that plays recordings."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.fake: FakeRestic = install_fake_restic(folder / "bin")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "BACKHAUL_AGENT_RESTIC": self.fake.path,
            "BACKHAUL_AGENT_STATE_DIR": str(self.state_dir),
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            *arguments,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def call(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = await self.start(*arguments)
        stdout, stderr = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, stdout.decode(), stderr.decode()

    async def enroll(self, api: FakeApi, *more: str) -> None:
        code, _, stderr = await self.call(
            "enroll", "--server", api.url, *more, stdin=api.enrollment_token
        )
        assert code == 0, stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as server:
        server.hold_s = 20.0
        yield server


async def stop(process: asyncio.subprocess.Process) -> tuple[int, float, str]:
    """Ask a process to stop; gives its exit code, how long that took, and its log."""
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, time.monotonic() - started, stderr.decode()


async def test_enrolment_shows_name_and_fingerprint_and_no_token(
    machine: Machine, api: FakeApi
) -> None:
    code, stdout, stderr = await machine.call(
        "enroll",
        "--server",
        f"{api.url}/",
        "--name",
        "web-9",
        "--label",
        "role=web",
        stdin=f"{api.enrollment_token}\n",
    )

    assert (code, stderr) == (0, "")
    assert "web-9" in stdout
    assert len(stdout.split()[-1]) == 64
    assert api.enrollment_token not in stdout
    identity = machine.state_dir / "identity.json"
    assert identity.stat().st_mode & 0o777 == 0o600
    assert api.enrollment_token not in identity.read_text()


async def test_token_is_read_from_a_file(machine: Machine, api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(api.enrollment_token)

    await machine.enroll(api, "--token-file", str(tmp_path / "token"))

    assert api.public_key


def test_token_is_asked_for_on_a_terminal_and_not_echoed(tmp_path: Path) -> None:
    token = build_token(TokenKind.ENROLLMENT)
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover (the other process)
        os.environ["BACKHAUL_AGENT_STATE_DIR"] = str(tmp_path / "state")
        os.environ["BACKHAUL_AGENT_RESTIC"] = "/bin/false"
        command = [sys.executable, "-c", PROGRAM, "enroll", "--server", "http://127.0.0.1:1"]
        os.execv(sys.executable, command)  # noqa: S606 (no shell is meant)
    shown = b""
    while b"token: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, f"{token}\n".encode())
    while True:
        try:
            shown += os.read(terminal, 1024)
        except OSError:
            break
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 2
    assert token.encode() not in shown
    assert b"ConnectError" in shown


@pytest.mark.parametrize(
    ("arguments", "token", "named"),
    [
        ([], "nonsense", "enrollment token"),
        ([], build_token(TokenKind.AGENT), "enrollment token"),
        ([], build_token(TokenKind.ENROLLMENT)[:-1], "enrollment token"),
        ([], "", "no enrollment token"),
        ([], build_token(TokenKind.ENROLLMENT), "no"),
        (["--label", "role"], None, "KEY=VALUE"),
        (["--name", "-bad name"], None, "name: must be letters, digits"),
        (["--token-file", "/nowhere"], None, "/nowhere"),
        (["--ca-file", "/nowhere.pem"], None, "/nowhere.pem"),
        (["--config", "/nowhere.toml"], None, "/nowhere.toml"),
    ],
    ids=[
        "not a token",
        "another kind",
        "cut",
        "none",
        "unknown to the server",
        "label",
        "name",
        "token file",
        "certificates",
        "settings file",
    ],
)
async def test_bad_input_is_one_line_and_exit_code_2(
    machine: Machine, api: FakeApi, arguments: Sequence[str], token: str | None, named: str
) -> None:
    stdin = api.enrollment_token if token is None else token

    code, stdout, stderr = await machine.call(
        "enroll", "--server", api.url, *arguments, stdin=stdin
    )

    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert named in stderr
    assert not stdin or stdin not in stderr
    assert not (machine.state_dir / "identity.json").exists()


@pytest.mark.parametrize("server", ["ftp://x", "nonsense", "http://user:pass@host", "http://"])
async def test_bad_server_url_is_refused(machine: Machine, api: FakeApi, server: str) -> None:
    code, _, stderr = await machine.call("enroll", "--server", server, stdin=api.enrollment_token)

    assert code == 2
    assert "--server" in stderr


async def test_answer_to_enrolment_that_gets_lost_is_asked_for_again_with_the_same_key(
    machine: Machine,
) -> None:
    clock = ManualClock()
    settings = Settings(state_dir=machine.state_dir, restic=machine.fake.path)
    async with DeafApi(lost=2) as server:
        application = Application(server_url=server.url, token=server.enrollment_token)
        identity = await enroll(application, settings, clock=clock)

    assert len(server.keys) == 3
    assert set(server.keys) == {bytes(nacl.public.PrivateKey(identity.private_key).public_key)}
    assert len(clock.sleeps) == 2
    assert (machine.state_dir / "identity.json").exists()


async def test_enrolment_gives_up_on_a_server_whose_answers_never_come(
    machine: Machine,
) -> None:
    settings = Settings(state_dir=machine.state_dir, restic=machine.fake.path)
    async with DeafApi(lost=100) as server:
        application = Application(server_url=server.url, token=server.enrollment_token)
        with pytest.raises(EnrolmentError):
            await enroll(application, settings, clock=ManualClock())

    assert len(server.keys) == ATTEMPTS


async def test_enrolment_does_not_wait_for_a_server_that_is_not_there(
    machine: Machine,
) -> None:
    clock = ManualClock()
    settings = Settings(state_dir=machine.state_dir, restic=machine.fake.path)
    application = Application(
        server_url="http://127.0.0.1:1", token=build_token(TokenKind.ENROLLMENT)
    )
    with pytest.raises(EnrolmentError):
        await enroll(application, settings, clock=clock)

    assert clock.sleeps == []


class DeafApi(FakeApi):
    """Lets hosts join; its first answers get lost behind a gateway."""

    def __init__(self, *, lost: int) -> None:
        super().__init__()
        self.keys: list[bytes] = []
        self._lost = lost

    def _enroll(self, request: EnrollRequest) -> Reply:
        self.keys.append(request.public_key)
        answer = super()._enroll(request)
        return answer if len(self.keys) > self._lost else Reply(status=504)


async def test_enrolled_host_is_not_enrolled_again_by_mistake(
    machine: Machine, api: FakeApi
) -> None:
    await machine.enroll(api)
    before = (machine.state_dir / "identity.json").read_bytes()

    code, _, stderr = await machine.call("enroll", "--server", api.url, stdin=api.enrollment_token)

    assert code == 2
    assert "--force" in stderr
    assert (machine.state_dir / "identity.json").read_bytes() == before
    await machine.enroll(api, "--force")
    assert (machine.state_dir / "identity.json").read_bytes() != before


async def test_running_without_enrolment_names_the_remedy(machine: Machine) -> None:
    code, _, stderr = await machine.call("run")

    assert code == 2
    assert stderr.count("\n") == 1
    assert "backhaul agent enroll" in stderr


async def test_idle_agent_stops_at_once_though_a_poll_is_held(
    machine: Machine, api: FakeApi
) -> None:
    await machine.enroll(api)
    process = await machine.start("run")
    await api.wait_for(Hello)
    await api.wait_for_polls(1)

    code, seconds, log = await stop(process)

    assert code == 0
    assert seconds < 3
    events = [json.loads(line) for line in log.splitlines()]
    assert [event["event"] for event in events] == [
        "agent.started",
        "agent.stopping",
        "agent.stopped",
    ]
    assert events[0]["host"] == "web-1"
    assert events[0]["restic"] == "0.14.0"
    assert len(events[0]["fingerprint"]) == 64


async def test_sighup_changes_nothing(machine: Machine, api: FakeApi) -> None:
    await machine.enroll(api)
    process = await machine.start("run")
    await api.wait_for_polls(1)

    process.send_signal(signal.SIGHUP)
    code, _, _ = await stop(process)

    assert code == 0


async def test_stopped_agent_ends_restic_by_sigint_and_reports_it(
    machine: Machine, api: FakeApi
) -> None:
    machine.fake.on("backup", hang=True, on_sigint=130)
    await machine.enroll(api)
    process = await machine.start("run")
    await api.wait_for_polls(1)
    command = api.order(BackupArguments(paths=("/data",)), build_credentials())
    await wait_until_ready(machine.fake)

    code, _, log = await stop(process)

    assert code == 0, log
    finished = api.of(JobFinished, command.job_id)[0]
    assert finished.outcome is Outcome.FAILED
    assert finished.failure_class is FailureClass.INTERRUPTED


async def test_killed_agent_reports_its_job_as_interrupted_and_runs_it_no_more(
    machine: Machine, api: FakeApi
) -> None:
    machine.fake.on("backup", hang=True, on_sigint=130)
    await machine.enroll(api)
    process = await machine.start("run")
    await api.wait_for_polls(1)
    command = api.order(BackupArguments(paths=("/data",)), build_credentials())
    await wait_until_ready(machine.fake)
    process.kill()
    await process.communicate()

    second = await machine.start("run")
    finished = await api.wait_for(JobFinished, command.job_id)
    code, _, _ = await stop(second)

    assert code == 0
    assert finished.failure_class is FailureClass.INTERRUPTED
    commands = [call["argv"][1] for call in machine.fake.calls if "argv" in call]
    assert commands == ["backup", "unlock", "list"]
    # The first restic outlived its agent, and the second agent ended it.
    assert {"signal": int(signal.SIGINT)} in machine.fake.calls


async def test_second_signal_stops_at_once(machine: Machine, api: FakeApi) -> None:
    machine.fake.on("backup", hang=True, ignore_signals=["SIGINT", "SIGTERM"])
    await machine.enroll(api)
    process = await machine.start("run")
    await api.wait_for_polls(1)
    api.order(BackupArguments(paths=("/data",)), build_credentials())
    await wait_until_ready(machine.fake)

    process.send_signal(signal.SIGTERM)
    await wait_for_note(machine.fake, '"signal"')
    code, seconds, _ = await stop(process)

    assert code == 1
    assert seconds < 3


async def test_second_agent_on_one_state_folder_is_refused(machine: Machine, api: FakeApi) -> None:
    await machine.enroll(api)
    process = await machine.start("run")
    await api.wait_for_polls(1)

    code, _, stderr = await machine.call("run")
    again, _, _ = await machine.call(
        "enroll", "--force", "--server", api.url, stdin=api.enrollment_token
    )
    await stop(process)

    assert (code, again) == (2, 2)
    assert "another agent" in stderr


async def test_removed_host_deletes_its_secrets_and_stops(machine: Machine, api: FakeApi) -> None:
    await machine.enroll(api)
    api.answers["poll"].append(api.removal())

    code, _, stderr = await machine.call("run")

    assert code == 2
    assert "agent.removed" in stderr
    assert not any(
        name.startswith(("identity", "journal")) for name in os.listdir(machine.state_dir)
    )


async def test_unsigned_removal_changes_nothing(machine: Machine, api: FakeApi) -> None:
    await machine.enroll(api)
    api.answers["poll"].append(api.problem(410, ProblemType.HOST_REMOVED))
    process = await machine.start("run")
    await api.wait_for_polls(1)

    code, _, log = await stop(process)

    assert code == 0
    assert "poll.lost" in log
    assert (machine.state_dir / "identity.json").exists()


async def test_damaged_journal_stops_the_agent_with_one_line(
    machine: Machine, api: FakeApi
) -> None:
    await machine.enroll(api)
    (machine.state_dir / "journal.sqlite3").write_bytes(b"garbage" * 1000)

    code, _, stderr = await machine.call("run")

    assert code == 2
    assert "is damaged" in stderr
    assert "Traceback" not in stderr
    assert (machine.state_dir / "journal.sqlite3").read_bytes() == b"garbage" * 1000


async def wait_until_ready(fake: FakeRestic) -> None:
    await wait_for_note(fake, '"ready"')


async def wait_for_note(fake: FakeRestic, text: str) -> None:
    file = fake.folder / "calls.jsonl"
    async with asyncio.timeout(20):
        # Another process writes it, so there is no event to wait for.
        while not (file.exists() and text in file.read_text()):
            await asyncio.sleep(0.02)
