"""The commands against scripted answers: what is printed, where, and the exit code."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import respx
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from backhaul.cli import app as root
from backhaul.cli import prompts
from backhaul.cli.app import COMMANDS, PLUGINS, app, build_root
from backhaul.display import render_moment
from backhaul.settings import Profile, config_path, save_profile
from backhaul.wire.accounts import EnrollmentToken, NewEnrollmentToken
from backhaul.wire.fleet import (
    HostState,
    LastCheck,
    PasswordChange,
    RepositoryLock,
    RepositorySize,
    ScheduleDrift,
    StartedPasswordChange,
)
from backhaul.wire.jobs import FailureClass, JobState, Obstacle, Progress
from backhaul.wire.kinds import (
    BackupArguments,
    BackupResult,
    CheckResult,
    CopyResult,
    DiffChange,
    DiffCounts,
    DiffResult,
    DrillArguments,
    DrillResult,
    ForgetArguments,
    ForgetResult,
    JobKind,
    PasswdStep,
    PruneResult,
    RestoreResult,
    Retention,
    UnlockResult,
)
from backhaul.wire.kinds import Result as JobResult
from backhaul.wire.problems import FieldError, ProblemType
from backhaul.wire.schedules import EntryError
from backhaul.wire.tokens import TokenKind, build_token
from tests.unit.sdk.builders import (
    HOST_ID,
    JOB_ID,
    NOW,
    SCHEDULE_ID,
    TOKEN,
    URL,
    build_host,
    build_job,
    build_log_page,
    build_repository,
    build_session,
    page,
    refuse,
    reply,
)
from tests.unit.sdk.command_line import Cli, assert_one_line

PASSWORD = "correct horse battery"
ENROLLMENT_TOKEN = build_token(TokenKind.ENROLLMENT)


def _walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(command, TyperGroup):
        yield path, command
        return
    names = COMMANDS if not path else command.commands
    for name in names:
        yield from _walk(command.get_command(typer.Context(command), name), (*path, name))


LEAVES = list(_walk(build_root(app)))


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_command_speaks_json_has_quiet_and_says_what_it_does(
    path: tuple[str, ...], command: Any
) -> None:
    options = {option for parameter in command.params for option in parameter.opts}

    assert {"--json", "--quiet"} <= options
    assert command.help


def test_help_lists_every_command_without_loading_the_plugins(cli: Cli) -> None:
    result = cli("--help")

    assert result.exit_code == 0
    for _, help_line in (*COMMANDS.values(), *PLUGINS.values()):
        assert help_line in result.stdout


def test_bare_command_shows_the_help(cli: Cli) -> None:
    result = cli()

    assert (result.exit_code, result.stdout) == (0, cli("--help").stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["hosts"],
        ["hosts", "list", "--nonsense"],
        ["hosts", "show"],
        ["jobs", "show", "not-an-id"],
        ["jobs", "run", "web-1", "drill", "--max-bytes", "2X"],
        ["jobs", "run", "web-1", "nonsense"],
        ["jobs", "run", "web-1", "backup"],
        ["jobs", "run", "web-1", "backup", "--path", "/etc", "--nice", "20"],
        ["jobs", "run", "web-1", "backup", "--path", "/etc", "--compression", "zstd"],
        ["jobs", "run", "web-1", "backup", "--path", "/etc", "--limit-upload", "0"],
        ["jobs", "run", "web-1", "restore", "--snapshot", "latest"],
        ["jobs", "run", "web-1", "init", "--path", "/etc"],
        ["jobs", "run", "web-1", "restore", "--source", "etc"],
        ["jobs", "run", "web-1", "forget"],
        ["jobs", "run", "web-1", "drill", "--files", "0"],
        ["jobs", "run", "web-1", "diff", "--snapshot", "0a1b2c3d"],
        ["jobs", "run", "web-1", "prune", "--read-data", "1/7"],
        ["hosts", "label", "web-1", "nonsense"],
        ["hosts", "remove", "web-1"],
        ["enrollment-tokens", "create", "--expires-in", "soon"],
        ["repositories", "create", "nas", "/srv", "--env", "AWS_SECRET_ACCESS_KEY=hunter2"],
        ["repositories", "create", "nas", "rest:https://u:hunter2@nas/x"],
        ["repositories", "create", "nas", "rest:https://u:123/hunter2@nas/x"],
        ["repositories", "create", "nas", "sftp:u:hunter2@nas:/x"],
        ["repositories", "create", "nas", "rest:https://nas/x?token=hunter2"],
        ["repositories", "update", "nas", "--location", "rclone::s3,key='hunter2':x"],
        ["repositories", "create", "nas"],
        ["repositories", "update", "nas"],
        ["repositories", "update", "nas", "--admin-location", "rest:https://u:hunter2@nas/x"],
        ["repositories", "update", "nas", "--clear-admin", "--admin-env", "HOME"],
        ["repositories", "update", "nas", "--clear-upkeep-host", "--upkeep-host", "web-1"],
        ["repositories", "passwd", "nas"],
        ["repositories", "passwd", "nas", "--again", "--give-up"],
        ["repositories", "passwd", "nas", "--generate", "--again"],
        ["repositories", "passwd", "nas", "--show"],
        ["repositories", "passwd", "nas", "--force"],
        ["sources", "create", "etc"],
        ["sources", "update", "etc", "--clear", "paths"],
        ["login", "--username", "ada"],
        ["login"],
        ["bootstrap"],
        ["--profile", "nowhere", "hosts", "list"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_2(cli: Cli, arguments: list[str]) -> None:
    line = assert_one_line(cli(*arguments), exit_code=2)

    assert "hunter2" not in line


@pytest.mark.parametrize(
    "arguments", [["jobs", "show", "web-1"], ["jobs", "list", "--schedule", "x"]], ids=" ".join
)
def test_what_is_no_id_is_told_so(cli: Cli, arguments: list[str]) -> None:
    line = assert_one_line(cli(*arguments), exit_code=2)

    assert ": not an id, which is a UUID. See" in line


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("host", ["hosts", "show", "web\udcff"]),
        ("label", ["hosts", "list", "--label", "a\udcff=b"]),
        ("host", ["jobs", "list", "--host", "\udcff"]),
        ("paths[0]", ["sources", "create", "etc", "--path", "/b\udcfcro"]),
        (
            "retention.keep_within",
            ["sources", "create", "etc", "--path", "/etc", "--keep-within", "\udcff"],
        ),
    ],
)
def test_what_is_not_utf8_is_bad_input(cli: Cli, field: str, arguments: list[str]) -> None:
    line = assert_one_line(cli(*arguments), exit_code=2)

    assert line == f"error: {field}: must be UTF-8\n"


def test_name_that_is_too_long_for_an_address_is_bad_input(cli: Cli) -> None:
    line = assert_one_line(cli("hosts", "show", "a" * 66_000), exit_code=2)

    assert line == "error: host: is too long for a name or an id\n"


@pytest.mark.parametrize(
    "arguments", [["--profile", "a" * 66_000, "whoami"], ["jobs", "show", "a" * 66_000]]
)
def test_line_repeats_no_more_of_a_long_name_than_shows_which(
    cli: Cli, arguments: list[str]
) -> None:
    line = assert_one_line(cli(*arguments), exit_code=2)

    assert len(line) < 1000


def test_job_shows_its_limits_in_their_units(cli: Cli, server: respx.MockRouter) -> None:
    drill = DrillArguments(snapshot="latest", files=5, max_bytes=2**30)
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(build_job(arguments=drill)))

    assert re.search(r"^max bytes +1\.0 GiB$", cli("jobs", "show", str(JOB_ID)).stdout, re.M)


def test_mistyped_command_gets_a_suggestion(cli: Cli) -> None:
    assert "Did you mean 'hosts'?" in cli("host").stderr


def test_nothing_configured_says_what_to_do(signed_out: Cli) -> None:
    line = assert_one_line(signed_out("hosts", "list"), exit_code=2)

    assert "backhaul login" in line


@pytest.mark.parametrize(
    ("answer", "exit_code", "words"),
    [
        (refuse(401, detail="The session has ended."), 1, "has ended. Sign in with `backhaul"),
        (refuse(403, detail="Not yours."), 1, "Not yours."),
        (refuse(404, detail="There is no host 'x'."), 1, "no host 'x'"),
        (refuse(409, detail="In the way."), 1, "In the way."),
        (refuse(410, detail="The log was deleted."), 1, "log was deleted."),
        (
            refuse(
                422,
                ProblemType.INVALID_REQUEST,
                errors=(FieldError(field="name", message="is empty"),),
            ),
            2,
            "name: is empty",
        ),
        (refuse(429, headers={"Retry-After": "120"}), 1, "Try again in 2 min."),
        (
            refuse(500, detail="Failed. Its log has the reason."),
            1,
            "error: Failed. Its log has the ",
        ),
        (httpx.Response(501, text="<html>"), 1, "The server's log has the reason."),
        (httpx.Response(404, text="<html>nginx</html>"), 1, "check the URL"),
    ],
    ids=["401", "403", "404", "409", "410", "422", "429", "500", "501", "not backhaul"],
)
def test_each_error_is_one_line_with_its_exit_code(
    cli: Cli, server: respx.MockRouter, answer: httpx.Response, exit_code: int, words: str
) -> None:
    server.patch("/v1/hosts/x").mock(return_value=answer)

    line = assert_one_line(cli("hosts", "rename", "x", "y"), exit_code=exit_code)

    assert words in line


def test_server_that_is_away_is_one_line(cli: Cli, server: respx.MockRouter) -> None:
    server.patch("/v1/hosts/x").mock(side_effect=httpx.ConnectError("Connection refused"))

    line = assert_one_line(cli("hosts", "rename", "x", "y"), exit_code=1)

    assert f"Cannot reach {URL}: Connection refused." in line


def test_unexpected_error_is_one_line_too(
    cli: Cli, server: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.delete("/v1/hosts/x").mock(side_effect=RuntimeError(f"a bug\nwith {TOKEN}"))

    line = assert_one_line(cli("hosts", "remove", "x", "--yes"), exit_code=1)

    assert "RuntimeError: a bug; with bhs_***" in line


@pytest.mark.parametrize(("options", "query"), [([], {}), (["--force"], {"force": "true"})])
def test_host_is_removed_by_force_only_when_told_to(
    cli: Cli, server: respx.MockRouter, options: list[str], query: dict[str, str]
) -> None:
    route = server.delete("/v1/hosts/x").mock(return_value=httpx.Response(204))

    assert cli("hosts", "remove", "x", "--yes", *options).exit_code == 0
    assert dict(route.calls.last.request.url.params) == query


def test_list_is_a_table_without_colour_in_a_pipe(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/hosts").mock(return_value=page(build_host("web-1"), build_host("a" * 63)))

    lines = cli("hosts", "list").stdout.splitlines()

    assert lines[0].split("  ")[0] == "NAME"
    assert lines[2].startswith("a" * 63)  # not cut
    assert "\x1b" not in "".join(lines)
    assert not set("│─┌…") & set("".join(lines))


def test_list_is_a_json_array(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/hosts").mock(return_value=page(build_host("web-1")))

    found = json.loads(cli("hosts", "list", "--json").stdout)

    assert [host["name"] for host in found] == ["web-1"]
    assert found[0]["facts"]["restic_version"] == "0.14.0"


def test_empty_list_prints_nothing_on_stdout(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/hosts").mock(return_value=page())

    result = cli("hosts", "list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "enrollment-tokens create" in result.stderr
    assert cli("hosts", "list", "--json").stdout == "[]\n"


def test_quiet_list_is_one_name_a_line(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/hosts").mock(return_value=page(build_host("a"), build_host("b")))

    assert cli("hosts", "list", "-q").stdout == "a\nb\n"


def test_foreign_text_does_not_steer_the_terminal(cli: Cli, server: respx.MockRouter) -> None:
    server.get(f"/v1/jobs/{JOB_ID}/log").mock(
        return_value=reply(build_log_page("\x1b[2J[red]/tmp/x", is_complete=True))
    )

    result = cli("jobs", "log", str(JOB_ID), "--quiet")

    assert result.stdout == "\\x1b[2J[red]/tmp/x\n"


def test_login_remembers_the_session_and_shows_no_secret(
    signed_out: Cli, server: respx.MockRouter
) -> None:
    route = server.post("/v1/login").mock(return_value=reply(build_session(), 201))

    result = signed_out("login", "--url", f"{URL}/", "--username", "ada", input=f"{PASSWORD}\n")

    assert result.exit_code == 0, result.output
    assert PASSWORD not in result.output
    assert json.loads(route.calls[0].request.content) == {"username": "ada", "password": PASSWORD}
    assert TOKEN in signed_out.config.read_text()
    assert stat.S_IMODE(signed_out.config.stat().st_mode) == 0o600


def test_login_as_json_has_no_token(signed_out: Cli, server: respx.MockRouter) -> None:
    server.post("/v1/login").mock(return_value=reply(build_session(), 201))

    result = signed_out("login", "--url", URL, "--username", "ada", "--json", input=f"{PASSWORD}\n")

    assert json.loads(result.stdout)["username"] == "ada"


def test_password_is_asked_for_on_a_terminal(
    signed_out: Cli, server: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.post("/v1/login").mock(return_value=reply(build_session(), 201))
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)

    result = signed_out("login", input=f"{URL}\nada\n{PASSWORD}\n")

    assert result.exit_code == 0, result.output
    assert PASSWORD not in result.output


def test_questions_stay_out_of_what_is_printed(
    signed_out: Cli, server: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.post("/v1/login").mock(return_value=reply(build_session(), 201))
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)

    result = signed_out("login", "--url", URL, "--json", input=f"ada\n{PASSWORD}\n")

    assert result.exit_code == 0, result.output
    assert "Username" not in result.stdout
    assert "Password" not in result.stdout
    assert "Password" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["login", "--url", URL], ["hosts", "remove", "web-1"]], ids=" ".join
)
def test_interrupt_at_a_question_exits_130(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def interrupt(*_: object, **__: object) -> str:
        # As typer does it, whose functions for asking are not to be had from outside.
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise typer.Abort from None

    monkeypatch.setattr(prompts, "is_interactive", lambda: True)
    monkeypatch.setattr(typer, "prompt", interrupt)
    monkeypatch.setattr(typer, "confirm", interrupt)

    result = cli(*arguments)

    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "\n")


def test_end_of_input_at_a_question_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)

    result = cli("hosts", "remove", "web-1", input="")

    assert result.exit_code == 1
    assert result.stderr.endswith("\nerror: aborted\n")


def test_password_can_come_from_a_file(
    signed_out: Cli, server: respx.MockRouter, tmp_path: Path
) -> None:
    route = server.post("/v1/login").mock(return_value=reply(build_session(), 201))
    (tmp_path / "password").write_text(f"{PASSWORD}\n")

    signed_out(
        "login", "--url", URL, "--username", "ada", "--password-file", f"{tmp_path}/password"
    )

    assert json.loads(route.calls[0].request.content)["password"] == PASSWORD


def test_bootstrap_reads_both_secrets_and_signs_in(
    signed_out: Cli, server: respx.MockRouter
) -> None:
    route = server.post("/v1/bootstrap").mock(return_value=reply(build_session(), 201))

    result = signed_out(
        "bootstrap", "--url", URL, "--username", "ada", input=f"bhu_setup\n{PASSWORD}\n"
    )

    assert result.exit_code == 0, result.output
    assert json.loads(route.calls[0].request.content) == {
        "setup_token": "bhu_setup",
        "username": "ada",
        "password": PASSWORD,
    }
    assert TOKEN in signed_out.config.read_text()


@pytest.mark.parametrize(
    ("command", "secrets"), [("login", "wrong\n"), ("bootstrap", f"bhu_wrong\n{PASSWORD}\n")]
)
def test_refused_to_sign_in_is_not_told_to_sign_in(
    signed_out: Cli, server: respx.MockRouter, command: str, secrets: str
) -> None:
    server.post(f"/v1/{command}").mock(return_value=refuse(401, detail="The password is wrong."))

    result = signed_out(command, "--url", URL, "--username", "ada", input=secrets)

    assert assert_one_line(result, exit_code=1) == "error: The password is wrong.\n"


def test_logout_forgets_the_session_even_when_the_server_is_away(
    signed_out: Cli, server: respx.MockRouter
) -> None:
    server.post("/v1/login").mock(return_value=reply(build_session(), 201))
    server.post("/v1/logout").mock(side_effect=httpx.ConnectError("refused"))
    signed_out("login", "--url", URL, "--username", "ada", input=f"{PASSWORD}\n")

    result = signed_out("logout")

    assert result.exit_code == 1
    assert TOKEN not in signed_out.config.read_text()


def test_enrollment_token_alone_is_on_stdout(cli: Cli, server: respx.MockRouter) -> None:
    token = EnrollmentToken(
        id=HOST_ID, created_at=NOW, expires_at=NOW, uses_left=1, host_name=None, labels={}
    )
    made = NewEnrollmentToken(token=ENROLLMENT_TOKEN, enrollment_token=token)
    route = server.post("/v1/enrollment-tokens").mock(return_value=reply(made, 201))

    result = cli("enrollment-tokens", "create", "--expires-in", "2h", "--label", "env=prod")

    assert result.stdout == f"{ENROLLMENT_TOKEN}\n"
    sent = json.loads(route.calls[0].request.content)
    assert (sent["expires_in"], sent["labels"]) == (7200, {"env": "prod"})


def test_repository_secrets_come_from_files_and_the_environment(
    cli: Cli, server: respx.MockRouter, tmp_path: Path
) -> None:
    route = server.post("/v1/repositories").mock(return_value=reply(build_repository(), 201))
    (tmp_path / "env").write_text("# keys\n\nAWS_ACCESS_KEY_ID=key = 1\n")
    cli.environment["AWS_SECRET_ACCESS_KEY"] = "hunter2"

    result = cli(
        *("repositories", "create", "nas", "s3:https://s3.test/bucket"),
        *("--env-file", f"{tmp_path}/env", "--env", "AWS_SECRET_ACCESS_KEY"),
        input="restic password\n",
    )

    assert result.exit_code == 0, result.output
    sent = json.loads(route.calls[0].request.content)
    assert sent["password"] == "restic password"
    assert sent["environment"] == {
        "AWS_ACCESS_KEY_ID": "key = 1",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
    }
    assert "hunter2" not in result.output


def test_admin_credential_comes_from_files_and_the_environment(
    cli: Cli, server: respx.MockRouter, tmp_path: Path
) -> None:
    route = server.patch("/v1/repositories/nas").mock(return_value=reply(build_repository()))
    (tmp_path / "location").write_text("rest:https://keeper:hunter2@nas/x\n")
    (tmp_path / "password").write_text("hunter3\n")
    cli.environment["AWS_SECRET_ACCESS_KEY"] = "hunter4"

    result = cli(
        *("repositories", "update", "nas", "--upkeep-host", "web-1"),
        *("--admin-location-file", f"{tmp_path}/location"),
        *("--admin-password-file", f"{tmp_path}/password", "--admin-env", "AWS_SECRET_ACCESS_KEY"),
    )
    cli("repositories", "update", "nas", "--clear-admin", "--clear-upkeep-host")

    assert result.exit_code == 0, result.output
    assert [json.loads(call.request.content) for call in route.calls] == [
        {
            "admin": {
                "location": "rest:https://keeper:hunter2@nas/x",
                "password": "hunter3",
                "environment": {"AWS_SECRET_ACCESS_KEY": "hunter4"},
            },
            "upkeep_host": "web-1",
        },
        {"admin": None, "upkeep_host": None},
    ]
    assert "hunter" not in result.output


def test_password_of_a_repository_is_changed_continued_and_given_up(
    cli: Cli, server: respx.MockRouter, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    path = "/v1/repositories/nas/password-change"
    made = StartedPasswordChange(job=build_job(), password="made up")
    begun = server.post(path).mock(return_value=reply(made, 201))
    again = server.post(f"{path}/continue").mock(return_value=reply(build_job(), 201))
    given_up = server.delete(path).respond(204)

    given = cli("repositories", "passwd", "nas", "--password-file", f"{tmp_path}/password")
    shown = cli("repositories", "passwd", "nas", "--generate", "--show", "--host", "web-1")
    cli("repositories", "passwd", "nas", "--again", "--force")
    cli("repositories", "passwd", "nas", "--give-up")

    sent = [json.loads(call.request.content) for call in begun.calls]
    assert [one["password"] for one in sent] == ["hunter2", None]
    assert (sent[1]["generate"], sent[1]["show"], sent[1]["host"]) == (True, True, "web-1")
    assert "hunter2" not in given.output
    assert shown.stdout == "made up\n"
    assert json.loads(again.calls[0].request.content)["force"] is True
    assert given_up.called


def test_state_of_a_repository_is_shown(cli: Cli, server: respx.MockRouter) -> None:
    repository = msgspec.structs.replace(
        build_repository(),
        upkeep_host="web-1",
        has_admin=True,
        size=RepositorySize(
            measured_at=NOW,
            total_size=2**30,
            snapshots_count=7,
            blobs_count=9,
            uncompressed_size=None,
            restore_size=None,
            job_id=None,
        ),
        lock=RepositoryLock(
            since=NOW, job_id=JOB_ID, holder="PID 1 on web-9 by root", message=None
        ),
        password_change=PasswordChange(
            step=PasswdStep.REMOVE, since=NOW, job_id=None, waits_for=("web-2",)
        ),
    )
    server.get("/v1/repositories/nas").mock(return_value=reply(repository))

    shown = cli("repositories", "show", "nas").stdout

    for words in (
        "web-1, with an admin credential",
        "1.0 GiB in 7 snapshots",
        "by PID 1 on web-9 by root",
        "its removal waits for web-2",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("failure_class", "has_read"),
    [(None, True), (FailureClass.DAMAGED, True), (FailureClass.WRONG_PASSWORD, False)],
    ids=["passed", "damaged", "not begun"],
)
def test_check_that_failed_early_is_not_said_to_have_read(
    cli: Cli, server: respx.MockRouter, failure_class: FailureClass | None, has_read: bool
) -> None:
    check = LastCheck(
        job_id=JOB_ID,
        host="web-1",
        state=JobState.FAILED if failure_class else JobState.SUCCEEDED,
        finished_at=NOW,
        message=None,
        read_data_subset=None,
        failure_class=failure_class,
    )
    repository = msgspec.structs.replace(build_repository(), last_check=check)
    server.get("/v1/repositories/nas").mock(return_value=reply(repository))

    shown = cli("repositories", "show", "nas").stdout

    assert ("read the structure" in shown) is has_read


def test_bad_line_of_an_environment_file_is_not_repeated(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("GOOD=1\nhunter2\n")

    line = assert_one_line(
        cli("repositories", "update", "nas", "--env-file", f"{tmp_path}/env"), exit_code=2
    )

    assert "line 2" in line
    assert "hunter2" not in line


def test_labels_are_merged(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/hosts/web-1").mock(return_value=reply(build_host()))
    route = server.patch("/v1/hosts/web-1").mock(return_value=reply(build_host()))

    cli("hosts", "label", "web-1", "tier=db", "env-")

    assert json.loads(route.calls[0].request.content) == {"labels": {"tier": "db"}}


def test_only_repository_need_not_be_named(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/repositories").mock(return_value=page(build_repository("nas")))
    route = server.post("/v1/jobs").mock(return_value=reply(build_job(), 201))

    result = cli("jobs", "run", "web-1", "backup", "--path", "/etc", "--path", "/home", "-q")

    assert result.stdout == f"{JOB_ID}\n"
    sent = json.loads(route.calls[0].request.content)
    assert (sent["repository"], sent["paths"]) == ("nas", ["/etc", "/home"])


def test_one_of_several_repositories_must_be_named(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/repositories").mock(
        return_value=page(build_repository("nas"), build_repository("s3"))
    )

    line = assert_one_line(cli("jobs", "run", "web-1", "init"), exit_code=2)

    assert "nas, s3" in line


@pytest.mark.parametrize(
    ("state", "exit_code"),
    [
        (JobState.SUCCEEDED, 0),
        (JobState.INCOMPLETE, 3),
        (JobState.FAILED, 1),
        (JobState.CANCELLED, 1),
        (JobState.REJECTED, 1),
        (JobState.LOST, 1),
    ],
)
def test_end_of_the_job_decides_the_exit_code(
    cli: Cli, server: respx.MockRouter, state: JobState, exit_code: int
) -> None:
    server.get(f"/v1/hosts/{HOST_ID}").mock(return_value=reply(build_host()))
    server.post("/v1/jobs").mock(return_value=reply(build_job(), 201))
    server.get(f"/v1/jobs/{JOB_ID}").mock(
        side_effect=[reply(build_job()), reply(build_job(state, revision=2, message="Because."))]
    )

    result = cli(
        "jobs", "run", "web-1", "backup", "--repository", "nas", "--path", "/etc", "--wait"
    )

    assert result.exit_code == exit_code
    assert result.stdout.splitlines()[-1] == f"backup on web-1 {state}: Because."


def test_wait_in_a_pipe_prints_few_plain_lines(cli: Cli, server: respx.MockRouter) -> None:
    server.get(f"/v1/hosts/{HOST_ID}").mock(return_value=reply(build_host()))
    running = [
        build_job(
            JobState.RUNNING,
            revision=number + 2,
            progress=Progress(percent_done=number / 100, total_files=100, files_done=number),
        )
        for number in range(100)
    ]
    result_of_it = BackupResult(
        snapshot_id="0123456789abcdef",
        total_files_processed=100,
        total_bytes_processed=2048,
        data_added=1024,
    )
    done = build_job(JobState.SUCCEEDED, revision=200, result=result_of_it)
    server.get(f"/v1/jobs/{JOB_ID}").mock(
        side_effect=[reply(job) for job in (build_job(), build_job(), *running, done)]
    )

    lines = cli("jobs", "wait", str(JOB_ID)).stdout.splitlines()

    assert lines[0] == "queued"
    assert lines[1] == "running 0% 0/100 files"
    assert len(lines) <= 13
    assert lines[-1] == (
        "backup on web-1 succeeded: 100 files, 2.0 KiB, 1.0 KiB added, snapshot 01234567"
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (HostState.OFFLINE, "web-1 is offline, seen 3 min ago: the job begins when its agent"),
        (HostState.NEVER_SEEN, "web-1 was never seen: the job begins when its agent is there."),
        (HostState.ONLINE, ""),
    ],
)
def test_wait_for_a_host_that_is_away_says_so(
    cli: Cli, server: respx.MockRouter, state: HostState, words: str
) -> None:
    seen = datetime.now(UTC) - timedelta(minutes=3, seconds=5)
    host = msgspec.structs.replace(build_host(), state=state, last_seen_at=seen)
    server.get(f"/v1/hosts/{HOST_ID}").mock(return_value=reply(host))
    server.get(f"/v1/jobs/{JOB_ID}").mock(
        side_effect=[reply(build_job()), reply(build_job(JobState.EXPIRED, revision=2))]
    )

    result = cli("jobs", "wait", str(JOB_ID))

    assert words in result.stderr
    assert bool(result.stderr) is bool(words)


def test_wait_says_what_the_job_waits_for(cli: Cli, server: respx.MockRouter) -> None:
    obstacle = Obstacle(job_id=JOB_ID, kind=JobKind.PRUNE, state=JobState.RUNNING, host="db-1")
    waiting = build_job(waits_for=obstacle)
    server.get(f"/v1/jobs/{JOB_ID}").mock(
        side_effect=[
            reply(waiting),
            reply(waiting),
            reply(build_job(JobState.CANCELLED, revision=2)),
        ]
    )

    lines = cli("jobs", "wait", str(JOB_ID)).stdout.splitlines()

    assert lines[0] == "queued, waits for prune on db-1"


def test_interrupted_wait_leaves_the_job_running_and_says_so(
    cli: Cli, server: respx.MockRouter
) -> None:
    server.get(f"/v1/hosts/{HOST_ID}").mock(return_value=reply(build_host()))
    answers = [reply(build_job()), reply(build_job())]

    def answer(_: httpx.Request) -> httpx.Response:
        if not answers:
            raise KeyboardInterrupt
        return answers.pop()

    server.get(f"/v1/jobs/{JOB_ID}").mock(side_effect=answer)

    result = cli("jobs", "wait", str(JOB_ID))

    assert result.exit_code == 130
    assert f"backhaul jobs wait {JOB_ID}" in result.stderr


def test_backup_into_what_is_no_repository_yet_says_how_to_make_one(
    cli: Cli, server: respx.MockRouter
) -> None:
    job = build_job(JobState.FAILED, failure_class=FailureClass.REPOSITORY_MISSING)
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(job))
    remedy = f"backhaul jobs run {job.host} init --repository {job.repository}"

    assert remedy in cli("jobs", "wait", str(JOB_ID)).stderr
    assert remedy in cli("jobs", "show", str(JOB_ID)).stdout


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["for a person", "as JSON"])
def test_wait_that_the_server_does_not_answer_says_that_the_job_goes_on(
    cli: Cli, server: respx.MockRouter, arguments: list[str]
) -> None:
    server.get(f"/v1/hosts/{HOST_ID}").mock(return_value=reply(build_host()))
    answers = [reply(build_job()), reply(build_job())]
    failed = refuse(500, detail="Failed.")
    server.get(f"/v1/jobs/{JOB_ID}").mock(
        side_effect=lambda _: answers.pop() if answers else failed
    )

    result = cli("jobs", "wait", str(JOB_ID), *arguments)

    assert result.exit_code == 1
    assert f"backhaul jobs wait {JOB_ID}" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: Failed.")


@pytest.mark.parametrize(
    ("options", "variables"),
    [(["--profile", "bob"], {}), ([], {"BACKHAUL_PROFILE": "bob"})],
    ids=["option", "variable"],
)
def test_whoever_uses_a_profile_is_told_to_sign_in_with_it(
    cli: Cli,
    server: respx.MockRouter,
    tmp_path: Path,
    options: list[str],
    variables: dict[str, str | None],
) -> None:
    cli.environment |= {"XDG_CONFIG_HOME": str(tmp_path), **variables}
    token = build_token(TokenKind.SESSION)
    save_profile(
        config_path({"XDG_CONFIG_HOME": str(tmp_path)}), "bob", Profile(url=URL, token=token)
    )
    server.get("/v1/hosts").mock(return_value=refuse(401, detail="The session has ended."))

    line = assert_one_line(cli(*options, "hosts", "list"), exit_code=1)

    assert "Sign in with `backhaul login --profile bob`." in line


def test_wait_as_json_prints_the_job_as_it_ended(cli: Cli, server: respx.MockRouter) -> None:
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(build_job(JobState.INCOMPLETE)))

    result = cli("jobs", "wait", str(JOB_ID), "--json")

    assert json.loads(result.stdout)["state"] == "incomplete"
    assert result.exit_code == 3


def test_followed_log_as_json_is_one_object_a_line(cli: Cli, server: respx.MockRouter) -> None:
    server.get(f"/v1/jobs/{JOB_ID}/log").mock(
        side_effect=[
            reply(build_log_page("one", is_complete=False)),
            reply(build_log_page("two", first=1, is_complete=True)),
        ]
    )

    lines = cli("jobs", "log", "-f", str(JOB_ID), "--json").stdout.splitlines()

    assert [json.loads(line)["text"] for line in lines] == ["one", "two"]


def test_job_filters_reach_the_server(cli: Cli, server: respx.MockRouter) -> None:
    route = server.get("/v1/jobs").mock(return_value=page(build_job()))

    cli(
        *("jobs", "list", "--host", "web-1", "--schedule", str(SCHEDULE_ID), "--limit", "5"),
        *("--state", "failed", "--state", "lost"),
    )

    asked = route.calls[0].request.url.params
    assert asked.get_list("state") == ["failed", "lost"]
    assert (asked["host"], asked["limit"]) == ("web-1", "5")
    assert asked["schedule"] == str(SCHEDULE_ID)


def test_time_filters_of_jobs_are_moments(cli: Cli, server: respx.MockRouter) -> None:
    route = server.get("/v1/jobs").mock(return_value=page())

    cli("jobs", "list", "--since", "7d", "--until", "2026-11-23T12:00:00+01:00")

    asked = route.calls[0].request.url.params
    ago = datetime.now(UTC) - datetime.fromisoformat(asked["since"])
    assert timedelta(days=7) <= ago < timedelta(days=7, minutes=1)
    assert asked["until"] == "2026-11-23T12:00:00+01:00"


@pytest.mark.parametrize("text", ["soon", "2026-11-23", "999999999d"])
def test_bad_time_filter_is_refused_in_one_line(cli: Cli, text: str) -> None:
    result = cli("jobs", "list", "--since", text)

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --since: ") or "--since: " in result.stderr
    assert result.stderr.count("\n") == 1


def test_host_filters_reach_the_server(cli: Cli, server: respx.MockRouter) -> None:
    route = server.get("/v1/hosts").mock(return_value=page())

    said = cli("hosts", "list", "--state", "offline", "--label", "env=prod", "--label", "a=b")

    asked = route.calls[0].request.url.params
    assert (asked["state"], asked.get_list("label")) == ("offline", ["env=prod", "a=b"])
    assert "No such hosts." in said.stdout + said.stderr


def test_job_is_shown_with_what_it_was_asked(cli: Cli, server: respx.MockRouter) -> None:
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(build_job()))

    shown = dict(
        line.split(None, 1) for line in cli("jobs", "show", str(JOB_ID)).stdout.splitlines()
    )

    assert shown["paths"] == "/etc"
    assert shown["state"] == "queued"


def test_job_of_a_schedule_is_shown_with_its_slot(cli: Cli, server: respx.MockRouter) -> None:
    keep = Retention(keep_daily=7, keep_weekly=4)
    job = build_job(
        kind=JobKind.FORGET,
        arguments=ForgetArguments(tag="etc", keep=keep),
        schedule_id=SCHEDULE_ID,
        scheduled_at=NOW,
        missed=3,
        ran_offline=True,
    )
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(job))

    shown = cli("jobs", "show", str(JOB_ID)).stdout

    assert re.search(rf"^schedule +{SCHEDULE_ID}$", shown, re.MULTILINE)
    assert re.search(rf"^scheduled for +{re.escape(render_moment(NOW))}$", shown, re.MULTILINE)
    assert re.search(r"^missed before +3 slots$", shown, re.MULTILINE)
    assert re.search(r"^ran offline +yes$", shown, re.MULTILINE)
    assert re.search(r"^keep +keep-daily 7, keep-weekly 4$", shown, re.MULTILINE)


def test_copy_is_shown_with_the_repository_that_it_copies_to(
    cli: Cli, server: respx.MockRouter
) -> None:
    job = build_job(destination="cloud")
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(job))

    shown = cli("jobs", "show", str(JOB_ID)).stdout

    assert re.search(r"^copies to +cloud$", shown, re.MULTILINE)


IN_PLACE = ["restore", "--snapshot", "latest", "--in-place", "--include", "/etc/hosts"]
DRILL = DrillResult(
    snapshot_id="0a1b2c3d" * 8,
    snapshot_time=NOW,
    hostname="db-1",
    files_total=300,
    files_compared=18,
    bytes_compared=1000,
    files_differing=1,
    files_unreadable=1,
    differing=("/etc/a",),
    unreadable=("/etc/b",),
    skipped_too_large=3,
)
DIFF = DiffResult(
    source_snapshot="0a1b2c3d",
    target_snapshot="4e5f6a7b",
    changed_files=1,
    added=DiffCounts(files=4),
    changes=(DiffChange(path="/etc/a", modifier="M"), DiffChange(path="/etc/b", modifier="+")),
    is_cut=True,
)


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (DRILL, ["differs /etc/a", "unreadable /etc/b", "too large 3"]),
        (DIFF, ["change M /etc/a", "change + /etc/b", "more changes yes"]),
    ],
    ids=["drill", "diff"],
)
def test_paths_of_a_result_are_shown_one_a_line(
    cli: Cli, server: respx.MockRouter, result: JobResult, lines: list[str]
) -> None:
    job = build_job(JobState.FAILED, result=result)
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(job))

    shown = cli("jobs", "show", str(JOB_ID)).stdout.splitlines()

    told = [" ".join(line.split()) for line in shown]
    assert [line for line in told if line in lines] == lines


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["forget", "--source", "etc"], {"kind": "forget", "source": "etc"}),
        (
            ["forget", "--source", "etc", "--dry-run"],
            {"kind": "forget", "source": "etc", "dry_run": True},
        ),
        (["prune"], {"kind": "prune"}),
        (["check"], {"kind": "check", "read_data_subset": None, "read_data_parts": None}),
        (
            ["check", "--read-data", "1/7"],
            {"kind": "check", "read_data_subset": "1/7", "read_data_parts": None},
        ),
        (
            ["check", "--read-data-parts", "7"],
            {"kind": "check", "read_data_subset": None, "read_data_parts": 7},
        ),
        (
            ["copy", "--destination", "cloud", "--source", "etc", "--tag", "x"],
            {
                "kind": "copy",
                "destination": "cloud",
                "source": "etc",
                "tags": ["x"],
                "of_host": None,
                "snapshots": [],
            },
        ),
        (
            ["drill", "--of-host", "db-1", "--files", "50", "--max-bytes", "1000k"],
            {
                "kind": "drill",
                "snapshot": "latest",
                "of_host": "db-1",
                "files": 50,
                "max_bytes": 1000 * 1024,
            },
        ),
        (
            ["diff", "--snapshot", "0a1b2c3d", "--other", "4e5f6a7b"],
            {"kind": "diff", "snapshot": "0a1b2c3d", "other": "4e5f6a7b"},
        ),
        (
            ["init", "--chunker-of", "cloud"],
            {"kind": "init", "chunker_of": "cloud"},
        ),
        (
            [*IN_PLACE, "--confirm-host", "web-1", "--source", "etc", "--of-host", "db-1"],
            {
                "kind": "restore",
                "snapshot": "latest",
                "target": None,
                "include": ["/etc/hosts"],
                "exclude": [],
                "verify": False,
                "of_host": "db-1",
                "source": "etc",
                "in_place": True,
                "confirm_host": "web-1",
            },
        ),
    ],
    ids=[
        "forget",
        "forget dry",
        "prune",
        "check",
        "check data",
        "check parts",
        "copy",
        "drill",
        "diff",
        "init",
        "restore in place",
    ],
)
def test_upkeep_can_be_run_at_once(
    cli: Cli, server: respx.MockRouter, arguments: list[str], sent: dict[str, Any]
) -> None:
    route = server.post("/v1/jobs").mock(return_value=reply(build_job(), 201))

    result = cli("jobs", "run", "web-1", *arguments, "--repository", "nas")

    assert result.exit_code == 0, result.output
    body = json.loads(route.calls[0].request.content)
    assert body == {"host": "web-1", "repository": "nas", **sent}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (ForgetResult(kept=7, removed=2), ": 7 snapshots kept, 2 removed"),
        (
            ForgetResult(kept=7, removed=0, dry_run=True, to_go=2),
            ": 7 snapshots would be kept, 2 removed",
        ),
        (CheckResult(read_data_subset="1/7"), ": no errors; read 1/7 of the data"),
        (CheckResult(), ": no errors"),
        (
            RestoreResult(snapshot_id="0a1b2c3d", target="/", files_restored=1, bytes_restored=7),
            ": 1 file, 7 B from 0a1b2c3d put back in place",
        ),
        (PruneResult(), ""),
        (UnlockResult(locks_left=0), ": no locks left"),
        (CopyResult(copied=2, skipped=3), ": 2 snapshots copied, 3 there already"),
        (
            DRILL,
            ": 18 of 300 files, 1000 B of snapshot 0a1b2c3d compared, 2 differ or are unreadable",
        ),
        (DIFF, ": 4 files added, 0 removed, 1 changed"),
    ],
    ids=[
        "forget",
        "forget dry",
        "check data",
        "check",
        "in place",
        "prune",
        "unlock",
        "copy",
        "drill",
        "diff",
    ],
)
def test_outcome_of_upkeep_is_one_line(
    cli: Cli, server: respx.MockRouter, result: JobResult, words: str
) -> None:
    job = build_job(JobState.SUCCEEDED, result=result)
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(job))

    lines = cli("jobs", "wait", str(JOB_ID)).stdout.splitlines()

    assert lines == [f"backup on web-1 succeeded{words}"]


@pytest.mark.parametrize(
    ("versions", "drift", "shown"),
    [
        ((0, 0), None, "none yet"),
        ((4, 4), None, "version 4, applied"),
        ((4, 3), None, "version 4, but 3 is applied"),
        ((1, 0), None, "version 1, but none is applied"),
        (
            (4, 3),
            ScheduleDrift(desired=4, applied=3, since=NOW),
            f"version 4, but 3 is applied, since {render_moment(NOW)} (",
        ),
    ],
    ids=["none", "applied", "behind", "never applied", "drift"],
)
def test_host_is_shown_with_the_schedules_it_follows(
    cli: Cli,
    server: respx.MockRouter,
    versions: tuple[int, int],
    drift: ScheduleDrift | None,
    shown: str,
) -> None:
    host = msgspec.structs.replace(
        build_host(),
        schedule_version=versions[0],
        applied_schedule_version=versions[1],
        drift=drift,
    )
    server.get("/v1/hosts/web-1").mock(return_value=reply(host))

    line = next(
        line
        for line in cli("hosts", "show", "web-1").stdout.splitlines()
        if line.startswith("schedules ")
    )

    assert line.removeprefix("schedules").strip().startswith(shown)


def test_schedule_that_the_agent_skips_is_shown_with_the_host(
    cli: Cli, server: respx.MockRouter
) -> None:
    error = EntryError(schedule_id=SCHEDULE_ID, message="The policy allows no prune.")
    drift = ScheduleDrift(desired=1, applied=1, since=None, errors=(error,))
    host = msgspec.structs.replace(build_host(), drift=drift)
    server.get("/v1/hosts/web-1").mock(return_value=reply(host))

    shown = cli("hosts", "show", "web-1").stdout

    assert f"{SCHEDULE_ID}: The policy allows no prune.\n" in shown
    assert "version 1, applied" in shown


@pytest.mark.parametrize(("name", "extra"), [("agent", "agent"), ("serve", "api"), ("db", "api")])
def test_command_without_its_packages_says_how_to_get_them(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    def load(_: EntryPoint) -> None:
        raise ModuleNotFoundError("No module named 'nacl'", name="nacl.public")

    monkeypatch.setattr(EntryPoint, "load", load)

    line = assert_one_line(cli(name), exit_code=2)

    assert (
        line == f"error: 'backhaul {name}' needs more packages: pip install 'backhaul[{extra}]'\n"
    )


def test_plain_function_becomes_a_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def greet(name: str, loud: bool = False) -> None:
        """Greet somebody."""
        print(name.upper() if loud else name)  # noqa: T201 -- what a command does

    point = EntryPoint("greet", "nowhere:greet", root.PLUGIN_GROUP)
    monkeypatch.setattr(root, "_list_plugins", lambda: {"greet": point})
    monkeypatch.setattr(EntryPoint, "load", lambda _: greet)

    assert cli("greet", "ada", "--loud").stdout == "ADA\n"
    assert "Greet somebody." in cli("greet", "--help").stdout
    assert "\u256d" not in cli("greet", "--help").stdout  # no boxes, like all others


def test_debug_shows_the_traceback(cli: Cli, server: respx.MockRouter) -> None:
    server.patch("/v1/hosts/x").mock(return_value=refuse(409))
    cli.environment["BACKHAUL_DEBUG"] = "1"

    result = CliRunner(env=cli.environment).invoke(app, ["hosts", "rename", "x", "y"])

    assert "Traceback" in result.stderr
    assert result.exit_code == 1


def test_environment_of_the_tests_names_no_server() -> None:
    # Otherwise a test that clears a variable would find the developer's own server.
    assert not os.environ.get("BACKHAUL_URL")


def test_dry_run_is_marked_and_a_limit_has_its_unit(cli: Cli, server: respx.MockRouter) -> None:
    arguments = BackupArguments(paths=("/etc",), limit_upload=100, dry_run=True)
    message = "no such file\nIs there a repository?"
    job = build_job(JobState.FAILED, arguments=arguments, message=message)
    server.get("/v1/jobs").mock(return_value=page(job))
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(job))

    listed = cli("jobs", "list").stdout
    shown = cli("jobs", "show", str(JOB_ID)).stdout

    assert "backup, dry run" in listed
    assert re.search(r"^limit upload +100 KiB/s$", shown, re.MULTILINE)
    assert re.search(r"^message +no such file; Is there a repository\?$", shown, re.MULTILINE)
    assert "limit download" not in shown
