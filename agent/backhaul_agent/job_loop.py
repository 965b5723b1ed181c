"""The jobs of this host: one at a time, unless the settings say more, by priority and then in the
order in which they came."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.reports import JobFinished
from backhaul_agent.ending import Ending, note_cut
from backhaul_agent.errors import CredentialsError
from backhaul_agent.job import JOB_MARK, EndReason, JobRun, Workshop, build_finished
from backhaul_agent.journal import JournalJob
from backhaul_agent.lock_removal import remove_lock
from backhaul_agent.logs import fields
from backhaul_agent.process import end_orphan, find_marked, is_alive
from backhaul_agent.scratch import remove_left_behind

log = logging.getLogger(__name__)


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
        self._report(
            job, Ending(outcome=Outcome.CANCELLED, message="cancelled before restic started")
        )
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
            child = job.child if job.child and is_alive(job.child) else None
            # The agent can die between starting restic and noting it.
            child = child or find_marked(JOB_MARK, str(job.id))
            has_left_lock = False
            if child is not None:
                log.warning("job.orphan_ended", extra=fields(job_id=job.id, pid=child.pid))
                await end_orphan(child, self._workshop.graces)
            if child is not None or job.child is not None:
                has_left_lock = not await self._remove_lock(job)
            if job.noted_end is not None:
                # restic's work was done; only the list of what is in the repository is missing.
                self._finish(job, job.noted_end)
                continue
            ending = Ending(
                outcome=Outcome.FAILED,
                failure_class=FailureClass.INTERRUPTED,
                message="the agent was restarted while restic ran; run the job again",
            )
            if has_left_lock:
                ending = note_cut(ending, is_lock_left=True)
            self._report(job, ending)

    async def _remove_scratch(self) -> None:
        """Remove what drills had restored when the agent died, now that no restic writes there."""
        parent = self._workshop.settings.effective_scratch_dir
        for folder in await asyncio.to_thread(remove_left_behind, parent):
            log.warning("drill.scratch_left", extra=fields(folder=str(folder)))

    async def _remove_lock(self, job: JournalJob) -> bool:
        workshop = self._workshop
        try:
            credentials = workshop.identity.open_credentials(job.command)
        except CredentialsError:
            return False
        # Marked like all that runs for the job: an agent that dies here leaves it to be found, too.
        environment = workshop.build_environment(credentials) | {JOB_MARK: str(job.id)}
        return await remove_lock(workshop.settings.restic, environment, workshop.start)

    def _report(self, job: JournalJob, ending: Ending) -> None:
        self._finish(job, build_finished(job.command, ending, self._workshop.clock))

    def _finish(self, job: JournalJob, finished: JobFinished) -> None:
        self._workshop.journal.finish(finished)
        self._workshop.spool.notify()
        log.info("job.finished", extra=fields(job_id=job.id, outcome=finished.outcome))
