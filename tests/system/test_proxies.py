"""Real proxies on the way: one that cuts held requests after ten seconds, and one that is the only
way out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backhaul.objects.fleet import Fleet
from backhaul.wire.accounts import CreateEnrollmentToken
from backhaul.wire.fleet import CreateRepository
from backhaul.wire.jobs import JobState
from tests.conftest import stop_for_missing
from tests.fakes.walled_in import open_door
from tools.children import BACKHAUL, Child
from tools.local_fleet import LocalFleet

CUT_S = 10.0
LEARNING_LIMIT_S = 60.0
IDLE_S = 30.0
QUIET_S = 20.0
PROMPT_S = 3.0
"""Far below the hold that is learned: what comes sooner was not waited for."""

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    log_format times '$msec $status $request_time $uri';
    access_log {folder}/access.log times;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {url};
            proxy_http_version 1.1;
            proxy_read_timeout 10s;
        }}
    }}
}}
"""

TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 600
MaxClients 20
LogFile "{folder}/tinyproxy.log"
LogLevel Connect
Allow 127.0.0.1
"""


def _find_program(name: str) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    return shutil.which(name, path=path) or stop_for_missing(name)


def _find_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@contextmanager
def _run(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def server(restic: str, tmp_path: Path) -> Iterator[LocalFleet]:
    """Give an API with a repository; the host joins by another way."""
    server = LocalFleet(tmp_path, host="web-1", repository="nas")
    try:
        server.start_api()
        password = secrets.token_urlsafe(16)
        server.client.create_repository(
            CreateRepository(name="nas", location=str(server.repository), password=password)
        )
        yield server
    finally:
        server.stop()


@contextmanager
def _join(
    server: LocalFleet, url: str, *, before: tuple[str, ...] = (), **environment: str
) -> Iterator[Child]:
    """Enrol the host at a URL, and run its agent. `before` its commands stands what runs them."""
    made = server.client.create_enrollment_token(CreateEnrollmentToken(host_name="web-1"))
    server.environment |= environment
    agent_command = [*before, str(BACKHAUL), "agent"]
    state = ["--state-dir", str(server.state)]
    subprocess.run(
        [*agent_command, "enroll", "--server", url, *state],
        env=server.environment,
        input=made.token,
        capture_output=True,
        text=True,
        check=True,
    )
    command = [*agent_command, "run", *state]
    agent = Child("agent", command, logs=server.logs, environment=server.environment)
    try:
        host = Fleet(server.client).hosts["web-1"]
        deadline = time.monotonic() + 30
        while host.refresh().last_seen_at is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield agent
    finally:
        agent.stop(signal.SIGTERM)


def _run_a_job(server: LocalFleet, kind: str) -> float:
    """Run a job; gives how long the host took to hear of it, in seconds."""
    job = Fleet(server.client).hosts["web-1"].run(kind, repository="nas")
    job.wait(30, quiet=True)
    assert job.state in {JobState.SUCCEEDED, JobState.FAILED}, job.state
    assert job.accepted_at is not None
    return (job.accepted_at - job.created_at).total_seconds()


def _change_schedules(server: LocalFleet) -> float:
    """Create a schedule; gives how long the host took to follow it, in seconds."""
    host = Fleet(server.client).hosts["web-1"]
    began = time.monotonic()
    host.schedules.create("0 2 * * *", kind="check", repository="nas")
    while host.refresh().drift is not None:
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    return time.monotonic() - began


def _read_polls(log: Path) -> list[tuple[float, int, float]]:
    """List the polls of nginx's log: when each ended, its status, and how long it took."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return [
        (float(at), int(status), float(took_s))
        for at, status, took_s, path in lines
        if path == "/v1/agent/poll"
    ]


