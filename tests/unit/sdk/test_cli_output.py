"""Lists as tables, as wide tables, as JSON; and what a shell is told to complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import respx
from typer.testing import CliRunner

from backhaul.cli import output
from backhaul.cli.app import app
from backhaul.wire.jobs import JobState
from tests.unit.sdk.builders import (
    HOST_ID,
    JOB_ID,
    NOW,
    URL,
    build_host,
    build_job,
    build_repository,
    build_schedule,
    page,
    reply,
)
from tests.unit.sdk.command_line import Cli
from tests.unit.sdk.test_html import SNAPSHOT, SOURCE, THINGS

LISTS = {
    "hosts": build_host(),
    "jobs": build_job(message="it ended so"),
    "schedules": build_schedule(),
    "sources": SOURCE,
    "repositories": build_repository(),
    "snapshots": SNAPSHOT,
    "users": THINGS["users"],
    "tokens": THINGS["api_tokens"],
    "enrollment-tokens": THINGS["enrollment_tokens"],
    "audit": THINGS["audit"],
}
PATHS = {"tokens": "api-tokens"}


@pytest.fixture
def server() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=URL) as router:
        yield router


@pytest.mark.parametrize("noun", LISTS)
def test_wide_list_has_more_columns_and_json_is_json(
    cli: Cli, server: respx.MockRouter, noun: str
) -> None:
    server.get(f"/v1/{PATHS.get(noun, noun)}").mock(return_value=page(LISTS[noun]))

    narrow, wide = cli(noun, "list"), cli(noun, "list", "-o", "wide")
    as_json = cli(noun, "list", "--output", "json")

    heading, more = narrow.stdout.splitlines()[0], wide.stdout.splitlines()[0]
    assert len(more.split()) > len(heading.split())
    assert as_json.stdout == cli(noun, "list", "--json").stdout
    assert len(json.loads(as_json.stdout)) == 1


def test_wide_list_of_hosts_has_their_ids(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/hosts").mock(return_value=page(build_host()))
    server.get("/v1/jobs").mock(return_value=page(build_job(message="it ended so")))

    assert str(HOST_ID) in cli("hosts", "list", "-o", "wide").stdout
    assert "it ended so" in cli("jobs", "list", "-o", "wide").stdout
    assert str(JOB_ID) in cli("jobs", "list").stdout


@pytest.fixture
def terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    cli.environment["TERM"] = "dumb"
    return cli


@pytest.mark.parametrize("noun", ["hosts", "jobs", "schedules", "snapshots"])
def test_terminal_of_80_columns_breaks_no_word(
    terminal: Cli, server: respx.MockRouter, noun: str
) -> None:
    server.get(f"/v1/{noun}").mock(return_value=page(LISTS[noun]))
    terminal.environment["COLUMNS"] = "500"
    whole = set(terminal(noun, "list").stdout.split())

    terminal.environment["COLUMNS"] = "80"
    lines = terminal(noun, "list").stdout.splitlines()

    assert set(" ".join(lines).split()) <= whole
    assert max(len(line.rstrip()) for line in lines) <= 80


@pytest.mark.parametrize("columns", [5, 20, 36, 60])
def test_narrow_terminal_cuts_no_id(terminal: Cli, server: respx.MockRouter, columns: int) -> None:
    server.get("/v1/jobs").mock(return_value=page(build_job()))
    terminal.environment["COLUMNS"] = str(columns)

    assert str(JOB_ID) in terminal("jobs", "list").stdout


def test_column_that_can_be_broken_gives_way_first(terminal: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/jobs").mock(return_value=page(build_job(message="it ended so " * 40)))
    terminal.environment["COLUMNS"] = "200"

    lines = terminal("jobs", "list", "-o", "wide").stdout.splitlines()

    assert "REPOSITORY" in lines[0]
    assert max(len(line.rstrip()) for line in lines) <= 200


@pytest.mark.skipif(os.name != "posix", reason="closes file descriptors as a shell does")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    command = f'exec "$0" -m backhaul schedules preview "0 2 * * *" {closed}'

    result = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, check=False)

    assert (result.returncode, result.stderr) == (0, b"")


def test_closed_streams_keep_the_exit_code() -> None:
    command = 'exec "$0" -m backhaul schedules preview "0 2" >&- 2>&-'

    assert subprocess.run(["sh", "-c", command, sys.executable], check=False).returncode == 2


def test_what_the_locale_cannot_write_is_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    script = (
        "from backhaul.cli.streams import prepare_streams; prepare_streams();"
        "from backhaul.cli.output import say; say('gr\u00f6\u00dfe \u2603')"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, env=environment
    )

    assert (result.stdout, result.stderr) == ("gr\u00f6\u00dfe \\u2603\n".encode("latin-1"), b"")


def test_form_that_is_none_is_refused(cli: Cli) -> None:
    result = cli("hosts", "list", "-o", "yaml")

    assert result.exit_code == 2
    assert "wide" in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [("backhaul ", "hosts"), ("backhaul hosts ", "rename"), ("backhaul jobs list --s", "--state")],
)
def test_shell_completes_nouns_verbs_and_options(words: str, expected: str) -> None:
    environment = {
        "_BACKHAUL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }

    result = CliRunner(env=environment).invoke(app, [], prog_name="backhaul")

    assert expected in result.stdout.split()


def test_cancel_says_whether_the_host_is_yet_to_end_it(cli: Cli, server: respx.MockRouter) -> None:
    asked = build_job(JobState.RUNNING, cancel_requested_at=NOW)
    route = server.post(f"/v1/jobs/{JOB_ID}/cancel")
    lost = build_job(JobState.LOST, cancel_requested_at=NOW)
    route.mock(side_effect=map(reply, (asked, lost, build_job(JobState.CANCELLED))))

    assert "web-1 is asked to end" in cli("jobs", "cancel", str(JOB_ID)).stdout
    assert "when it comes back" in cli("jobs", "cancel", str(JOB_ID)).stdout
    assert cli("jobs", "cancel", str(JOB_ID), "-q").stdout == "cancelled\n"
