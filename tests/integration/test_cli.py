"""The command line as a process of its own, against the real API on a loopback port."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from litestar import Litestar

from backhaul.wire.jobs import LogLine, Outcome
from backhaul.wire.reports import JobFinished, JobLog, JobStarted
from backhaul.wire.tokens import TOKEN_PATTERN
from backhaul_api.services import Services
from tests.conftest import ADA_PASSWORD
from tests.fakes.clock import START
from tests.fakes.fleet import FakeAgent, add_agent, add_job

# The command line does not know which database the API has.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Output(NamedTuple):
    """What a command left."""

    code: int
    stdout: str
    stderr: str


class Cli:
    """Runs `backhaul` with a configuration folder of its own."""

    def __init__(self, url: str, config_home: Path) -> None:
        self.url = url
        self.config = config_home / "backhaul" / "config.toml"
        kept = {name: value for name, value in os.environ.items() if "BACKHAUL" not in name}
        self.environment = {**kept, "XDG_CONFIG_HOME": str(config_home)}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "backhaul", *arguments),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self.environment,
        )

    async def __call__(self, *arguments: str, input: str = "") -> Output:
        process = await self.start(*arguments)
        stdout, stderr = await process.communicate(input.encode())
        assert process.returncode is not None
        output = Output(process.returncode, stdout.decode(), stderr.decode())
        assert "Traceback" not in output.stderr
        return output

    async def get(self, *arguments: str) -> Any:
        """Run a command with --json and read what it prints."""
        output = await self(*arguments, "--json")
        assert output.code == 0, output.stderr
        return json.loads(output.stdout)


@pytest.fixture
async def url(app: Litestar) -> AsyncIterator[str]:
    """The API on a loopback port, in the loop of the test."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving
    listener.close()


@pytest.fixture
async def cli(url: str, operator: httpx.AsyncClient, tmp_path: Path) -> Cli:
    """The command line, signed in as ada."""
    cli = Cli(url, tmp_path)
    output = await cli("login", "--url", url, "--username", "ada", input=f"{ADA_PASSWORD}\n")
    assert output.code == 0, output.stderr
    return cli


@pytest.fixture
async def agent(services: Services, app: Litestar, cli: Cli) -> FakeAgent:
    """A host `web1` and a repository `nas`."""
    output = await cli("repositories", "create", "nas", "/srv/restic", input="its password\n")
    assert output.code == 0, output.stderr
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent


async def test_session_is_kept_private_and_ends_with_logout(cli: Cli) -> None:
    assert stat.S_IMODE(cli.config.stat().st_mode) == 0o600
    assert (await cli.get("whoami"))["user"]["username"] == "ada"

    assert (await cli("logout")).code == 0
    assert TOKEN_PATTERN.search(cli.config.read_text()) is None
    refused = await cli("whoami")
    assert (refused.code, refused.stdout) == (2, "")
    assert re.fullmatch(r"error: Not signed in .*\n", refused.stderr)


async def test_wrong_password_is_one_line(cli: Cli) -> None:
    output = await cli("login", "--url", cli.url, "--username", "ada", input="wrong\n")

    assert output.code == 1
    assert re.fullmatch(r"error: .* is wrong\.\n", output.stderr)


async def test_tokens_are_alone_on_stdout(cli: Cli) -> None:
    enrollment = await cli("enrollment-tokens", "create", "--quiet")
    api = await cli("tokens", "create", "ci", "--expires-in", "1d")

    assert TOKEN_PATTERN.fullmatch(enrollment.stdout.strip())
    assert TOKEN_PATTERN.fullmatch(api.stdout.strip())
    listed = await cli("tokens", "list")
    assert api.stdout.strip() not in listed.stdout
    cli.environment |= {"BACKHAUL_URL": cli.url, "BACKHAUL_TOKEN": api.stdout.strip()}
    assert (await cli.get("whoami"))["authenticated_by"] == "api_token"


async def test_fleet_is_described_changed_and_listed(cli: Cli, agent: FakeAgent) -> None:
    commands = [
        ["hosts", "label", "web1", "env=prod"],
        ["sources", "create", "etc", "--path", "/etc", "--exclude", "*.bak", "--keep-daily", "7"],
        ["sources", "update", "etc", "--tag", "system"],
        ["repositories", "update", "nas", "--name", "vault"],
    ]

    for command in commands:
        output = await cli(*command)
        assert output.code == 0, output.stderr

    assert (await cli.get("hosts", "show", "web1"))["labels"] == {"env": "prod"}
    source = (await cli.get("sources", "list"))[0]
    assert (source["tags"], source["retention"]) == (["system"], {"keep_daily": 7})
    assert (await cli.get("repositories", "show", "vault"))["location"] == "/srv/restic"
    assert [entry["action"] for entry in await cli.get("audit", "list", "--limit", "1")] == [
        "repository.update"
    ]
    assert await cli.get("snapshots", "list") == []


