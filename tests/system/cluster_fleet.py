"""Three instances of the API behind a real nginx, as the page on many instances sets it up."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.house.modules import ROOT
from tests.system.chaos_fleet import ChaosFleet, find_free_port
from tests.system.next_version import write_migrations
from tests.system.scheduled_fleet import Patience
from tools.children import BACKHAUL, Child

INSTANCES = ("api-1", "api-2", "api-3")
PAGE = ROOT / "docs" / "instances.md"

_START_LIMIT_S = 90.0
_DRAIN_LIMIT_S = 10.0

_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    log_format answers '$msec $status $request_method $uri $upstream_addr';
    access_log {folder}/access.log answers;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{block}
}}
"""


def find_nginx() -> str | None:
    """Find nginx, which lies where only root looks."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def build_nginx(folder: Path, *, port: int, servers: Sequence[int]) -> str:
    """Build what nginx is to do from the page: without TLS, and with these ports."""
    (block,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    block = re.sub(r" *(server_name|ssl_\w+) .*\n", "", block)
    block = block.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    for number, server in enumerate(servers, 1):
        address = f"10.0.0.1{number}:8440"
        assert address in block
        block = block.replace(address, f"127.0.0.1:{server}")
    # As root, nginx would work as somebody who cannot look into the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    return _NGINX.format(folder=folder, user=user, block=block)


class ClusterFleet(ChaosFleet):
    """A fleet whose API is three processes, each of which can be killed, restarted and rolled."""

    def __init__(
        self, folder: Path, patience: Patience, *, dice: random.Random, database_url: str
    ) -> None:
        super().__init__(folder, patience, dice=dice, database_url=database_url)
        self.ports = {name: find_free_port() for name in INSTANCES}
        self.rolled: list[str] = []
        self.unclean: list[str] = []
        """What was wrong with ends that should have been in order."""
        self._instances: dict[str, Child] = {}
        self._nginx_folder = folder / "nginx"
        self._migrations = folder / "migrations"
        write_migrations(self._migrations)

    # Processes ---------------------------------------------------------------------------------

    def start_api(self) -> None:
        """Start all instances at once on the empty database, nginx, and sign in."""
        for name in INSTANCES:
            self._instances[name] = self._start(name)
        for name in INSTANCES:
            self._wait_until_it_listens(name)
        self._start_nginx()
        # Each has printed a setup token, and this is as likely as not one of the earlier ones.
        self._sign_in(f"http://127.0.0.1:{self._port}", self._instances[INSTANCES[1]])
        for instance in self._instances.values():
            instance.redact_output()

    def start_instance(self, name: str) -> None:
        """Start an instance again, in the version that it was rolled to."""
        self._instances[name] = self._start(name)
        self._wait_until_it_listens(name)

    def kill_instance(self, name: str) -> None:
        """End it with SIGKILL, in whatever it is doing."""
        self.kills["api"] += 1
        self._instances[name].kill()

    def roll(self, name: str) -> None:
        """Stop an instance in order, unless it is dead, and start the next version in its place."""
        child = self._instances[name]
        if child.process.poll() is None:
            begun = time.monotonic()
            code = child.stop(signal.SIGTERM)
            took_s = time.monotonic() - begun
            if code != 0 or took_s > _DRAIN_LIMIT_S:
                self.unclean.append(f"{child.name} ended with {code}, in {took_s:.1f} s")
        self.rolled.append(name)
        self.start_instance(name)

    def _start(
        self, name: str, *arguments: str, program: Sequence[str] = (str(BACKHAUL),)
    ) -> Child:
        if name in self.ports:
            arguments = self._build_serve(self.ports[name])
        if name in self.rolled:
            program = (sys.executable, "-m", "tests.system.next_version", str(self._migrations))
            self.environment["PYTHONPATH"] = str(ROOT)
        return super()._start(name, *arguments, program=program)

    def _wait_until_it_listens(self, name: str) -> None:
        self._instances[name].wait_for_output(r"Backhaul API on (\S+)", limit_s=_START_LIMIT_S)

    def _start_nginx(self) -> None:
        program = find_nginx()
        assert program is not None
        self._nginx_folder.mkdir()
        file = self._nginx_folder / "nginx.conf"
        file.write_text(
            build_nginx(self._nginx_folder, port=self._port, servers=tuple(self.ports.values()))
        )
        command = ("-p", str(self._nginx_folder), "-c", str(file))
        nginx = self._start("nginx", *command, program=(program,))
        deadline = time.monotonic() + _DRAIN_LIMIT_S
        while not _is_open(self._port):
            assert nginx.process.poll() is None, nginx.error_file.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    # What is left ------------------------------------------------------------------------------

    def count_answers(self) -> Counter[int]:
        """Count what nginx has passed on, by status."""
        lines = (self._nginx_folder / "access.log").read_text().splitlines()
        return Counter(int(line.split()[1]) for line in lines)

    def list_errors(self) -> Iterator[str]:
        """Name what the instances call errors: what a person must look at."""
        for file in sorted(self.logs.glob("api-*.err")):
            for line in file.read_text(errors="replace").splitlines():
                if not line.startswith("{"):
                    yield f"{file.name}: {line[:300]}"
                elif json.loads(line)["level"] == "error":
                    yield f"{file.name}: {line[:2000]}"


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
