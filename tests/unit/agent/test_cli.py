"""How `backhaul agent` ends when something fails, foreseen or not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backhaul.wire.tokens import TokenKind, build_token
from backhaul_agent import cli
from backhaul_agent.errors import StateFileError
from backhaul_agent.identity import save_identity
from tests.unit.agent.hosts import build_identity


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what `run` does to a process that it has for itself."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def run(monkeypatch: pytest.MonkeyPatch, state_dir: Path, error: Exception) -> tuple[int, str]:
    async def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run_agent", fail)
    save_identity(state_dir, build_identity())
    done = CliRunner().invoke(cli.agent, ["run", "--state-dir", str(state_dir)])
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    "error",
    [OverflowError("of a date"), ExceptionGroup("loops", [OverflowError("of a date")])],
    ids=["alone", "from a loop"],
)
def test_unforeseen_end_is_logged_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, state_dir: Path, error: Exception
) -> None:
    code, stderr = run(monkeypatch, state_dir, error)

    line = json.loads(stderr.splitlines()[-1])
    assert code == 1
    assert (line["level"], line["event"]) == ("critical", "agent.died")
    assert "Traceback" in line["exception"]
    assert "OverflowError: of a date" in line["exception"]


def test_error_in_a_loop_of_loops_is_one_line(
    monkeypatch: pytest.MonkeyPatch, state_dir: Path
) -> None:
    error = ExceptionGroup("agent", [ExceptionGroup("loops", [StateFileError("disk full")])])

    code, stderr = run(monkeypatch, state_dir, error)

    assert (code, stderr) == (1, "backhaul agent: disk full\n")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--name", "\udcff"),
        ("--label", "a=\udcff"),
        ("--label", "\udcff=a"),
        ("--server", "http://127.0.0.1:1/\udcff"),
        ("--ca-file", "/etc/\udcff.pem"),
    ],
)
def test_option_that_is_no_utf8_is_refused_by_name(tmp_path: Path, option: str, value: str) -> None:
    arguments = ["enroll", "--server", "http://127.0.0.1:1", "--state-dir", str(tmp_path / "s")]

    done = CliRunner().invoke(
        cli.agent, [*arguments, option, value], input=build_token(TokenKind.ENROLLMENT)
    )

    assert (done.exit_code, done.stderr) == (2, f"backhaul agent: {option} must be UTF-8\n")
    assert list(tmp_path.iterdir()) == []
