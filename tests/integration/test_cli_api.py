"""`backhaul serve`, `backhaul db` and `backhaul admin`: what they say, and their exit codes."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import select
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner

from backhaul.wire.base import PROTOCOL_HEADER
from backhaul.wire.tokens import TokenKind, parse_token_kind
from backhaul_api import cli
from backhaul_api.db import migrate
from backhaul_api.db.engine import Database
from backhaul_api.db.revisions import head_revision
from backhaul_api.preparation import upgrade_database
from backhaul_api.serve import log_surroundings
from backhaul_api.settings import Settings

APP = typer.Typer()
APP.command("serve")(cli.serve)
APP.add_typer(cli.db, name="db")
APP.add_typer(cli.admin, name="admin")

PASSWORD = "correct horse battery"
SERVE = (
    "import sys, typer; from backhaul_api.cli import serve; sys.argv[0] = 'serve'; typer.run(serve)"
)


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Undo what `serve` does to the process that it has for itself."""
    umask = os.umask(0o022)
    os.umask(umask)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    os.umask(umask)
    root.handlers[:] = handlers
    root.setLevel(level)


@dataclass
class Served:
    """A server that runs as a process of its own."""

    process: subprocess.Popen[str]
    url: str
    setup_token: str | None

    def stop(self, number: int) -> tuple[int, float]:
        """Send a signal; gives the exit code and how many seconds the end took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        return code, time.monotonic() - begun


@contextmanager
def _serving(data_dir: Path, *options: str) -> Iterator[Served]:
    command = [sys.executable, "-c", SERVE, "--data-dir", str(data_dir), "--port", "0", *options]
    with (
        (data_dir.parent / "serve.log").open("a") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            setup_token, url = None, ""
            while not url:
                line = _read_line(process)
                if line.startswith("Setup token (use once): "):
                    setup_token = line.rsplit(" ", 1)[1]
                if line.startswith("Backhaul API on "):
                    url = line.rsplit(" ", 1)[1]
            yield Served(process, url, setup_token)
        finally:
            process.kill()


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0], "the server said nothing"
    line = process.stdout.readline()
    assert line, "the server ended"
    return line.strip()


def _run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(APP, list(arguments), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_server_starts_on_an_empty_folder_and_ends_cleanly(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with _serving(data_dir) as served:
        assert parse_token_kind(served.setup_token or "") is TokenKind.SETUP
        body = {"setup_token": served.setup_token, "username": "ada", "password": PASSWORD}
        made = httpx.post(f"{served.url}/v1/bootstrap", json=body)
        ready = httpx.get(f"{served.url}/health/ready")
        code, _ = served.stop(signal.SIGTERM)

    assert (made.status_code, ready.status_code, code) == (201, 200, 0)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for file in data_dir.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    said = (tmp_path / "serve.log").read_text()
    assert '"event":"request.done"' in said
    assert made.json()["token"] not in said
    assert PASSWORD not in said


def test_each_start_replaces_the_setup_token_until_there_is_an_operator(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with _serving(data_dir) as first:
        first.stop(signal.SIGINT)
    with _serving(data_dir) as second:
        body = {"setup_token": first.setup_token, "username": "ada", "password": PASSWORD}
        old = httpx.post(f"{second.url}/v1/bootstrap", json=body)
        new = httpx.post(
            f"{second.url}/v1/bootstrap", json=body | {"setup_token": second.setup_token}
        )
        second.stop(signal.SIGTERM)
    with _serving(data_dir) as third:
        third.stop(signal.SIGTERM)

    assert (old.status_code, new.status_code) == (401, 201)
    assert third.setup_token is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_held_polls_and_idle_connections_do_not_hold_up_the_end(
    tmp_path: Path, number: int
) -> None:
    with (
        _serving(tmp_path / "data") as served,
        httpx.Client(base_url=served.url, timeout=30) as idle,
        ThreadPoolExecutor() as threads,
    ):
        polls = [threads.submit(_poll, served.url, _enroll(idle, served, n)) for n in range(3)]
        # Asked until the polls have surely arrived, on a connection that stays open.
        for _ in range(50):
            assert idle.get("/health/ready").status_code == 200
        assert not any(poll.done() for poll in polls)
        code, took = served.stop(number)
        answers = [poll.result() for poll in polls]

    assert code == 0
    assert took < 5
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all(answer.json()["pause"] > 0 for answer in answers)


def _enroll(client: httpx.Client, served: Served, number: int) -> str:
    """Let a host join, through a new operator when there is none yet; gives its agent token."""
    if "Authorization" not in client.headers:
        body = {"setup_token": served.setup_token, "username": "ada", "password": PASSWORD}
        token = client.post("/v1/bootstrap", json=body).json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
    made = client.post("/v1/enrollment-tokens", json={"host_name": f"web-{number}"}).json()
    facts = {
        "hostname": "web",
        "os": "Debian",
        "architecture": "x86_64",
        "agent_version": "0.1.0",
        "protocol": {"minimum": 1, "maximum": 1},
    }
    request = {
        "enrollment_token": made["token"],
        "public_key": base64.b64encode(bytes(range(32))).decode(),
        "facts": facts,
    }
    joined = client.post("/v1/agents/enroll", json=request, headers={PROTOCOL_HEADER: "1"}).json()
    agent_token = joined["agent_token"]
    assert isinstance(agent_token, str)
    return agent_token


def _poll(url: str, agent_token: str) -> httpx.Response:
    body = {
        "boot_id": str(uuid4()),
        "schedule_version": 0,
        "settings_version": 0,
        "jobs": [],
        "clock": "2026-11-23T12:00:00Z",
        "hold": 25,
    }
    headers = {PROTOCOL_HEADER: "1", "Authorization": f"Bearer {agent_token}"}
    return httpx.post(f"{url}/v1/agent/poll", json=body, headers=headers, timeout=40)


def test_second_server_on_one_sqlite_database_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with _serving(data_dir) as served:
        code, _, error = _run("serve", "--data-dir", str(data_dir), "--port", "0")
        pid = served.process.pid
        served.stop(signal.SIGTERM)

    assert code == 2
    assert f"process {pid}" in error
    assert "PostgreSQL" in error
    assert len(error.splitlines()) == 1


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, error = _run("serve", "--data-dir", str(tmp_path / "data"), "--port", port)

    assert code == 2
    assert f"port {port}" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [(b"damaged\n", 0o600, "damaged"), (b"", 0o644, "chmod 600")],
    ids=["damaged", "readable"],
)
def test_key_file_that_cannot_be_used_stops_the_start(
    tmp_path: Path, content: bytes, mode: int, reason: str
) -> None:
    key_file = tmp_path / "secret.key"
    key_file.write_bytes(content)
    key_file.chmod(mode)

    code, _, error = _run("serve", "--data-dir", str(tmp_path), "--port", "0")

    assert code == 2
    assert reason in error
    assert key_file.read_bytes() == content


def test_lost_key_file_of_a_used_database_stops_the_start_and_is_not_replaced(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "data"
    with _serving(data_dir) as served, httpx.Client(base_url=served.url) as client:
        _enroll(client, served, 1)
        served.stop(signal.SIGTERM)
    (data_dir / "secret.key").unlink()

    code, _, error = _run("serve", "--data-dir", str(data_dir), "--port", "0")

    assert code == 2
    assert "secret.key is missing" in error
    assert len(error.splitlines()) == 1
    assert not (data_dir / "secret.key").exists()


def test_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    code, _, _ = _run("db", "upgrade", "--data-dir", str(tmp_path))

    assert code == 0
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "backhaul.sqlite3").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "command", [["serve", "--port", "0"], ["db", "upgrade"], ["admin", "create", "ada"]]
)
def test_folder_into_which_everybody_may_write_is_refused(
    tmp_path: Path, command: list[str]
) -> None:
    tmp_path.chmod(0o777)

    code, _, error = _run(*command, "--data-dir", str(tmp_path), stdin=f"{PASSWORD}\n")

    assert code == 2
    assert "chmod o-w" in error
    assert list(tmp_path.iterdir()) == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o777


@pytest.mark.parametrize(
    "command",
    [["db", "upgrade"], ["admin", "create", "ada"]],
    ids=lambda command: command[1],
)
def test_whatever_creates_the_database_creates_it_for_its_owner_alone(
    tmp_path: Path, command: list[str]
) -> None:
    data_dir = tmp_path / "data"

    code, _, _ = _run(*command, "--data-dir", str(data_dir), stdin=f"{PASSWORD}\n")

    assert code == 0
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for file in data_dir.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_looking_at_the_revision_makes_nothing(tmp_path: Path) -> None:
    code, said, _ = _run("db", "current", "--data-dir", str(tmp_path / "data"))

    assert (code, said) == (0, f"none (newest: {head_revision()})\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["admin", "reset-password", "nobody"], "no operator 'nobody'"),
        (["admin", "create", "a b"], "username"),
        (["db", "downgrade", "nosuchrev", "--yes"], "no revision 'nosuchrev'"),
        (["db", "downgrade", "0005", "--yes"], "backhaul db upgrade"),
    ],
    ids=["reset-password", "create", "unknown", "later"],
)
def test_what_is_refused_makes_nothing(tmp_path: Path, command: list[str], reason: str) -> None:
    folder = str(tmp_path / "data")

    code, _, error = _run(*command, "--data-dir", folder, stdin=f"{PASSWORD}\n")

    assert code == 2
    assert reason in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_downgrade_of_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    code, said, _ = _run("db", "downgrade", "base", "--yes", "--data-dir", str(tmp_path / "data"))

    assert (code, said) == (0, "The database is at revision base.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["admin", "create", "ada"],
        ["admin", "reset-password", "ada"],
        ["db", "upgrade"],
        ["db", "current"],
        ["db", "downgrade", "base", "--yes"],
        ["db", "copy", "--to", "postgresql://u@127.0.0.1:1/d"],
        ["serve", "--port", "0"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_folder_that_is_no_utf8_is_refused_by_its_option(
    tmp_path: Path, command: list[str]
) -> None:
    folder = str(tmp_path / "a\udcffb")

    code, _, error = _run(*command, "--data-dir", folder, stdin=f"{PASSWORD}\n")

    assert (code, error) == (2, "backhaul: --data-dir must be UTF-8\n")
    assert list(tmp_path.iterdir()) == []


def test_current_folder_that_is_no_utf8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a\udcffb").mkdir()
    monkeypatch.chdir(tmp_path / "a\udcffb")

    code, _, error = _run("db", "current")

    assert (code, error) == (2, "backhaul: data_dir must be UTF-8\n")


def test_folder_that_is_a_ring_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ring").symlink_to("ring")

    code, _, error = _run("db", "current", "--data-dir", str(tmp_path / "ring"))

    assert code == 2
    assert "ring" in error


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "a" * 66_000], ids=["line", "escape", "long"])
def test_name_that_is_repeated_is_one_line_of_a_bounded_length(tmp_path: Path, name: str) -> None:
    code, _, error = _run("db", "current", "--data-dir", str(tmp_path), "--config", name)

    assert code == 2
    assert len(error.splitlines()) == 1
    assert len(error) < 1000
    assert error.rstrip("\n").isprintable()


@pytest.mark.parametrize("command", [["current"], ["upgrade"], ["downgrade", "base", "--yes"]])
def test_postgresql_that_does_not_answer_is_one_line_and_makes_no_folder(
    tmp_path: Path, command: list[str]
) -> None:
    url = "postgresql://u:hunter2@127.0.0.1:1/d"

    code, _, error = _run(
        "db", *command, "--data-dir", str(tmp_path / "data"), "--database-url", url
    )

    assert code == 2
    assert "cannot be used" in error
    assert "hunter2" not in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def _refuse_tls(listener: socket.socket) -> None:
    """Answer as a PostgreSQL server without TLS does."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(8)
        connection.sendall(b"N")
        connection.recv(1)


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["db", "upgrade"]])
def test_postgresql_without_the_tls_that_is_asked_for_is_one_line(
    tmp_path: Path, command: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        answering = threads.submit(_refuse_tls, listener)
        url = f"postgresql://u:hunter2@127.0.0.1:{listener.getsockname()[1]}/d?sslmode=require"
        code, _, error = _run(*command, "--data-dir", str(tmp_path), "--database-url", url)
        answering.result(timeout=20)

    assert code == 2
    assert "rejected SSL upgrade" in error
    assert "hunter2" not in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [["upgrade"], ["downgrade", "base", "--yes"]],
    ids=["upgrade", "downgrade"],
)
def test_database_of_a_running_server_is_not_migrated(tmp_path: Path, command: list[str]) -> None:
    data_dir = tmp_path / "data"
    with _serving(data_dir) as served:
        code, _, error = _run("db", *command, "--data-dir", str(data_dir))
        ready = httpx.get(f"{served.url}/health/ready")
        made = _run("admin", "create", "ada", "--data-dir", str(data_dir), stdin=f"{PASSWORD}\n")
        served.stop(signal.SIGTERM)

    assert code == 2
    assert f"process {served.process.pid}" in error
    assert ready.status_code == 200
    assert made[0] == 0


