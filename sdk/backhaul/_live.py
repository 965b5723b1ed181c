"""What a wait shows: in a notebook a progress bar that ends as a summary, elsewhere nothing.

The command line has its own. IPython is never imported: where it runs, it is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from backhaul.errors import BackhaulError
from backhaul.wire.jobs import TERMINAL_STATES, Job


def find_shell() -> Any | None:
    """Give the IPython shell of a notebook's kernel; None in a script or a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if shell is not None and getattr(shell, "kernel", None) is not None else None


def show_error(error: BackhaulError) -> None:
    """Show an error as a panel, in a notebook."""
    if find_shell() is not None:
        from backhaul.html import render_error

        display = sys.modules["IPython.display"]
        display.display(display.HTML(render_error(error)))


class ShownJob:
    """A job under the eyes of somebody who waits for it."""

    def __init__(self, job: Job, *, is_shown: bool) -> None:
        self._job = job
        self._is_shown = is_shown
        self._handle: Any = None

    def __enter__(self) -> ShownJob:
        if self._is_shown:
            display = sys.modules["IPython.display"]
            self._handle = display.display(_Panel(self._job), display_id=True)
        return self

    def update(self, job: Job) -> None:
        """Show how it stands now."""
        self._job = job
        if self._handle is not None:
            self._handle.update(_Panel(job))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            _say_it_goes_on(self._job)


class _Panel:
    """What IPython shows of a job, in HTML or in text."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def _repr_html_(self) -> str:
        from backhaul.html import render

        return render(self._job)

    def __repr__(self) -> str:
        from backhaul.html.plain import render_job_summary

        return render_job_summary(self._job)


def show_job(job: Job, *, is_quiet: bool) -> ShownJob:
    """Show a job for the length of a block, where there is somebody to see it."""
    return ShownJob(job, is_shown=not is_quiet and find_shell() is not None)


@contextmanager
def note_interrupt(job: Job) -> Iterator[None]:
    """Say, when Ctrl-C ends a block, that it did not end the job."""
    try:
        yield
    except KeyboardInterrupt:
        _say_it_goes_on(job)
        raise


def _say_it_goes_on(job: Job) -> None:
    if job.state not in TERMINAL_STATES:
        sys.stderr.write(
            f'Interrupted; job {job.id} goes on. Wait for it again: fleet.jobs["{job.id}"].wait()\n'
        )
