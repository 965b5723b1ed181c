"""A dump: a command of this host whose output becomes a backup, if it ends well.

restic cannot see how the command ended (it runs commands itself only since 0.17). So the agent runs
both, hands the output on, and tells restic of its end only after the command ended with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence

from backhaul_agent.errors import NotSupportedError
from backhaul_agent.feed import Feed
from backhaul_agent.job_log import JobLog
from backhaul_agent.lines import LineSplitter
from backhaul_agent.process import CHUNK_BYTES, Pipe
from backhaul_agent.settings import DumpSettings

DUMP_MARK = "BACKHAUL_DUMP_OF"
"""The variable by which the dump of a job is found again when the agent has died."""

TERMINATE_GRACE_S = 10.0
_OWN_PREFIX = "BACKHAUL_AGENT_"


def build_environment(inherited: Mapping[str, str], *, job_id: object) -> dict[str, str]:
    """Build what the command finds: the agent's own environment, and nothing of the repository."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OWN_PREFIX)}
    return kept | {DUMP_MARK: str(job_id)}


class Dump:
    """A running dump. Make it with `start`; then `relay` must be awaited, always."""

    def __init__(
        self,
        name: str,
        settings: DumpSettings,
        process: asyncio.subprocess.Process,
        pipes: Sequence[Pipe],
        log: JobLog,
    ) -> None:
        self._name = name
        self._timeout_s = settings.timeout
        self._process = process
        self._output, self._errors = pipes
        self._log = log
        self.failure: str | None = None
        """Why the output is not whole, where that is the dump's own doing."""
        self.is_whole = False
        """All of it went to restic, and its end."""

    @classmethod
    async def start(
        cls,
        name: str,
        settings: DumpSettings,
        *,
        prefix: Sequence[str],
        environment: Mapping[str, str],
        log: JobLog,
    ) -> Dump:
        """Start the command, in a session of its own.

        Raises:
            NotSupportedError: there is no such program, or it cannot be run.
        """
        log.write("agent", f"starting the dump {name}")
        program = shutil.which(settings.command[0], path=environment.get("PATH"))
        if program is None:
            raise NotSupportedError(
                f"the dump {name} cannot be run: there is no program {settings.command[0]}"
            )
        pipes = [Pipe("stdout"), Pipe("stderr")]
        try:
            process = await asyncio.create_subprocess_exec(
                *prefix,
                program,
                *settings.command[1:],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipes[0].writing_end,
                stderr=pipes[1].writing_end,
                env=dict(environment),
                cwd="/",
                start_new_session=True,
            )
            for pipe in pipes:
                await pipe.begin_reading()
        except BaseException as error:
            for pipe in pipes:
                pipe.close()
            if isinstance(error, OSError):
                raise NotSupportedError(
                    f"the dump {name} cannot be run: {settings.command[0]}: {error.strerror}"
                ) from error
            raise
        return cls(name, settings, process, pipes, log)

    async def relay(self, feed: Feed) -> None:
        """Hand the output on until the command ends, or the feed is given up; then it is ended.

        The end of restic's input is told only for a command that ended well and printed something.
        """
        watching = asyncio.create_task(self._log_errors())
        try:
            self.failure = await self._copy_within(feed)
            if self.failure is None and not feed.is_given_up.is_set():
                self.is_whole = True
                feed.finish()
        finally:
            await self._end()
            await asyncio.wait({watching}, timeout=TERMINATE_GRACE_S)
            watching.cancel()
            for pipe in (self._output, self._errors):
                pipe.close()

    async def _copy_within(self, feed: Feed) -> str | None:
        copying = asyncio.create_task(self._copy(feed))
        giving_up = asyncio.create_task(feed.is_given_up.wait())
        try:
            await asyncio.wait(
                {copying, giving_up},
                timeout=self._timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if copying.done():
                return copying.result()
            if giving_up.done():
                return None
            return f"the dump {self._name} took longer than its timeout of {self._timeout_s:g} s"
        finally:
            for task in (copying, giving_up):
                task.cancel()
            await asyncio.gather(copying, giving_up, return_exceptions=True)

    async def _copy(self, feed: Feed) -> str | None:
        count = 0
        while chunk := await self._output.reader.read(CHUNK_BYTES):
            count += len(chunk)
            try:
                await feed.write(chunk)
            except OSError:
                feed.give_up()  # restic is gone; its exit says why.
                return None
        code = await self._process.wait()
        if code != 0:
            how = f"with code {code}" if code > 0 else f"by signal {-code}"
            return f"the dump {self._name} ended {how}; see the log"
        return None if count else f"the dump {self._name} printed nothing"

    async def _log_errors(self) -> None:
        splitter = LineSplitter()
        is_over = False
        while not is_over:
            chunk = await self._errors.reader.read(CHUNK_BYTES)
            is_over = not chunk
            for line in splitter.feed(chunk, is_last=is_over):
                if line.strip():
                    self._log.write("stderr", f"{self._name}: {line}")

    async def _end(self) -> None:
        """End the command and all that it started: SIGTERM, then SIGKILL."""
        if self._process.returncode is None:
            self._send(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), TERMINATE_GRACE_S)
        self._send(signal.SIGKILL)
        await self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