def test_folder_may_have_any_name(tmp_path: Path) -> None:
    data_dir = tmp_path / "a b?c=d#e%41"

    code, _, _ = _run("db", "upgrade", "--data-dir", str(data_dir))
    current = _run("db", "current", "--data-dir", str(data_dir))

    assert code == 0
    assert (data_dir / "backhaul.sqlite3").exists()
    assert current[1].startswith(head_revision())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host", ""], "host: must not be empty"),
        (["--port", "70000"], "port"),
        (["--database-url", "mysql://u:hunter2@h/d"], "mysql"),
        (["--database-url", "postgresql://u:hunter2@h/d?nosuch=1"], "parameter 'nosuch'"),
        (["--database-url", "postgresql://u:hunter2@127.0.0.1:1/d"], "cannot be used"),
        (["--host", "256.1.1.1"], "256.1.1.1"),
        (["--host", "\udcff"], "--host must be UTF-8"),
        (["--database-url", "sqlite:////tmp/\udcff.db"], "--database-url must be UTF-8"),
        (["--config", "/nowhere/api.toml"], "api.toml"),
        (["--data-dir", "/dev/null/data"], "data folder"),
    ],
    ids=[
        "no-host",
        "port",
        "database",
        "parameter",
        "unreachable",
        "host",
        "host-bytes",
        "url-bytes",
        "config",
        "folder",
    ],
)
def test_unacceptable_setting_is_one_line_without_a_secret(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    folder = [] if "--data-dir" in options else ["--data-dir", str(tmp_path)]

    code, _, error = _run("serve", *folder, "--port", "0", *options)

    assert code == 2
    assert reason in error
    assert "hunter2" not in error
    assert len(error.splitlines()) == 1


def _make_newer_database(folder: Path) -> sqlite3.Connection:
    _run("db", "upgrade", "--data-dir", str(folder))
    connection = sqlite3.connect(folder / "backhaul.sqlite3")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    return connection


def test_upgrade_leaves_a_database_that_a_newer_version_has_expanded(tmp_path: Path) -> None:
    _make_newer_database(tmp_path).close()

    upgraded = _run("db", "upgrade", "--data-dir", str(tmp_path))

    assert upgraded[:2] == (0, "The database is at revision 9999.\n")


def test_database_from_which_a_newer_version_has_taken_something_is_refused(tmp_path: Path) -> None:
    connection = _make_newer_database(tmp_path)
    with connection:
        connection.execute("INSERT INTO needed_revisions VALUES ('9998')")
    connection.close()

    code, _, error = _run("serve", "--data-dir", str(tmp_path), "--port", "0")

    assert code == 2
    assert "9999" in error
    assert "newer version" in error


def test_database_goes_up_and_down(tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path)]

    before = _run("db", "current", *options)
    upgraded = _run("db", "upgrade", *options)
    current = _run("db", "current", *options)
    unsure = _run("db", "downgrade", "base", *options)
    emptied = _run("db", "downgrade", "base", "--yes", *options)
    after = _run("db", "current", *options)

    head = head_revision()
    assert before[:2] == (0, f"none (newest: {head})\n")
    assert upgraded[:2] == (0, f"The database is at revision {head}.\n")
    assert current[:2] == (0, f"{head} (newest: {head})\n")
    assert unsure[0] == 2
    assert "--yes" in unsure[2]
    assert emptied[0] == 0
    assert after[:2] == before[:2]


