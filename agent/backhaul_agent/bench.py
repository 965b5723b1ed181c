"""What the work on one job has at hand: restic, the log, the progress, the spool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from backhaul.wire.commands import Credentials
from backhaul.wire.jobs import Outcome, Progress
from backhaul.wire.kinds import JobKind, Result
from backhaul_agent.clock import Clock
from backhaul_agent.ending import Ending, build_ending
from backhaul_agent.errors import CredentialsError
from backhaul_agent.job_log import JobLog
from backhaul_agent.policy import Policy
from backhaul_agent.progress import ProgressGate
from backhaul_agent.restic.output import JsonObject, parse_object, parse_percent, parse_progress
from backhaul_agent.restic.version import ResticVersion
from backhaul_agent.restic_runner import Exit, OnText, ResticRunner
from backhaul_agent.settings import DumpSettings
from backhaul_agent.spool import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """The second repository of a job that needs two."""

    credentials: Credentials
    environment: Mapping[str, str]
    """What restic finds there when it works on that one alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The place where one job is worked on."""

    job_id: UUID
    host: str
    """The name of this host, by which restic files its snapshots."""
    credentials: Credentials
    second: Second | None
    version: ResticVersion
    policy: Policy
    dumps: Mapping[str, DumpSettings]
    inherited: Mapping[str, str]
    """The agent's own environment."""
    restic: ResticRunner
    log: JobLog
    progress: ProgressGate
    spool: Spool
    clock: Clock
    scratch_dir: Path
    """Where a drill restores to, in a folder of its own."""
    note_end: Callable[[Ending], None]

    def require_second(self, repository_id: UUID) -> Second:
        """Give the second repository that the job names.

        Raises:
            CredentialsError: the command came without what opens it.
        """
        second = self.second
        if second is None or second.credentials.repository_id != repository_id:
            raise CredentialsError("the command carries no credentials for the second repository")
        return second

    async def run(
        self,
        arguments: Sequence[str],
        *,
        kind: JobKind,
        on_stderr: OnText | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Exit, list[str]]:
        """Run a command of restic whose output is short, and give the lines of it.

        Raises:
            RunEndedError, ResticMissingError, ResticStartError
        """
        lines: list[str] = []
        done = await self.restic.run(
            arguments,
            kind=kind,
            on_stdout=lines.append,
            on_stderr=on_stderr,
            environment=environment,
        )
        return done, lines

    async def run_text(
        self, arguments: Sequence[str], kind: JobKind, result: Result | None
    ) -> Ending:
        """Run a command that prints text for people, and judge it by its exit code."""
        done = await self.restic.run(arguments, kind=kind, on_stdout=self.take_text)
        self.progress.flush()
        return build_ending(done, result if done.verdict.outcome is Outcome.SUCCEEDED else None)

    def take_status(self, line: str, summaries: list[JsonObject]) -> None:
        """Take a line of a command that prints its progress as JSON."""
        found = parse_object(line)
        if found is None:
            self.write_stdout(line)
        elif found.get("message_type") == "summary":
            summaries.append(found)
        elif (progress := parse_progress(found)) is not None:
            self.progress.offer(progress)

    def write_stdout(self, line: str) -> None:
        if line.strip():
            self.log.write("stdout", line)

    def keep(self, ending: Ending) -> None:
        """Keep how the work ended, and all that restic said of it, should the agent die now."""
        self.log.flush()
        self.note_end(ending)

    def take_text(self, line: str) -> None:
        percent = parse_percent(line)
        if percent is not None:
            # One a second, for hours: the end of each step is enough for the log.
            self.progress.offer(Progress(percent_done=percent))
        if line.strip() and percent in {None, 1.0}:
            self.log.write("stdout", line)