async def test_schedules_are_made_changed_previewed_and_deleted(cli: Cli, agent: FakeAgent) -> None:
    await cli.get("sources", "create", "etc", "--path", "/etc")
    made = await cli.get(
        *("schedules", "create", "web1", "backup", "--cron", "30 1 * * *"),
        *("--timezone", "Europe/London", "--source", "etc", "--jitter", "15m"),
    )

    changed = await cli.get(
        *("schedules", "update", made["id"], "--cron", "45 1 * * *", "--if-revision", "1")
    )

    assert (made["jitter"], made["repository"], made["revision"]) == (900, "nas", 1)
    assert (changed["cron"], changed["revision"], changed["jitter"]) == ("45 1 * * *", 2, 900)
    lost = await cli("schedules", "update", made["id"], "--disabled", "--if-revision", "1")
    assert lost.code == 1
    assert re.fullmatch(r"error: .* changed .*\n", lost.stderr)
    assert (await cli.get("schedules", "disable", made["id"]))["enabled"] is False
    assert (await cli.get("schedules", "enable", made["id"]))["enabled"] is True
    asked = ("--from", "2026-10-24T00:00:00+01:00", "--count", "60")
    at_server = await cli.get("schedules", "preview", "--schedule", made["id"], *asked)
    here = await cli.get(
        "schedules", "preview", "45 1 * * *", "--timezone", "Europe/London", *asked
    )
    assert at_server == here
    assert (await cli.get("hosts", "show", "web1"))["schedule_version"] == 4
    assert "version 4, but none is applied" in (await cli("hosts", "show", "web1")).stdout
    assert [found["id"] for found in await cli.get("schedules", "list", "web1")] == [made["id"]]
    assert (await cli("schedules", "delete", made["id"])).code == 2
    assert (await cli("schedules", "delete", made["id"], "--yes")).code == 0
    assert await cli.get("schedules", "list") == []


async def test_refused_schedule_names_the_field_and_the_remedy(cli: Cli, agent: FakeAgent) -> None:
    output = await cli("schedules", "create", "web1", "prune", "--cron", "0 2 30 2 *")

    assert output.code == 2
    assert re.fullmatch(r"error: cron: .* never fires: .*\n", output.stderr)


async def test_preview_of_an_expression_needs_no_server(cli: Cli) -> None:
    cli.environment |= {"XDG_CONFIG_HOME": "/nonexistent"}

    fires = await cli.get(
        *("schedules", "preview", "30 1 * * *", "--timezone", "Europe/London"),
        *("--from", "2026-10-24T00:00:00+01:00", "--count", "60"),
    )

    assert len(fires) == 60
    assert [fire["at"] for fire in fires if "10-25T" in fire["at"]] == ["2026-10-25T01:30:00+01:00"]


async def test_waiting_for_a_job_ends_with_its_outcome(cli: Cli, agent: FakeAgent) -> None:
    process = await cli.start("jobs", "run", "web1", "backup", "--path", "/etc", "--wait")
    assert process.stdout is not None
    first = (await process.stdout.readline()).decode()
    job_id = first.split()[1]

    line = LogLine(at=START, stream="stderr", text="cannot read /etc/shadow")
    await agent.accept(job_id)  # type: ignore[arg-type]  # text of an id serves as well
    await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))  # type: ignore[arg-type]
    await agent.send(
        JobLog(job_id=job_id, attempt=1, seq=0, lines=(line,)),  # type: ignore[arg-type]
        JobFinished(
            job_id=job_id,  # type: ignore[arg-type]
            attempt=1,
            at=START,
            outcome=Outcome.INCOMPLETE,
            log_lines=1,
            exit_code=3,
            message="1 file was not read.",
        ),
    )
    stdout, _ = await process.communicate()

    assert process.returncode == 3
    assert stdout.decode().splitlines()[-1].endswith("incomplete in 0.0 s: 1 file was not read.")
    assert (await cli("jobs", "wait", job_id)).code == 3
    assert "stderr: cannot read /etc/shadow" in (await cli("jobs", "log", "-f", job_id)).stdout
    assert [job["state"] for job in await cli.get("jobs", "list", "--host", "web1")] == [
        "incomplete"
    ]


async def test_interrupt_leaves_the_job_and_says_so(
    cli: Cli, agent: FakeAgent, operator: httpx.AsyncClient
) -> None:
    job_id = await add_job(operator)
    process = await cli.start("jobs", "wait", str(job_id))
    assert process.stdout is not None
    await process.stdout.readline()  # its first line says that it waits

    process.send_signal(signal.SIGINT)
    _, stderr = await process.communicate()

    assert process.returncode == 130
    assert f"backhaul jobs wait {job_id}" in stderr.decode()
    assert (await cli.get("jobs", "show", str(job_id)))["state"] == "queued"


async def test_refused_field_is_named_and_exits_2(cli: Cli, agent: FakeAgent) -> None:
    output = await cli("jobs", "run", "web1", "backup", "--path", "etc")

    assert output.code == 2
    assert re.fullmatch(r"error: .*paths.*\n", output.stderr)


async def test_colour_is_for_terminals_that_want_it(cli: Cli, agent: FakeAgent) -> None:
    assert "\x1b" not in (await cli("hosts", "list")).stdout
    assert "\x1b[" in await _run_on_terminal(cli, "hosts", "list")
    cli.environment["NO_COLOR"] = "1"
    assert not re.search(r"\x1b\[[0-9;]*3\dm", await _run_on_terminal(cli, "hosts", "list"))


async def _run_on_terminal(cli: Cli, *arguments: str) -> str:
    """Run a command whose output goes to a pseudo-terminal."""
    ours, theirs = os.openpty()
    environment = {**cli.environment, "TERM": "xterm-256color", "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "backhaul", *arguments), stdout=theirs, env=environment
    )
    os.close(theirs)
    assert await process.wait() == 0
    shown = os.read(ours, 65_536)
    os.close(ours)
    return shown.decode()