def test_unknown_revision_is_refused(tmp_path: Path) -> None:
    code, _, error = _run("db", "downgrade", "nope", "--yes", "--data-dir", str(tmp_path))

    assert code == 2
    assert "nope" in error


def test_start_says_that_others_can_read_the_data_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tmp_path.chmod(0o770)

    log_surroundings(Settings(data_dir=tmp_path))

    assert [record.getMessage() for record in caplog.records] == ["data_dir.shared"]


async def test_instances_that_start_at_once_upgrade_one_database_once(
    empty_database_url: str, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, database_url=empty_database_url)
    count = 1 if empty_database_url.startswith("sqlite") else 4

    await asyncio.gather(*(upgrade_database(settings) for _ in range(count)))

    assert await migrate.current_revision(empty_database_url) == head_revision()


def test_operator_is_made_and_given_a_new_password(tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path)]
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD} again\nsecond line\n")

    made = _run("admin", "create", "Ada", *options, stdin=f"{PASSWORD}\n")
    twice = _run("admin", "create", "ada", *options, stdin=f"{PASSWORD}\n")
    reset = _run("admin", "reset-password", "ada", *options, "--password-file", str(file))
    unknown = _run("admin", "reset-password", "eve", *options, stdin=f"{PASSWORD}\n")

    assert made[0] == 0
    assert "Operator ada" in made[1]
    assert (twice[0], reset[0], unknown[0]) == (2, 0, 2)
    with _serving(tmp_path) as served:
        logins = [
            httpx.post(f"{served.url}/v1/login", json={"username": "ADA", "password": password})
            for password in (PASSWORD, f"{PASSWORD} again")
        ]
        served.stop(signal.SIGTERM)
    assert [login.status_code for login in logins] == [401, 201]
    assert served.setup_token is None