def test_hold_settles_below_the_age_at_which_a_proxy_cuts(
    server: LocalFleet, tmp_path: Path
) -> None:
    folder, port = tmp_path / "nginx", _find_port()
    folder.mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, port=port, url=server.client.url))
    nginx = [_find_program("nginx"), "-p", str(folder), "-c", str(configuration)]

    with _run(nginx, port), _join(server, f"http://127.0.0.1:{port}"):
        heard_at_once_s = _run_a_job(server, "init")
        deadline = time.monotonic() + LEARNING_LIMIT_S
        while not any(status == 200 and took_s > 5 for _, status, took_s in _polls(folder)):
            assert time.monotonic() < deadline, _polls(folder)
            time.sleep(0.2)
        begin, requests = time.time(), _count_requests(folder)
        time.sleep(IDLE_S)
        idle_requests = _count_requests(folder) - requests
        quiet = [poll for poll in _polls(folder) if poll[0] > begin]
        heard_when_learned_s = _run_a_job(server, "snapshots")
        state_dir = ("--state-dir", str(server.state))
        found = json.loads(server.run_cli("agent", "doctor", "--json", *state_dir))
        applied_s = _change_schedules(server)

    assert heard_at_once_s < PROMPT_S
    # Nothing is cut any more, and each poll is held for long.
    assert quiet
    assert {status for _, status, _ in quiet} == {200}
    assert all(5 < took_s < CUT_S for _, _, took_s in quiet)
    assert idle_requests <= IDLE_S / 5
    assert heard_when_learned_s < PROMPT_S
    assert applied_s < PROMPT_S
    (hold,) = (finding for finding in found if finding["check"] == "hold")
    assert hold["verdict"] == "warning"
    assert "cuts requests after 10 s; 8 s went through" in hold["detail"]


def _polls(folder: Path) -> list[tuple[float, int, float]]:
    return _read_polls(folder / "access.log")


def _count_requests(folder: Path) -> int:
    return len((folder / "access.log").read_text().splitlines())


def test_proxy_that_is_the_only_way_out_is_taken(server: LocalFleet, tmp_path: Path) -> None:
    folder, port = tmp_path / "tinyproxy", _find_port()
    folder.mkdir()
    configuration = folder / "tinyproxy.conf"
    configuration.write_text(TINYPROXY.format(folder=folder, port=port))
    tinyproxy = [_find_program("tinyproxy"), "-d", "-c", str(configuration)]
    # In a network of its own, in which nothing but the proxy can be reached.
    walled = (*_choose_wall(), str(tmp_path / "door"), str(port))

    with (
        _run(tinyproxy, port),
        open_door(tmp_path / "door", port),
        _join(
            server,
            server.client.url,
            before=walled,
            BACKHAUL_AGENT_PROXY=f"http://127.0.0.1:{port}",
        ),
    ):
        knock = f"import socket; socket.create_connection(('127.0.0.1', {_port_of(server)}))"
        direct = subprocess.run(
            [*walled[:-1], str(_find_port()), sys.executable, "-c", knock],
            capture_output=True,
            text=True,
            check=False,
        )
        heard_s = _run_a_job(server, "init")
        applied_s = _change_schedules(server)
        time.sleep(1)
        before = _list_asked(folder)
        time.sleep(QUIET_S)
        idle_requests = len(_list_asked(folder)) - len(before)

    assert "ConnectionRefusedError" in direct.stderr
    assert heard_s < PROMPT_S
    assert applied_s < PROMPT_S
    assert {"/v1/agents/enroll", "/v1/agent/poll", "/v1/agent/envelopes"} <= set(before)
    assert idle_requests <= QUIET_S / 5


def _list_asked(folder: Path) -> list[str]:
    return re.findall(r"POST http://\S+(/v1/\S+)", (folder / "tinyproxy.log").read_text())


def _port_of(server: LocalFleet) -> int:
    return int(server.client.url.rpartition(":")[2])


def _choose_wall() -> tuple[str, ...]:
    """Choose how to give a process a network of its own: as root, or as a root of its own."""
    inside = (sys.executable, "-m", "tests.fakes.walled_in")
    for unshare in (("unshare", "-n"), ("unshare", "-r", "-n")):
        with contextlib.suppress(OSError):
            if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
                return *unshare, *inside
    return stop_for_missing("a network of its own for a process (unshare -n)")
