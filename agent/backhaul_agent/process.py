"""One child process: started in a session of its own, read to the end, ended politely.

Reading goes on until the pipes are closed, also after the decision to end: restic dies of a closed
stdout and leaves its lock behind (0.14.0). For the same reason the process is given the reading
ends of its own pipes: when the agent dies, nothing breaks for it. It goes on until the pipes are
full and then waits, for the next agent to end it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from backhaul_agent.feed import Feed
from backhaul_agent.lines import LineSplitter

Stream = Literal["stdout", "stderr"]
OnLine = Callable[[Stream, str], None]
OnChunk = Callable[[bytes], None]

CHUNK_BYTES = 64 * 1024
INTERRUPT_GRACE_S = 60.0
"""restic 0.14 waited 15 s for a slow upload after SIGINT before it removed its lock."""
TERMINATE_GRACE_S = 10.0
PIPE_GRACE_S = 5.0
"""How long a grandchild, like ssh, may hold the pipes after restic itself is gone. Then it is
killed; after the same again, the pipes of one that left the session are closed."""
_LOOK_EVERY_S = 0.5
_STREAMS: tuple[Stream, ...] = ("stdout", "stderr")


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """What names a process beyond its end: numbers of processes are used again."""

    pid: int
    started: int
    """In clock ticks since the machine started, from /proc/PID/stat."""


class Graces(msgspec.Struct, frozen=True, kw_only=True):
    """How long each signal may take, in seconds."""

    interrupt: float = INTERRUPT_GRACE_S
    terminate: float = TERMINATE_GRACE_S
    pipe: float = PIPE_GRACE_S


class Program(Protocol):
    """What the agent asks of a program that it has started."""

    was_killed: bool

    @property
    def child(self) -> Child: ...

    @property
    def is_gone(self) -> bool: ...

    async def read_to_end(self, on_line: OnLine, on_chunk: OnChunk | None = None) -> int: ...

    async def end(self) -> None: ...

    def kill(self) -> None: ...


class StartProgram(Protocol):
    """Starts a program; raises OSError, or ValueError, when that is not possible."""

    async def __call__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        graces: Graces,
        feed: Feed | None = None,
        /,
    ) -> Program: ...


class ChildProcess:
    """A running program. Make it with `start`; `read_to_end` must be awaited, always."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        graces: Graces,
        pipes: Sequence[Pipe],
        feed: Feed | None = None,
    ) -> None:
        self._process = process
        self._feed = feed
        self._graces = graces
        self._pipes = pipes
        self._is_over = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._on_line: OnLine | None = None
        self._on_chunk: OnChunk | None = None
        self._failure: Exception | None = None
        self._ending: asyncio.Task[None] | None = None
        self.was_killed = False
        """SIGINT and SIGTERM did not help."""

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        graces: Graces = Graces(),  # noqa: B008 (frozen)
        feed: Feed | None = None,
    ) -> ChildProcess:
        """Start a program with nothing inherited, and stdin closed unless there is a feed.

        Raises:
            OSError: there is no such program, or it cannot be started.
        """
        pipes = [Pipe(name) for name in _STREAMS]
        fed_by = [] if feed is None else [feed.writing_end]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL if feed is None else feed.reading_end,
                stdout=pipes[0].writing_end,
                stderr=pipes[1].writing_end,
                pass_fds=[*(pipe.reading_end for pipe in pipes), *fed_by],
                env=dict(environment),
                cwd="/",
                # Away from the terminal: Ctrl-C goes to the agent, which passes it on in its own
                # way.
                start_new_session=True,
            )
            if feed is not None:
                feed.hand_over()
            for pipe in pipes:
                await pipe.begin_reading()
        except BaseException:
            for pipe in pipes:
                pipe.close()
            raise
        return cls(process, graces, pipes, feed)

    @property
    def child(self) -> Child:
        return Child(pid=self._process.pid, started=read_start_time(self._process.pid) or 0)

    @property
    def is_gone(self) -> bool:
        return self._process.returncode is not None

    async def read_to_end(self, on_line: OnLine, on_chunk: OnChunk | None = None) -> int:
        """Read all output and give the exit code, negative for a signal.

        With `on_chunk`, stdout is no text: it gets the bytes as they come.
        A read that is cancelled, or whose `on_line` fails in any way, first ends the process:
        nothing is left running unwatched.
        """
        self._on_line, self._on_chunk = on_line, on_chunk
        draining = asyncio.create_task(self._drain())
        try:
            await asyncio.shield(draining)
        except asyncio.CancelledError:
            ending = self._start_ending()
            await _finish(draining)
            await _finish(ending)
            raise
        if self._ending is not None:
            await self._ending
        if self._failure is not None:
            raise self._failure
        return await self._process.wait()

    async def end(self) -> None:
        """End the process: SIGINT, then SIGTERM, then SIGKILL, with grace between. Idempotent.

        SIGINT comes first because restic before 0.17 dies of SIGTERM and leaves its lock. It goes
        to restic alone, which then ends its helpers in order (ssh, rclone); SIGKILL goes to all.
        """
        self._give_up_feed()
        for number, grace in (
            (signal.SIGINT, self._graces.interrupt),
            (signal.SIGTERM, self._graces.terminate),
        ):
            self._send(number)
            if await self._is_over_within(grace):
                return
        self.was_killed = True
        self.kill()
        await self._is_over.wait()

    def pause(self) -> None:
        """Read no further: the process waits, once its pipes are full."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read on. Needed before it can be ended, too."""
        self._may_read.set()

    def kill(self) -> None:
        """End the process and its helpers at once."""
        self._give_up_feed()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _give_up_feed(self) -> None:
        if self._feed is not None:
            self._feed.give_up()

    def _start_ending(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(self.end())
        return self._ending

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _is_over_within(self, grace_s: float) -> bool:
        try:
            await asyncio.wait_for(self._is_over.wait(), grace_s)
        except TimeoutError:
            return False
        return True

    async def _read(self, pipe: Pipe) -> None:
        splitter = LineSplitter()
        while True:
            await self._may_read.wait()
            chunk = await pipe.reader.read(CHUNK_BYTES)
            if not chunk:
                break
            self._hand_on(pipe.name, splitter, chunk)
        self._hand_on(pipe.name, splitter, b"")

    def _hand_on(self, name: Stream, splitter: LineSplitter, chunk: bytes) -> None:
        """Give lines to whoever reads; after a failure there, output is only drained."""
        if self._failure is not None or self._on_line is None:
            return None
        try:
            if name == "stdout" and self._on_chunk is not None:
                return self._on_chunk(chunk)
            for line in splitter.feed(chunk, is_last=not chunk):
                self._on_line(name, line)
        except Exception as error:  # noqa: BLE001 (`read_to_end` raises it, once restic is gone)
            self._failure = error
            self._start_ending()

    async def _drain(self) -> None:
        """Wait until both pipes are closed; helpers that outlive restic do not hold this up.

        What left restic's session cannot be killed with it, but its end of the pipes is let go.
        """
        readers = [asyncio.create_task(self._read(pipe)) for pipe in self._pipes]
        waited_s = 0.0
        while (await asyncio.wait(readers, timeout=_LOOK_EVERY_S))[1]:
            if not self.is_gone:
                continue
            waited_s += _LOOK_EVERY_S
            if waited_s >= self._graces.pipe:
                self.kill()
            if waited_s >= 2 * self._graces.pipe:
                break
        for reader in readers:
            reader.cancel()
        for result in await asyncio.gather(*readers, return_exceptions=True):
            if isinstance(result, Exception):
                self._failure = self._failure or result
                self._start_ending()  # Nobody reads on, so it could wait for us for ever.
        for pipe in self._pipes:
            pipe.close()
        await self._process.wait()
        self._is_over.set()


class Pipe:
    """One stream of a child's output. restic gets both of its ends."""

    def __init__(self, name: Stream) -> None:
        self.name = name
        self.reader = asyncio.StreamReader()
        self.reading_end, self.writing_end = os.pipe()
        self._is_writing_end_ours = True
        self._transport: asyncio.ReadTransport | None = None

    async def begin_reading(self) -> None:
        """Let go of the writing end, which is the child's alone from now on, and read."""
        self._close_writing_end()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.reader),
            os.fdopen(self.reading_end, "rb", buffering=0),
        )

    def close(self) -> None:
        """Let go of our ends, also while somebody else holds the pipe open."""
        self._close_writing_end()
        if self._transport is not None:
            self._transport.close()
        else:
            os.close(self.reading_end)

    def _close_writing_end(self) -> None:
        if self._is_writing_end_ours:
            self._is_writing_end_ours = False
            os.close(self.writing_end)