@pytest.mark.parametrize(
    ("options", "said"), [([], "1 API token revoked"), (["--keep-tokens"], "1 API token kept")]
)
def test_new_password_revokes_the_api_tokens_unless_told_to_keep_them(
    tmp_path: Path, options: list[str], said: str
) -> None:
    folder = ["--data-dir", str(tmp_path / "data")]
    with _serving(tmp_path / "data") as served, httpx.Client(base_url=served.url) as client:
        _enroll(client, served, 1)
        token = client.post("/v1/api-tokens", json={"name": "ci"}).json()["token"]
        reset = _run("admin", "reset-password", "ada", *folder, *options, stdin=f"{PASSWORD}\n")
        session = client.get("/v1/me")
        script = client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})
        served.stop(signal.SIGTERM)

    assert reset[0] == 0
    assert said in reset[1]
    assert session.status_code == 401
    assert script.status_code == (200 if options else 401)


@pytest.mark.parametrize(
    ("username", "password", "named"),
    [("ada", "short", "password"), ("a b", PASSWORD, "username"), ("ada", "", "password")],
)
def test_unacceptable_operator_is_refused(
    tmp_path: Path, username: str, password: str, named: str
) -> None:
    code, _, error = _run(
        "admin", "create", username, "--data-dir", str(tmp_path), stdin=f"{password}\n"
    )

    assert code == 2
    assert error.startswith(f"backhaul: {named}: ")


