"""A fleet whose processes are killed and whose path to the API is bad: made to be mistreated."""

from __future__ import annotations

import random
import shlex
import shutil
import socket
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

from backhaul.wire.accounts import CreateEnrollmentToken
from backhaul_agent.journal_file import FILE_NAME
from tests.fakes.fault_proxy import FaultProxy
from tests.system.scheduled_fleet import Patience, ScheduledFleet
from tools.children import BACKHAUL, Child

_RUNS = "runs"
"""A line for each backup that restic was started for: the id of its job."""


class ChaosFleet(ScheduledFleet):
    """Hosts behind a fault proxy, each with a restic that notes whom it works for."""

    def __init__(
        self, folder: Path, patience: Patience, *, dice: random.Random, database_url: str | None
    ) -> None:
        super().__init__(
            folder,
            patience,
            poll_hold="5",
            settle="1",
            offline_after="3",
            restic=str(folder / "restic"),
        )
        self._database_url = database_url
        self._lives: Counter[str] = Counter()
        self._port = find_free_port()
        self.proxy = FaultProxy(self._port, dice=dice)
        self.kills: Counter[str] = Counter()
        self._write_restic()

    def _write_restic(self) -> None:
        real = shutil.which("restic")
        assert real is not None
        script = self.folder / "restic"
        script.write_text(
            "#!/bin/sh\n"
            # It takes its time, so that the blows meet it at work.
            'case "$1" in backup|check|prune) sleep 1 ;; esac\n'
            f'[ "$1" != backup ] || echo "$BACKHAUL_JOB_ID" >> {shlex.quote(str(self.runs_file))}\n'
            f'exec {shlex.quote(real)} "$@"\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    @property
    def runs_file(self) -> Path:
        return self.folder / _RUNS

    # Processes ---------------------------------------------------------------------------------

    def _start(
        self, name: str, *arguments: str, program: Sequence[str] = (str(BACKHAUL),)
    ) -> Child:
        self._lives[name] += 1
        if name == "api":
            arguments = self._build_serve(self._port)
        return super()._start(f"{name}-{self._lives[name]}", *arguments, program=program)

    def _build_serve(self, port: int) -> tuple[str, ...]:
        serve = ("serve", "--data-dir", str(self.folder / "api"), f"--port={port}")
        if self._database_url is None:
            return serve
        return *serve, "--database-url", self._database_url

    def restart_api(self) -> None:
        self.api = self._start("api")
        self.api.wait_for_output(r"Backhaul API on (\S+)", limit_s=60)

    def kill_api(self) -> None:
        self.kills["api"] += 1
        super().kill_api()

    def kill_agent_of(self, host: str) -> None:
        self.kills["agent"] += 1
        super().kill_agent_of(host)

    def enrol(self, host: str) -> None:
        made = self.client.create_enrollment_token(CreateEnrollmentToken(host_name=host))
        self.secrets[f"enrollment token of {host}"] = made.token
        server = ("--server", self.proxy.url)
        self.run_cli("agent", "enroll", *server, *self._state_of(host), typed=made.token)

    def stop(self) -> None:
        self.proxy.heal()
        super().stop()
        self.proxy.close()

    # What is left ------------------------------------------------------------------------------

    def count_backups(self) -> Counter[UUID]:
        """Count how often restic was started to back up, for each job."""
        if not self.runs_file.exists():
            return Counter()
        return Counter(UUID(line) for line in self.runs_file.read_text().split())

    def list_unsent(self) -> Iterator[str]:
        """Name what the agents still have for the server, or hold of jobs."""
        for host in self.agents:
            file = self.folder / f"agent-{host}" / FILE_NAME
            with closing(sqlite3.connect(file)) as connection:
                for (type_,) in connection.execute("SELECT type FROM spool WHERE is_sent = 0"):
                    yield f"{host}: {type_}"
                for (job_id,) in connection.execute("SELECT job_id FROM jobs"):
                    yield f"{host}: job {job_id}"

    def list_fired(self) -> Iterator[tuple[UUID, int]]:
        """List the slots that the agents have on record as fired: schedule and seconds."""
        for host in self.agents:
            file = self.folder / f"agent-{host}" / FILE_NAME
            with closing(sqlite3.connect(file)) as connection:
                for schedule_id, slot in connection.execute(
                    "SELECT schedule_id, slot FROM fired_slots"
                ):
                    yield UUID(schedule_id), slot // 1_000_000


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
