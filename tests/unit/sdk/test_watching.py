"""Following a job without a client: which calls, and when to stop."""

from __future__ import annotations

import pytest

from backhaul._watching import LONGEST_PAUSE_S, JobWatch, LogWatch
from backhaul.errors import JobNotFinishedError
from backhaul.wire.jobs import TERMINAL_STATES, JobState
from tests.unit.sdk.builders import JOB_ID, build_job, build_log_page


class Stopwatch:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_first_call_answers_at_once() -> None:
    call = JobWatch(JOB_ID).next_call()

    assert call is not None
    assert (call.query, call.held_s) == ((), 0.0)


@pytest.mark.parametrize("state", sorted(TERMINAL_STATES))
def test_ended_job_is_not_asked_for_again(state: JobState) -> None:
    watch = JobWatch(JOB_ID)
    watch.next_call()
    watch.accept(build_job(state))

    assert watch.next_call() is None


def test_last_call_is_held_only_as_long_as_there_is_time() -> None:
    stopwatch = Stopwatch()
    watch = JobWatch(JOB_ID, timeout_s=25.0, monotonic=stopwatch)
    watch.next_call()
    watch.accept(build_job())

    stopwatch.now_s = 20.5
    call = watch.next_call()

    assert call is not None
    assert call.held_s == 5.0


def test_wait_ends_with_its_time() -> None:
    stopwatch = Stopwatch()
    watch = JobWatch(JOB_ID, timeout_s=25.0, monotonic=stopwatch)
    watch.next_call()
    watch.accept(build_job(JobState.RUNNING))
    stopwatch.now_s = 25.0

    with pytest.raises(JobNotFinishedError, match="still running") as caught:
        watch.next_call()

    assert caught.value.job.state is JobState.RUNNING


def test_held_call_without_news_is_repeated_at_once() -> None:
    stopwatch = Stopwatch()
    watch = JobWatch(JOB_ID, monotonic=stopwatch)
    watch.next_call()
    watch.accept(build_job())

    watch.next_call()
    stopwatch.now_s = 20.0

    assert not watch.accept(build_job())
    assert watch.pause_s == 0.0


def test_server_that_does_not_hold_is_not_asked_in_a_tight_loop() -> None:
    watch = JobWatch(JOB_ID, monotonic=Stopwatch())
    watch.next_call()
    watch.accept(build_job())

    pauses_s = []
    for _ in range(6):
        watch.next_call()
        watch.accept(build_job())
        pauses_s.append(watch.pause_s)

    assert pauses_s == [0.5, 1.0, 2.0, 4.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_news_end_the_pause() -> None:
    watch = JobWatch(JOB_ID, monotonic=Stopwatch())
    for revision in (1, 1, 2):
        watch.next_call()
        watch.accept(build_job(revision=revision))

    assert watch.pause_s == 0.0


def test_log_pauses_when_the_server_does_not_hold() -> None:
    watch = LogWatch(JOB_ID, is_followed=True, monotonic=Stopwatch())
    watch.next_call()
    watch.accept(build_log_page(is_complete=False))

    assert watch.pause_s > 0


def test_tail_is_asked_for_once_and_then_its_cursor() -> None:
    watch = LogWatch(JOB_ID, is_followed=True, tail=5, monotonic=Stopwatch())
    first = watch.next_call()
    watch.accept(build_log_page("line", is_complete=False))

    then = watch.next_call()

    assert first is not None
    assert ("tail", "5") in first.query
    assert then is not None
    assert [name for name, _ in then.query] == ["limit", "wait", "cursor"]