async def _finish(task: asyncio.Task[None]) -> None:
    """Wait for a task however often the waiting is cancelled: it ends soon, by its own graces."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


def read_start_time(pid: int) -> int | None:
    """Read when a process started, or None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold spaces and parentheses itself.
    state, *rest = text.rpartition(")")[2].split()
    return None if state == "Z" else int(rest[18])


def is_alive(child: Child) -> bool:
    """Tell whether this very process still runs."""
    return child.started != 0 and read_start_time(child.pid) == child.started


def find_marked(name: str, value: str) -> Child | None:
    """Find a process that was started with a variable in its environment.

    Its helpers inherit the variable; the one meant leads the session that it was started in.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            is_meant = f"{name}={value}".encode() in variables and os.getsid(pid) == pid
        except OSError:
            continue  # It has ended, or is another user's.
        if is_meant and (started := read_start_time(pid)) is not None:
            return Child(pid=pid, started=started)
    return None


async def end_orphan(
    child: Child,
    graces: Graces = Graces(),  # noqa: B008 (frozen)
    *,
    send: Callable[[int, int], None] = os.kill,
) -> None:
    """End a process that an earlier run of the agent started, in the usual order of signals.

    With `os.killpg` to send them, what it has started goes with it.
    """
    for number, grace in (
        (signal.SIGINT, graces.interrupt),
        (signal.SIGTERM, graces.terminate),
        (signal.SIGKILL, graces.terminate),
    ):
        if not is_alive(child):
            return
        with contextlib.suppress(ProcessLookupError):
            send(child.pid, number)
        waited_s = 0.0
        while is_alive(child) and waited_s < grace:
            await asyncio.sleep(_LOOK_EVERY_S / 5)
            waited_s += _LOOK_EVERY_S / 5
