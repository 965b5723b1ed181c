"""What the upkeep of a repository does with restic: forget, prune, check."""

from __future__ import annotations

from collections.abc import Sequence

from backhaul.wire.jobs import (
    CheckArguments,
    CheckResult,
    ForgetArguments,
    JobKind,
    Outcome,
    Progress,
    PruneResult,
    Result,
    UnlockArguments,
    UnlockResult,
)
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.job_log import JobLog
from backhaul_agent.progress import ProgressGate
from backhaul_agent.restic import check, forget, prune, unlock
from backhaul_agent.restic.forget import Group
from backhaul_agent.restic.output import parse_percent
from backhaul_agent.restic_runner import Exit, ResticRunner


class UpkeepSteps:
    """The work on one job of upkeep."""

    def __init__(self, *, restic: ResticRunner, log: JobLog, progress: ProgressGate) -> None:
        self._restic = restic
        self._log = log
        self._progress = progress

    async def forget(self, arguments: ForgetArguments) -> Ending:
        """Remove what no rule keeps, after a dry run has shown that something is kept.

        Two processes: what the second removes is what the first one named, or newer.
        """
        fault = forget.find_fault(arguments)
        if fault is not None:
            return build_failure(fault)
        done, groups = await self._ask_forget(arguments, is_dry_run=True)
        if done.verdict.outcome is not Outcome.SUCCEEDED:
            return build_ending(done, None)
        if groups is None:
            return build_failure("restic printed no groups of snapshots, so nothing was removed")
        danger = forget.find_danger(groups)
        if danger is not None:
            return build_failure(danger, exit_code=done.code)
        if not any(group.removed for group in groups):
            self._log.write("agent", "every snapshot is kept")
            return build_ending(done, forget.build_result(groups))
        done, groups = await self._ask_forget(arguments, is_dry_run=False)
        return self._end_forget(done, groups)

    async def _ask_forget(
        self, arguments: ForgetArguments, *, is_dry_run: bool
    ) -> tuple[Exit, list[Group] | None]:
        lines: list[str] = []
        done = await self._restic.run(
            forget.build_arguments(arguments, is_dry_run=is_dry_run),
            kind=JobKind.FORGET,
            on_stdout=lines.append,
        )
        return done, forget.read_groups(lines)

    def _end_forget(self, done: Exit, groups: Sequence[Group] | None) -> Ending:
        if done.verdict.outcome is not Outcome.SUCCEEDED:
            return build_ending(done, None)
        if forget.has_left_some(done.stderr):
            message = "restic could not remove every snapshot; see the log"
            return build_failure(message, exit_code=done.code)
        if groups is None:
            return build_failure("restic printed no groups of snapshots", exit_code=done.code)
        result = forget.build_result(groups)
        self._log.write("agent", f"{result.kept} snapshots kept, {result.removed} removed")
        for snapshot in result.removed_snapshots:
            self._log.write("agent", f"removed {snapshot}")
        return build_ending(done, result)

    async def prune(self) -> Ending:
        return await self._run_text(prune.build_arguments(), JobKind.PRUNE, PruneResult())

    async def check(self, arguments: CheckArguments) -> Ending:
        result = CheckResult(read_data_subset=arguments.read_data_subset)
        return await self._run_text(check.build_arguments(arguments), JobKind.CHECK, result)

    async def unlock(self, arguments: UnlockArguments) -> Ending:
        """Remove the locks, then count what is left: restic's own words do not tell."""
        ending = await self._run_text(unlock.build_arguments(arguments), JobKind.UNLOCK, None)
        if ending.outcome is not Outcome.SUCCEEDED:
            return ending
        lines: list[str] = []
        done = await self._restic.run(
            unlock.build_count_arguments(), kind=JobKind.UNLOCK, on_stdout=lines.append
        )
        if done.verdict.outcome is not Outcome.SUCCEEDED:
            return build_ending(done, None)
        left = unlock.count_locks(lines)
        if left:
            self._log.write("agent", f"{left} locks are left, perhaps of processes that live")
        return build_ending(done, UnlockResult(locks_left=left))

    async def _run_text(
        self, arguments: Sequence[str], kind: JobKind, result: Result | None
    ) -> Ending:
        done = await self._restic.run(arguments, kind=kind, on_stdout=self._take_line)
        self._progress.flush()
        return build_ending(done, result if done.verdict.outcome is Outcome.SUCCEEDED else None)

    def _take_line(self, line: str) -> None:
        percent = parse_percent(line)
        if percent is not None:
            # One a second, for hours: the end of each step is enough for the log.
            self._progress.offer(Progress(percent_done=percent))
        if line.strip() and percent in {None, 1.0}:
            self._log.write("stdout", line)
