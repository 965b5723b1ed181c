"""Commands as a test runs them: in this process, with an environment of their own."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from backhaul.cli.app import app
from tests.unit.sdk.builders import TOKEN, URL


class Cli:
    """Runs commands, and sees that no command ever prints the token that it works with."""

    def __init__(self, config_home: Path) -> None:
        self.config = config_home / "backhaul" / "config.toml"
        self.environment: dict[str, str | None] = {
            "XDG_CONFIG_HOME": str(config_home),
            "BACKHAUL_URL": URL,
            "BACKHAUL_TOKEN": TOKEN,
            "BACKHAUL_TOKEN_FILE": None,
            "BACKHAUL_PROFILE": None,
            "BACKHAUL_CA_FILE": None,
            "BACKHAUL_DEBUG": None,
        }

    def __call__(self, *arguments: str, input: str = "") -> Result:
        result = CliRunner(env=self.environment).invoke(app, list(arguments), input=input)
        assert TOKEN not in result.output
        assert "Traceback" not in result.output
        return result


def assert_one_line(result: Result, *, exit_code: int) -> str:
    """See that a command said what is wrong in one line, and give the line."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr
