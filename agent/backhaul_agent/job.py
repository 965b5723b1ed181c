"""One job, from its first line to its last.

The claim's receipt is here when it begins. Then, in this order: running, on disk; job.started;
restic, with job.progress and job.log; snapshots.report; job.finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from backhaul.wire.commands import CommandRun, Credentials
from backhaul.wire.environment import find_conflicts
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import Arguments
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_agent.bench import Bench, Second
from backhaul_agent.clock import Clock
from backhaul_agent.ending import Ending, build_refusal, describe_cut, note_cut
from backhaul_agent.errors import (
    AgentError,
    CredentialsError,
    DiskFullError,
    NotSupportedError,
    ResticMissingError,
    ResticStartError,
)
from backhaul_agent.identity import Identity
from backhaul_agent.job_log import JobLog
from backhaul_agent.journal import Journal, JournalJob
from backhaul_agent.kinds import work
from backhaul_agent.logs import fields, job_id_in_log
from backhaul_agent.policy import Policy
from backhaul_agent.process import Child, ChildProcess, Graces, StartProgram
from backhaul_agent.progress import ProgressGate
from backhaul_agent.redact import Redactor, build_redactor
from backhaul_agent.restic.environment import build_environment
from backhaul_agent.restic.version import ResticVersion, ask_version
from backhaul_agent.restic_runner import ResticRunner, RunEndedError
from backhaul_agent.room import write_once_there_is_room
from backhaul_agent.settings import Settings
from backhaul_agent.spool import Spool

log = logging.getLogger(__name__)

JOB_MARK = "BACKHAUL_JOB_ID"
"""The variable by which the restic of a job is found again, whatever happened to the agent."""


class Workshop(msgspec.Struct, frozen=True, kw_only=True):
    """What every job on this host works with."""

    settings: Settings
    identity: Identity
    policy: Policy
    journal: Journal
    spool: Spool
    clock: Clock
    inherited: Mapping[str, str]
    """The agent's own environment."""
    graces: Graces = Graces()
    start: StartProgram = ChildProcess.start
    """How restic is started."""

    def build_environment(self, credentials: Credentials) -> dict[str, str]:
        """Build what restic finds in its environment."""
        return build_environment(
            credentials,
            inherited=self.inherited,
            cache_dir=self.settings.effective_cache_dir,
            also_allowed=self.policy.environment,
        )

    def open_second(self, command: CommandRun) -> Second | None:
        """Open the second repository of a job that needs two.

        Raises:
            CredentialsError: it does not open, or one restic cannot have both environments.
        """
        credentials = self.identity.open_second_credentials(command)
        if credentials is None:
            return None
        first = self.identity.open_credentials(command)
        if conflicts := find_conflicts(first.environment, credentials.environment):
            raise CredentialsError(
                f"both repositories set {', '.join(conflicts)}, to different values, and one "
                "restic works on both"
            )
        return Second(credentials=credentials, environment=self.build_environment(credentials))


class EndReason(StrEnum):
    """Why a job was ended before restic was done."""

    CANCELLED = "cancelled"
    AGENT_STOPPED = "agent_stopped"
    TOO_LONG = "too_long"


_ENDINGS = {
    EndReason.CANCELLED: Ending(outcome=Outcome.CANCELLED, message="cancelled by an operator"),
    EndReason.AGENT_STOPPED: Ending(
        outcome=Outcome.FAILED,
        failure_class=FailureClass.INTERRUPTED,
        message="the agent was stopped while restic ran; run the job again",
    ),
    EndReason.TOO_LONG: Ending(
        outcome=Outcome.CANCELLED,
        message="restic ran longer than the job may take (its max_duration), and was ended",
    ),
}


class JobRun:
    """The run of one job. Await `run` once; `end` and `kill` cut it short."""

    def __init__(self, job: JournalJob, workshop: Workshop) -> None:
        self._command = job.command
        self._workshop = workshop
        self._restic: ResticRunner | None = None
        self._log: JobLog | None = None
        self._end_reason: EndReason | None = None

    async def run(self) -> None:
        """Do the job and write its end to the journal, whatever happens to it."""
        job_id_in_log.set(str(self._command.job_id))
        try:
            ending = await self._work()
        except CredentialsError as error:
            ending = build_refusal(str(error))
        except ResticStartError as error:
            ending = Ending(outcome=Outcome.FAILED, message=str(error))
        except ResticMissingError as error:
            ending = Ending(
                outcome=Outcome.FAILED,
                failure_class=FailureClass.RESTIC_MISSING,
                message=str(error),
            )
        except NotSupportedError as error:
            ending = Ending(
                outcome=Outcome.FAILED,
                failure_class=FailureClass.NOT_SUPPORTED,
                message=str(error),
            )
        except RunEndedError:
            ending = Ending(outcome=Outcome.FAILED)
        except DiskFullError as error:
            ending = Ending(
                outcome=Outcome.FAILED,
                failure_class=FailureClass.INTERRUPTED,
                message=f"the agent could not go on with it: {error}",
            )
        except (AgentError, sqlite3.Error):
            raise  # the journal is not to be trusted: the agent stops, and says so
        except Exception as error:
            log.error("job.broke", exc_info=error)
            ending = Ending(
                outcome=Outcome.FAILED,
                message=f"the agent failed at it ({type(error).__name__}); its log says where",
            )
        await self._finish(self._adjust(ending))

    def end(self, reason: EndReason) -> bool:
        """End restic with SIGINT first. The first reason counts: False for any later one."""
        if self._end_reason is not None:
            return False
        self._end_reason = reason
        if self._restic is not None:
            self._restic.end()
        return True

    def kill(self) -> None:
        """End restic at once."""
        self._end_reason = self._end_reason or EndReason.AGENT_STOPPED
        if self._restic is not None:
            self._restic.kill()

    async def _work(self) -> Ending:
        workshop, command = self._workshop, self._command
        arguments = _read_arguments(command)
        # Asked again: since the job was accepted, the policy may have got stricter.
        refusal = workshop.policy.refusal(arguments)
        if refusal is not None:
            return build_refusal(refusal)
        credentials = workshop.identity.open_credentials(command)
        environment = workshop.build_environment(credentials)
        second = workshop.open_second(command)
        # Asked each time: restic can be upgraded under a running agent.
        version = await ask_version(workshop.settings.restic, workshop.start)
        if self._end_reason is not None:
            raise RunEndedError
        redactor = build_redactor(credentials, *([second.credentials] if second else []))
        job_log = self._log = self._open_log(redactor)
        mark = {JOB_MARK: str(command.job_id)}
        self._restic = ResticRunner(
            workshop.settings.restic,
            version=version,
            environment=environment | mark,
            log=job_log,
            on_child=self._note_child,
            graces=workshop.graces,
            start=workshop.start,
        )
        self._restic.second = {**second.environment, **mark} if second else None
        await self._start(version)
        bench = self._build_bench(self._restic, job_log, credentials, second, version)
        return await self._supervise(bench, arguments)

    def _open_log(self, redactor: Redactor) -> JobLog:
        return JobLog(
            self._command.job_id,
            attempt=self._command.attempt,
            journal=self._workshop.journal,
            spool=self._workshop.spool,
            clock=self._workshop.clock,
            redactor=redactor,
        )

    def _build_bench(
        self,
        restic: ResticRunner,
        job_log: JobLog,
        credentials: Credentials,
        second: Second | None,
        version: ResticVersion,
    ) -> Bench:
        return Bench(
            job_id=self._command.job_id,
            host=self._workshop.identity.name,
            credentials=credentials,
            second=second,
            version=version,
            policy=self._workshop.policy,
            dumps=self._workshop.settings.dumps,
            inherited=self._workshop.inherited,
            restic=restic,
            log=job_log,
            progress=ProgressGate(
                self._command.job_id,
                attempt=self._command.attempt,
                spool=self._workshop.spool,
                clock=self._workshop.clock,
                redactor=job_log.redactor,
            ),
            spool=self._workshop.spool,
            clock=self._workshop.clock,
            scratch_dir=self._workshop.settings.effective_scratch_dir,
            note_end=self._note_end,
        )

    def _note_child(self, child: Child | None) -> None:
        journal = self._workshop.journal
        if child is not None:
            journal.record_child(self._command.job_id, child)
            return
        # That it has ended is plain from its start time, too.
        with contextlib.suppress(DiskFullError):
            journal.record_child(self._command.job_id, None)

    def _note_end(self, ending: Ending) -> None:
        workshop = self._workshop
        # Noted for a crash only; the report itself waits for room.
        with contextlib.suppress(DiskFullError):
            workshop.journal.note_end(build_finished(self._command, ending, workshop.clock))

    async def _start(self, version: ResticVersion) -> None:
        command, workshop = self._command, self._workshop
        started = JobStarted(
            job_id=command.job_id, attempt=command.attempt, at=workshop.clock.now()
        )
        await self._write(lambda: workshop.journal.start(started))
        workshop.spool.notify()
        log.info("job.started", extra=fields(kind=command.kind, restic=str(version)))

    async def _supervise(self, bench: Bench, arguments: Arguments) -> Ending:
        """Work, with the log flushed beside it and the time limit kept."""
        restic, job_log = bench.restic, bench.log
        beside = [asyncio.create_task(job_log.flush_forever())]
        if self._command.max_duration is not None:
            beside.append(asyncio.create_task(self._end_after(self._command.max_duration)))
        try:
            return await work(bench, arguments)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await restic.is_over()
            await restic.clean_up()
            if restic.was_killed or restic.has_left_lock:
                job_log.write("agent", describe_cut(is_lock_left=restic.has_left_lock))
            job_log.flush()

    async def _end_after(self, seconds: float) -> None:
        await self._workshop.clock.sleep(seconds)
        self.end(EndReason.TOO_LONG)

    def _adjust(self, ending: Ending) -> Ending:
        """Say why a job that was ended failed. One that was done in time keeps its success."""
        if self._end_reason is None or ending.outcome is not Outcome.FAILED:
            return ending
        adjusted = _ENDINGS[self._end_reason]
        restic = self._restic
        if restic is not None and (restic.was_killed or restic.has_left_lock):
            adjusted = note_cut(adjusted, is_lock_left=restic.has_left_lock)
        return msgspec.structs.replace(adjusted, exit_code=ending.exit_code, result=ending.result)

    async def _write(self, write: Callable[[], None]) -> None:
        await write_once_there_is_room(
            write,
            self._workshop.clock,
            is_stopping=lambda: self._end_reason is EndReason.AGENT_STOPPED,
        )

    async def _finish(self, ending: Ending) -> None:
        command, workshop = self._command, self._workshop
        workshop.spool.forget_progress(command.job_id)
        finished = build_finished(command, ending, workshop.clock)
        left_out = 0 if self._log is None else self._log.left_out
        await self._write(lambda: workshop.journal.finish(finished, left_out=left_out))
        workshop.spool.notify()
        log.info(
            "job.finished",
            extra=fields(
                kind=command.kind,
                outcome=ending.outcome,
                exit_code=ending.exit_code,
                failure_class=ending.failure_class,
                message=ending.message,
            ),
        )


def build_finished(command: CommandRun, ending: Ending, clock: Clock) -> JobFinished:
    """Build the report of an end; the journal fills in the number of log lines."""
    failure_class = ending.failure_class
    if ending.outcome is Outcome.FAILED and failure_class is None:
        failure_class = FailureClass.OTHER
    return JobFinished(
        job_id=command.job_id,
        attempt=command.attempt,
        at=clock.now(),
        outcome=ending.outcome,
        log_lines=0,
        exit_code=ending.exit_code,
        failure_class=failure_class,
        message=ending.message,
        result=ending.result,
    )


def _read_arguments(command: CommandRun) -> Arguments:
    # The inbox read them before it accepted the job.
    arguments: Arguments = msgspec.json.decode(command.arguments, type=Arguments)
    return arguments
