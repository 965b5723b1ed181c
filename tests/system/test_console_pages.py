"""The commands of README and docs (cli, agent, server), run one after the other."""

from __future__ import annotations

import configparser
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from backhaul_agent.settings import load_settings
from tests.house.modules import ROOT
from tools.children import BACKHAUL, Child, build_environment

LIMIT_S = 60
PASSWORD = "correct horse battery"
ADDRESSES = ("http://127.0.0.1:8440", "https://backhaul.example.com")


def _read(page: str, *titles: str) -> str:
    text = (ROOT / page).read_text()
    if not titles:
        return text
    return "".join(text.partition(f"\n## {title}\n")[2].partition("\n## ")[0] for title in titles)


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _commands(text: str) -> list[str]:
    lines = [line for block in _blocks(text, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


class Walk:
    """A reader who types what the pages say, and knows what they leave to a reader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = build_environment(
            folder, HOME=str(folder), BACKHAUL_AGENT_STATE_DIR=str(folder / "state-1")
        )
        self.url = ""
        self._places = {
            "REVISION": "0003",
            "sftp:backup@nas:/srv/restic": str(folder / "repository"),
            "/var/restore": str(folder / "restored"),
            "/var/lib/backhaul": str(folder / "server"),
        }
        self.typed: list[str] = []
        self.ran = 0
        self._children: list[Child] = []

    def run(self, command: str) -> None:
        words = [self._fill_in(word) for word in shlex.split(command)]
        self.ran += 1
        match words:
            case ["pip", "install", what]:
                self._check_extra(what)
            case ["make", target, *_]:
                assert f"\n{target}: ##" in (ROOT / "Makefile").read_text()
            case ["backhaul", "serve", *_]:
                self._serve(words)
            case ["backhaul", "agent", "run", *_]:
                self._start("agent", words)
            case ["backhaul", "events", "-f"]:
                self._follow(words)
            case ["backhaul", *_]:
                self._run(words)
            case _:
                raise AssertionError(f"nobody runs this: {command}")

    def stop(self) -> None:
        for child in reversed(self._children):
            child.stop(signal.SIGTERM)
        self._children.clear()

    def _fill_in(self, word: str) -> str:
        for address in ADDRESSES:
            word = word.replace(address, self.url or address)
        match word:
            case "JOB":
                return self._first("jobs", "list")
            case "OTHER":
                return self._run(["backhaul", "snapshots", "list", "--quiet"]).splitlines()[-1]
            case "SNAPSHOT":
                return self._first("snapshots", "list")
            case _:
                return self._places.get(word, word)

    def _first(self, *words: str) -> str:
        return self._run(["backhaul", *words, "--quiet"]).splitlines()[0]

    def _run(self, words: list[str]) -> str:
        done = subprocess.run(
            [str(BACKHAUL), *words[1:]],
            cwd=self.folder,
            env=self.environment,
            input=self._type(words),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        # 3: somebody who is not root leaves a part of /etc out.
        assert done.returncode in {0, 3}, f"{shlex.join(words)}: {done.stderr}"
        if words[1:3] == ["enrollment-tokens", "create"]:
            self.typed.append(done.stdout.strip())
        return done.stdout

    def _type(self, words: list[str]) -> str:
        """What the command asks for."""
        match words[1:3]:
            case ["bootstrap", _]:
                return f"{self.typed.pop()}\n{PASSWORD}\n"
            case ["agent", "enroll"]:
                if not self.typed:
                    self._run(["backhaul", "enrollment-tokens", "create"])
                return f"{self.typed.pop()}\n"
            case ["login", _] | ["repositories", "create"]:
                return f"{PASSWORD}\n"
            case _:
                return ""

    def _serve(self, words: list[str]) -> None:
        child = self._start("api", [*words, "--port", "0"])
        self.url = child.wait_for_output(r"Backhaul API on (\S+)")
        self.typed.append(child.wait_for_output(r"Setup token \(use once\): (\S+)"))

    def _start(self, name: str, words: list[str]) -> Child:
        child = Child(
            f"{name}-{self.ran}",
            [str(BACKHAUL), *words[1:]],
            logs=self.folder,
            environment=self.environment,
            folder=self.folder,
        )
        self._children.append(child)
        return child

    def _follow(self, words: list[str]) -> None:
        child = self._start("events", words)
        child.wait_for_output(r"(job\.succeeded)")
        child.process.send_signal(signal.SIGINT)
        assert child.process.wait(LIMIT_S) == 130

    def _check_extra(self, what: str) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = re.fullmatch(r"\.(?:\[(\w+)\])?", what)
        assert named, what
        assert named[1] is None or named[1] in extras["optional-dependencies"]


@pytest.fixture
def walk(restic: str, tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(tmp_path)
    yield walk
    walk.stop()


@pytest.mark.timeout(300)
def test_commands_of_the_pages_work_in_the_order_of_reading(walk: Walk) -> None:
    readme = _read("README.md", "Two commands", "The command line", "Schedules")
    for command in (*_commands(readme), *_commands(_read("docs/cli.md"))):
        walk.run(command)
    walk.environment["BACKHAUL_AGENT_STATE_DIR"] = str(walk.folder / "state-2")
    agent_page = _commands(_read("docs/agent.md"))
    for command in agent_page:
        walk.run(command.replace("web-1", "web-2"))
    walk.stop()
    walk.environment["BACKHAUL_API_DATA_DIR"] = str(walk.folder / "server")
    for command in _commands(_read("docs/server.md")):
        if command.startswith("backhaul db"):
            walk.stop()
        walk.run(command)

    assert walk.ran > 45
    assert len(agent_page) == 4


def test_settings_of_the_page_are_some(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("".join(_blocks(_read("docs/agent.md"), "toml")))

    settings = load_settings({}, file=file)

    assert settings.policy.browse is False
    assert settings.policy.restore_in_place is False
    assert settings.policy.environment == ("RESTIC_FEATURES",)
    assert settings.dumps["postgres"].file_name == "postgres.sql"


def test_unit_of_the_page_starts_the_agent() -> None:
    (shown,) = _blocks(_read("docs/agent.md"), "ini")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd minds the case

    unit.read_string(shown)

    assert unit["Service"]["ExecStart"].endswith("/backhaul agent run")
    assert unit["Service"]["KillMode"] == "mixed"
    assert unit["Install"]["WantedBy"] == "multi-user.target"
