"""Runs restic for one job: one command after the other, until one of them is to be ended."""

from __future__ import annotations

import asyncio
import errno
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from backhaul.wire.kinds import JobKind
from backhaul_agent.errors import ResticMissingError, ResticStartError
from backhaul_agent.feed import Feed
from backhaul_agent.job_log import JobLog
from backhaul_agent.lock_removal import remove_lock
from backhaul_agent.process import (
    Child,
    ChildProcess,
    Graces,
    OnChunk,
    Program,
    StartProgram,
    Stream,
)
from backhaul_agent.restic.exit_codes import Verdict, interpret, pick_message
from backhaul_agent.restic.version import ResticVersion

KEPT_ERROR_LINES = 200
"""Of stderr, to find out why restic failed; the log has all of them."""

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC})

OnText = Callable[[str], None]


class RunEndedError(Exception):
    """The job is to end, so nothing more is started for it."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How one command of restic ended."""

    code: int
    verdict: Verdict
    message: str | None
    """What restic said of its failure, without secrets."""
    stderr: tuple[str, ...]


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a command of restic is started."""

    prefix: tuple[str, ...] = ()
    """Programs that become restic, with their options."""
    feed: Feed | None = None
    """Its stdin."""


class ResticRunner:
    """Runs restic with the environment of one job."""

    def __init__(
        self,
        restic: str,
        *,
        version: ResticVersion | None,
        environment: Mapping[str, str],
        log: JobLog,
        on_child: Callable[[Child | None], None],
        graces: Graces,
        start: StartProgram = ChildProcess.start,
    ) -> None:
        self._restic = restic
        self._start = start
        self._version = version
        self._environment = environment
        self._log = log
        self._on_child = on_child
        self._graces = graces
        self._process: Program | None = None
        self._pids: set[int] = set()
        self._is_ended = False
        self._ending: asyncio.Task[None] | None = None
        self.second: Mapping[str, str] | None = None
        """The environment of a second repository, in which commands leave locks too."""
        self.was_killed = False
        self.was_cut_short = False
        """A command was ended, and may have left a lock."""
        self.has_left_lock = False
        """It could not be removed, if there is one."""

    async def run(
        self,
        arguments: Sequence[str],
        *,
        kind: JobKind,
        on_stdout: OnText,
        on_chunk: OnChunk | None = None,
        on_stderr: OnText | None = None,
        environment: Mapping[str, str] | None = None,
        manner: Manner = Manner(),  # noqa: B008 (frozen)
    ) -> Exit:
        """Run one command to its end. Lines of stderr go to the log, unless `on_stderr` has them.

        With `on_chunk`, stdout is no text, and goes there as it is. `environment` comes on top of
        the job's own, for this command.

        Raises:
            RunEndedError: `end` was called before.
            ResticMissingError: there is no restic to start.
            ResticStartError: the system would not start it.
        """
        if self._is_ended:
            raise RunEndedError
        self._log.write("agent", f"$ {shlex.join([*manner.prefix, 'restic', *arguments])}")
        errors: deque[str] = deque(maxlen=KEPT_ERROR_LINES)

        def take(stream: Stream, line: str) -> None:
            if stream == "stdout":
                on_stdout(line)
                return
            errors.append(line)
            if on_stderr is not None:
                on_stderr(line)
            elif line.strip():
                self._log.write("stderr", line)

        argv = [*manner.prefix, self._restic, *arguments]
        code = await self._read(argv, environment or {}, take, manner.feed, on_chunk)
        stderr = tuple(errors)
        message = pick_message(stderr)
        return Exit(
            code=code,
            verdict=interpret(code, version=self._version, kind=kind, stderr=stderr),
            message=self._log.redactor.redact(message) if message else None,
            stderr=stderr,
        )

    async def _read(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        take: Callable[[Stream, str], None],
        feed: Feed | None,
        on_chunk: OnChunk | None,
    ) -> int:
        variables = {**self._environment, **environment}
        try:
            process = await self._start(argv, variables, self._graces, feed)
        except (OSError, ValueError) as error:
            raise explain_start(argv[0], error) from error
        self._process = process
        self._pids.add(process.child.pid)
        try:
            await self._announce(process)
            if self._is_ended:
                self._start_ending()
            return await process.read_to_end(take, on_chunk)
        finally:
            self._process = None
            self.was_killed = self.was_killed or process.was_killed
            if process.is_gone:
                self._on_child(None)

    async def _announce(self, process: Program) -> None:
        """Name the process to the journal; what the journal does not know must not run."""
        try:
            self._on_child(process.child)
        except Exception:
            self.was_cut_short = True
            process.kill()
            await process.read_to_end(lambda *_: None)
            raise

    def end(self) -> None:
        """End what runs, politely, and start nothing more. Idempotent; returns at once."""
        self._is_ended = True
        if self._process is not None and self._ending is None:
            self._start_ending()

    def kill(self) -> None:
        """End what runs, at once."""
        self._is_ended = True
        if self._process is not None:
            self.was_cut_short = True
            self._process.kill()

    async def clean_up(self) -> None:
        """Remove the lock that a command which was ended may have left."""
        if self.was_cut_short:
            places = [self._environment, *([self.second] if self.second else [])]
            for environment in places:
                self._log.write("agent", "$ restic unlock")
                if not await remove_lock(self._restic, environment, self._start, pids=self._pids):
                    self.has_left_lock = True

    async def is_over(self) -> None:
        """Wait for what `end` began."""
        if self._ending is not None:
            await self._ending

    def _start_ending(self) -> None:
        assert self._process is not None  # noqa: S101 (both callers have looked)
        self.was_cut_short = True
        self._ending = asyncio.create_task(self._process.end())


def explain_start(
    restic: str, error: OSError | ValueError
) -> ResticMissingError | ResticStartError:
    """Tell a restic that is not there from a command line that the system does not take."""
    if isinstance(error, ValueError):
        return ResticStartError(f"{restic} cannot be started: {error}")
    reason = error.strerror or type(error).__name__
    if error.errno in _MISSING:
        return ResticMissingError(f"{restic} cannot be run: {reason}")
    if error.errno == errno.E2BIG:
        reason = "its command line is too long; name fewer paths and patterns"
    return ResticStartError(f"{restic} cannot be started: {reason}")
