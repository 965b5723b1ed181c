"""The jobs of this host: one at a time, unless the settings say more, by priority and then in the
order in which they came."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from functools import partial
from uuid import UUID

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.reports import JobFinished
from backhaul_agent.dump import DUMP_MARK
from backhaul_agent.ending import Ending, note_cut
from backhaul_agent.errors import CredentialsError, DiskFullError
from backhaul_agent.job import JOB_MARK, EndReason, JobRun, Workshop, build_finished
from backhaul_agent.journal import JournalJob
from backhaul_agent.lock_removal import remove_lock
from backhaul_agent.logs import fields
from backhaul_agent.process import Graces, end_orphan, find_marked, is_alive
from backhaul_agent.room import write_once_there_is_room
from backhaul_agent.scratch import remove_left_behind

log = logging.getLogger(__name__)

_DUMP_GRACES = Graces(interrupt=2.0, terminate=10.0)


class JobLoop:
    """Runs what the journal holds. `stop_accepting` lets the job finish, `abort_jobs` ends it."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._runs: dict[UUID, JobRun] = {}
        self._is_stopping = False

    async def run_until_stopped(self) -> None:
        """Run jobs as they are claimed. Ends after `stop_accepting`, when no job runs."""
        await self._settle_left_behind()
        await self._remove_scratch()
        claimed = self._workshop.spool.job_claimed
        async with asyncio.TaskGroup() as tasks:
            while not self._is_stopping:
                claimed.clear()
                job = self._choose_next()
                if job is None:
                    await claimed.wait()
                    continue
                run = self._runs[job.id] = JobRun(job, self._workshop)
                tasks.create_task(self._run(job.id, run))

    def _choose_next(self) -> JournalJob | None:
        if len(self._runs) >= self._workshop.settings.max_jobs:
            return None
        return self._workshop.journal.next_claimed(besides=self._runs)

    def stop_accepting(self) -> None:
        """Start no further job."""
        self._is_stopping = True
        self._workshop.spool.job_claimed.set()

    def abort_jobs(self) -> bool:
        """End what runs, with SIGINT first; False when nothing does.

        The reports say that the agent was stopped.
        """
        for run in self._runs.values():
            run.end(EndReason.AGENT_STOPPED)
        return bool(self._runs)

    def kill_jobs(self) -> None:
        """End what runs, at once."""
        for run in self._runs.values():
            run.kill()

    def cancel(self, job_id: UUID) -> bool:
        """End a job because an operator wants it; False when there is nothing to do (any more)."""
        if (run := self._runs.get(job_id)) is not None:
            return run.end(EndReason.CANCELLED)
        job = self._workshop.journal.find(job_id)
        if job is None or job.step in {"running", "finished"}:
            return False
        ending = Ending(outcome=Outcome.CANCELLED, message="cancelled before restic started")
        self._finish(job, build_finished(job.command, ending, self._workshop.clock))
        return True

    async def _run(self, job_id: UUID, run: JobRun) -> None:
        try:
            await run.run()
        finally:
            del self._runs[job_id]
            self._workshop.spool.job_claimed.set()

    async def _settle_left_behind(self) -> None:
        """Report the jobs in whose midst the agent was restarted.

        Their output is lost, and restic is not run again unasked: it may have done its work.
        """
        for job in self._workshop.journal.left_running():
            finished = await self._end_left_behind(job)
            try:
                await write_once_there_is_room(
                    partial(self._finish, job, finished),
                    self._workshop.clock,
                    is_stopping=lambda: self._is_stopping,
                )
            except DiskFullError:
                return  # It is on disk as running, so the next process reports it.

    async def _remove_scratch(self) -> None:
        """Remove what drills had restored when the agent died, now that no restic writes there."""
        parent = self._workshop.settings.effective_scratch_dir
        for folder in await asyncio.to_thread(remove_left_behind, parent):
            log.warning("drill.scratch_left", extra=fields(folder=str(folder)))

    async def _end_left_behind(self, job: JournalJob) -> JobFinished:
        """End what still runs for a job, remove its lock, and say how it ended."""
        dump = find_marked(DUMP_MARK, str(job.id))
        if dump is not None:
            log.warning("job.dump_ended", extra=fields(job_id=job.id, pid=dump.pid))
            await end_orphan(dump, _DUMP_GRACES, send=os.killpg)
        child = job.child if job.child and is_alive(job.child) else None
        # The agent can die between starting restic and noting it.
        child = child or find_marked(JOB_MARK, str(job.id))
        if child is not None:
            log.warning("job.orphan_ended", extra=fields(job_id=job.id, pid=child.pid))
            await end_orphan(child, self._workshop.graces)
        # Also when none was found: it may have ended by itself, and not in order.
        is_unlocked = await self._remove_lock(job, {one.pid for one in (job.child, child) if one})
        if job.noted_end is not None:
            # restic's work was done; only the list of what is in the repository is missing.
            return job.noted_end
        ending = Ending(
            outcome=Outcome.FAILED,
            failure_class=FailureClass.INTERRUPTED,
            message="the agent was restarted while restic ran; run the job again",
        )
        if not is_unlocked:
            ending = note_cut(ending, is_lock_left=True)
        return build_finished(job.command, ending, self._workshop.clock)

    async def _remove_lock(self, job: JournalJob, pids: Collection[int]) -> bool:
        workshop = self._workshop
        try:
            credentials = workshop.identity.open_credentials(job.command)
            second = workshop.open_second(job.command)
        except CredentialsError:
            return False
        environments = [workshop.build_environment(credentials)]
        if second is not None:
            environments.append(dict(second.environment))
        # Marked like all that runs for the job: an agent that dies here leaves it to be found, too.
        mark = {JOB_MARK: str(job.id)}
        restic = workshop.settings.restic
        removed = [
            await remove_lock(restic, one | mark, workshop.start, pids=pids) for one in environments
        ]
        return all(removed)

    def _finish(self, job: JournalJob, finished: JobFinished) -> None:
        self._workshop.journal.finish(finished)
        self._workshop.spool.notify()
        log.info("job.finished", extra=fields(job_id=job.id, outcome=finished.outcome))
