"""The README's walk by hand, done to the letter: its own commands, run against a real server."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import stop_for_missing
from tests.house.modules import ROOT
from tools.children import BACKHAUL, Child, build_environment

LIMIT_S = 100
DEFAULT_ADDRESS = "http://127.0.0.1:8440"


def _section(title: str) -> str:
    readme = (ROOT / "README.md").read_text()
    return readme.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _section("By hand with curl"), re.DOTALL)


def _commands() -> list[list[str]]:
    """Give the commands that run in terminals of their own, as the README writes them."""
    return [shlex.split(block.removeprefix("$ ")) for block in _blocks("console")]


@pytest.fixture
def environment(restic: str, tmp_path: Path) -> dict[str, str]:
    if shutil.which("curl") is None:
        stop_for_missing("curl")
    found = build_environment(tmp_path, HOME=str(tmp_path))
    return found | {"PATH": f"{BACKHAUL.parent}:{found['PATH']}"}


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[Child]:
    """Start what the README starts in the first terminal, on a free port."""
    command = [*_commands()[0], "--port", "0"]
    child = _start("api", command, tmp_path, environment)
    yield child
    child.stop(signal.SIGTERM)


def _start(name: str, command: list[str], folder: Path, environment: dict[str, str]) -> Child:
    command = [str(BACKHAUL), *command[1:]]
    return Child(name, command, logs=folder, environment=environment, folder=folder)


def test_the_walk_by_hand_ends_in_a_snapshot(
    server: Child, environment: dict[str, str], tmp_path: Path
) -> None:
    url = server.wait_for_output(r"Backhaul API on (\S+)")
    setup_token = server.wait_for_output(r"Setup token \(use once\): (\S+)")
    script = "set -eu\n" + "".join(_blocks("sh"))
    assert DEFAULT_ADDRESS in script
    (tmp_path / "walk.sh").write_text(script.replace(DEFAULT_ADDRESS, url))

    with (tmp_path / "walk.out").open("w+") as output:
        walk = subprocess.Popen(
            ["bash", "walk.sh"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert walk.stdin is not None
        walk.stdin.write(f"{setup_token}\n")
        walk.stdin.close()
        _wait_for_file(tmp_path / "backhaul-agent" / "identity.json", walk)
        agent = _start("agent", _commands()[1], tmp_path, environment)
        try:
            code = walk.wait(LIMIT_S)
        finally:
            agent.stop(signal.SIGTERM)
            walk.kill()
            walk.wait()
    printed = (tmp_path / "walk.out").read_text()

    assert code == 0, printed
    assert '"username":"ada"' in printed
    assert '"state":"succeeded"' in printed
    assert "$ restic backup --json" in printed
    assert f'"paths":["{tmp_path}/documents"]' in printed


def _wait_for_file(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def test_the_readme_names_only_commands_that_exist(environment: dict[str, str]) -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^\$ backhaul ([a-z-]+)(?: ([a-z]+))?", readme, re.MULTILINE))
    assert len(named) > 8

    for group, command in sorted(named):
        words = [word for word in (group, command) if word]
        run = subprocess.run(
            [str(BACKHAUL), *words, "--help"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, (words, run.stderr)