async def test_changes_by_the_administrator_are_in_the_audit_log(tmp_path: Path) -> None:
    await asyncio.to_thread(
        _run, "admin", "create", "ada", "--data-dir", str(tmp_path), stdin=f"{PASSWORD}\n"
    )

    database = Database(f"sqlite+aiosqlite:///{tmp_path}/backhaul.sqlite3")
    async with database.reading() as connection:
        row = (await connection.execute(sa.text("SELECT * FROM audit_log"))).mappings().one()
    await database.close()
    assert (row["actor"], row["action"], row["target"]) == ("system", "user.create", "ada")


@pytest.mark.parametrize("command", [["serve"], ["db", "upgrade"], ["admin", "create"]])
def test_every_option_has_a_help_text(command: list[str]) -> None:
    environment = dict(os.environ, COLUMNS="200")
    result = CliRunner().invoke(APP, [*command, "--help"], env=environment)

    options = [line for line in result.stdout.splitlines() if "--" in line and "│" in line]
    assert options
    for line in options:
        assert len(line.split("  ")) > 1, line


def test_help_loads_none_of_the_servers_libraries() -> None:
    script = (
        "import sys, backhaul_api.cli; "
        "print({'litestar', 'sqlalchemy', 'uvicorn', 'argon2'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "set()"
