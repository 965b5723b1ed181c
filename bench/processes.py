"""The processes that are measured, each alone on one core; their clients have another."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SERVER_CORE, CLIENT_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
"""The same one where there is no other."""

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024
_CPUCLOCK_SCHED = 2
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 60.0
_QUIET_SHARE = 0.05
"""Of a core: what a server with parked polls may do besides."""
_QUIET_PAUSE_S = 0.2
_QUIET_TIMES = 2


class Server:
    """A process that listens."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port = port
        self._process = process

    def read_memory_kib(self) -> float:
        statm = Path(f"/proc/{self._process.pid}/statm").read_text()
        return int(statm.split()[1]) * _PAGE_KIB

    def read_cpu_s(self) -> float:
        # Of all threads, as clock_getcpuclockid(3) names it: /proc counts in steps of 10 ms.
        return time.clock_gettime((~self._process.pid << 3) | _CPUCLOCK_SCHED)

    async def settle(self) -> None:
        """Wait until it has nothing to do, twice in a row: it may only wait for its database."""
        last, quiet = self.read_cpu_s(), 0
        while quiet < _QUIET_TIMES:
            await asyncio.sleep(_QUIET_PAUSE_S)
            now = self.read_cpu_s()
            quiet = quiet + 1 if now - last <= _QUIET_SHARE * _QUIET_PAUSE_S else 0
            last = now

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    async def wait_until_it_listens(self) -> None:
        deadline = time.perf_counter() + _START_LIMIT_S
        while True:
            assert not self.has_ended(), f"{self._process.args!r} ended by itself"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert time.perf_counter() < deadline
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@contextmanager
def run_server(
    command: Callable[[int], Sequence[str]],
    environment: Mapping[str, str] | None = None,
    *,
    core: int = SERVER_CORE,
) -> Iterator[Server]:
    """Run a server for the length of the block; the command is built for a free port.

    What it says on stderr is shown, for it should have nothing to say.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    process = subprocess.Popen(
        command(port),
        env=os.environ | dict(environment or {}),
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        yield Server(process, port)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def become_client() -> None:
    """Leave the server's core to the server, and pause for no garbage: this process makes little
    and lives short."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    gc.disable()


def build_runner() -> asyncio.Runner:
    """Give what runs coroutines with less work for the client than asyncio's own loop."""
    if sys.platform == "win32":
        return asyncio.Runner()
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
