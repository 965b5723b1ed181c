"""The commands of docs/functions.md, and the one that the image of deploy/container starts."""

from __future__ import annotations

import json
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.house.modules import ROOT
from tools.children import Child, build_environment

PAGE = ROOT / "docs" / "functions.md"
PASSWORD = "correct horse battery"
LIMIT_S = 60


class Walk:
    """A reader who types what the page says, with the settings that it names."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        (folder / "password").write_text(f"{PASSWORD}\n")
        programs = Path(sys.executable).parent
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.token = secrets.token_urlsafe(32)
        self.environment = build_environment(
            folder,
            PATH=f"{programs}:/usr/local/bin:/usr/bin:/bin",
            BACKHAUL_API_DATABASE_URL=database_url,
            BACKHAUL_API_KEY_FILE=str(folder / "secret.key"),
            BACKHAUL_API_TICK_TOKEN=self.token,
            BACKHAUL_URL=f"http://127.0.0.1:{self.port}",
            BACKHAUL_TICK_TOKEN=self.token,
            PORT=str(self.port),
        )
        self.server: Child | None = None

    def type(self, command: str) -> str:
        if command.startswith("uvicorn "):
            self.serve(["sh", "-c", "exec " + command.replace("8440", str(self.port))])
            return ""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def serve(self, command: list[str]) -> None:
        self.server = Child(
            "server", command, logs=self.folder, environment=self.environment, folder=self.folder
        )
        self.server.wait_for_error(r"(Application startup complete|application\.startup)")

    def ask(self, path: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.get(url, trust_env=False, timeout=LIMIT_S)

    def stop(self) -> int:
        assert self.server is not None
        return self.server.stop(signal.SIGTERM)


@pytest.fixture
def walk(tmp_path: Path, empty_database_url: str) -> Iterator[Walk]:
    walk = Walk(tmp_path, empty_database_url)
    yield walk
    if walk.server is not None:
        walk.stop()


def _commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_every_command_of_the_page_does_what_it_says(walk: Walk) -> None:
    said = [walk.type(command) for command in _commands()]

    assert "jobs expired" in said[-1]
    assert walk.ask("/health/ready").status_code == 200
    login = httpx.post(
        f"http://127.0.0.1:{walk.port}/v1/login",
        json={"username": "ada", "password": PASSWORD},
        trust_env=False,
        timeout=LIMIT_S,
    )
    assert login.status_code == 201, login.text
    assert walk.stop() in {0, -signal.SIGTERM}


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_what_the_image_starts_refuses_a_database_that_is_behind_and_serves_it_later(
    walk: Walk,
) -> None:
    (line,) = re.findall(r"^CMD (.*)$", (ROOT / "deploy/container/Dockerfile").read_text(), re.M)
    start: list[str] = json.loads(line)
    make_key, upgrade, *_ = _commands()

    walk.type(make_key)
    refused = subprocess.run(
        start,
        env=walk.environment,
        cwd=walk.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    walk.type(upgrade)
    walk.serve(start)

    assert refused.returncode == 3
    assert "backhaul db upgrade" in refused.stderr
    assert walk.ask("/health/ready").status_code == 200
    assert walk.stop() in {0, -signal.SIGTERM}
