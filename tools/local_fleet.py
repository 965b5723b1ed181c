"""A control plane and one host on this machine: real processes, all of it in one folder.

The demo and the system tests are built on it. It keeps every secret that it made or was told, so
that afterwards somebody can look for them where they must not be.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import backhaul
from backhaul.wire.accounts import CreateApiToken, CreateEnrollmentToken
from backhaul.wire.fleet import CreateRepository
from backhaul.wire.jobs import Job
from backhaul.wire.kinds import InitRequest, JobRequest
from tools.children import BACKHAUL, Child, build_environment
from tools.leaks import require_no_secrets

HOST = "demo-host"
REPOSITORY = "demo"
JOB_LIMIT_S = 300.0


class CommandFailedError(Exception):
    """A command of the command line ended with an error; the message is the one that it gave."""


def name_restic() -> str:
    """Name the restic to use: what BACKHAUL_TEST_RESTIC says, or the one on PATH."""
    return os.environ.get("BACKHAUL_TEST_RESTIC", "restic")


class LocalFleet:
    """The API on SQLite and a free port, and an agent, once they were started."""

    client: backhaul.Client
    api: Child
    agent: Child

    def __init__(self, folder: Path, *, host: str = HOST, repository: str = REPOSITORY) -> None:
        self.folder = folder
        self.host_name = host
        self.repository_name = repository
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.state = folder / "agent"
        self.repository = folder / "repository"
        self.environment = build_environment(folder, BACKHAUL_AGENT_RESTIC=name_restic())
        self.secrets: dict[str, str] = {}
        self.agents: dict[str, Child] = {}
        """Of the hosts besides the first one, by their names."""
        self._children: list[Child] = []

    def start_api(self) -> None:
        """Start the API, sign in as its first operator, and let the command line in as well."""
        self.api = self._start("api", "serve", "--data-dir", str(self.folder / "api"), "--port=0")
        self._sign_in(self.api.wait_for_output(r"Backhaul API on (\S+)"), self.api)

    def _sign_in(self, url: str, api: Child) -> None:
        """Become the first operator, with the setup token that an instance has printed."""
        self.secrets["setup token"] = api.wait_for_output(r"Setup token \(use once\): (\S+)")
        # Whoever runs `backhaul serve` reads the token on the terminal; here it went to a file.
        api.redact_output()
        self.secrets["operator's password"] = secrets.token_urlsafe(24)
        self.client = backhaul.Client(url)
        session = self.client.bootstrap(
            setup_token=self.secrets["setup token"],
            username="demo",
            password=self.secrets["operator's password"],
        )
        self.secrets["session token"] = session.token
        self._prepare_cli(url)

    def _prepare_cli(self, url: str) -> None:
        token = self.client.create_api_token(CreateApiToken(name="demo")).token
        self.secrets["API token"] = token
        token_file = self.folder / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        self.environment |= {"BACKHAUL_URL": url, "BACKHAUL_TOKEN_FILE": str(token_file)}

    def enrol_host(self) -> None:
        """Let this machine join."""
        self._enrol(self.host_name, "--state-dir", str(self.state))

    def start_agent(self) -> None:
        self.agent = self._start("agent", "agent", "run", "--state-dir", str(self.state))

    def enrol(self, host: str) -> None:
        """Let this machine join once more, as a host of that name."""
        self._enrol(host, *self._state_of(host))

    def start_agent_of(self, host: str) -> None:
        self.agents[host] = self._start(host, "agent", "run", *self._state_of(host))

    def _enrol(self, host: str, *state: str) -> None:
        made = self.client.create_enrollment_token(CreateEnrollmentToken(host_name=host))
        self.secrets[f"enrollment token of {host}"] = made.token
        server = ("--server", self.client.url)
        self.run_cli("agent", "enroll", *server, *state, typed=made.token)

    def _state_of(self, host: str) -> tuple[str, str]:
        return "--state-dir", str(self.folder / f"agent-{host}")

    def create_repository(self) -> Job:
        """Record a repository and create it. Gives the job that did."""
        password = secrets.token_urlsafe(32)
        self.secrets["repository password"] = password
        self.client.create_repository(
            CreateRepository(
                name=self.repository_name, location=str(self.repository), password=password
            )
        )
        return self.run_job(InitRequest(host=self.host_name, repository=self.repository_name))

    def run_job(self, request: JobRequest) -> Job:
        """Run a job to its end, whatever that is."""
        job = self.client.create_job(request)
        return self.client.wait_for_job(job.id, timeout=JOB_LIMIT_S)

    def run_cli(self, *arguments: str, typed: str = "") -> str:
        """Run one command; gives what it printed.

        Raises:
            CommandFailedError: it ended with an error.
        """
        run = subprocess.run(
            [str(BACKHAUL), *arguments],
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CommandFailedError(f"backhaul {' '.join(arguments[:2])}: {reason}")
        return run.stdout

    def look_for_leaks(self) -> int:
        """Require that no secret stands where it must not. Gives how many files there were.

        Raises:
            SecretLeakedError: names the secret and the file.
        """
        places = [self.folder / "api", self.state, self.logs]
        return require_no_secrets(places, self.secrets, credentials=self.state / "identity.json")

    def stop(self) -> None:
        """Stop the agent, then the API, and let go of the connection."""
        for child in reversed(self._children):
            child.stop(signal.SIGTERM)
        if hasattr(self, "client"):
            self.client.close()

    def remove(self) -> None:
        """Stop everything and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.folder)

    def remove_all_but_logs(self) -> None:
        """Leave what helps to find out what went wrong; it holds no secrets."""
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry != self.logs:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.is_file():
                entry.unlink()

    def pids(self) -> list[int]:
        """Give the processes to end, in the order in which to end them."""
        return [child.pid for child in reversed(self._children)]

    def restic(self, *arguments: str) -> str:
        """Run restic itself on the repository; gives what it printed."""
        environment = os.environ | {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": self.secrets["repository password"],
            "RESTIC_CACHE_DIR": str(self.folder / "cache"),
        }
        command = [name_restic(), "--no-lock", *arguments]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return run.stdout

    def _start(
        self, name: str, *arguments: str, program: Sequence[str] = (str(BACKHAUL),)
    ) -> Child:
        command = [*program, *arguments]
        child = Child(name, command, logs=self.logs, environment=self.environment)
        self._children.append(child)
        return child
