"""Waiting for a job through its object: how often the server is asked, and what Ctrl-C leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from backhaul import _watching
from backhaul.client import Client
from backhaul.objects.fleet import Fleet
from backhaul.objects.jobs import Job
from backhaul.wire.jobs import JobState
from tests.unit.sdk.builders import JOB_ID, TOKEN, URL, build_job, build_log_page, reply


class HoldingServer:
    """A server that holds each call as long as it is asked to, by a clock of its own."""

    def __init__(self, *, ends_after_s: float) -> None:
        self.now_s = 0.0
        self.ends_after_s = ends_after_s
        self.asked_at_s: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked_at_s.append(self.now_s)
        hold_s = float(request.url.params.get("wait", 0.0))
        self.now_s = min(self.now_s + hold_s, max(self.now_s, self.ends_after_s))
        is_over = self.now_s >= self.ends_after_s
        state, revision = (JobState.SUCCEEDED, 2) if is_over else (JobState.RUNNING, 1)
        return reply(build_job(state, revision=revision))

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> HoldingServer:
    """A server whose job ends after ten minutes and a second, on the watch's clock."""
    server = HoldingServer(ends_after_s=601.0)
    watch = _watching.JobWatch

    def build(*arguments: object, **options: object) -> _watching.JobWatch:
        return watch(*arguments, **options, monotonic=lambda: server.now_s)  # type: ignore[arg-type]

    monkeypatch.setattr("backhaul.client.JobWatch", build)
    return server


def find_job(handler: object, *, sleep: object = lambda _: None) -> Job:
    transport = httpx.MockTransport(handler)  # type: ignore[arg-type]
    fleet = Fleet(Client(URL, token=TOKEN, transport=transport, sleep=sleep))  # type: ignore[arg-type]
    return fleet.jobs.wrap(build_job(JobState.RUNNING, revision=1))


def test_wait_asks_at_most_once_in_20_seconds_and_ends_with_the_job(server: HoldingServer) -> None:
    job = find_job(server, sleep=server.sleep)

    assert job.wait() is job

    assert job.state is JobState.SUCCEEDED
    assert server.now_s == 601.0
    # The first looks, the others are held.
    assert server.asked_at_s == [0.0, *(20.0 * number for number in range(31))]


def interrupt(request: httpx.Request) -> httpx.Response:
    if "after_revision" in request.url.params or request.url.path.endswith("/log"):
        raise KeyboardInterrupt
    return reply(build_job(JobState.RUNNING, revision=1))


def test_interrupted_wait_says_that_the_job_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        find_job(interrupt).wait()

    said = capsys.readouterr()
    assert re.fullmatch(rf'Interrupted; job {JOB_ID} goes on\. .*\["{JOB_ID}"\].*\n', said.err)
    assert said.out == ""


def test_interrupted_log_says_so_only_when_it_was_followed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = find_job(interrupt)

    with pytest.raises(KeyboardInterrupt):
        next(job.log())
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt):
        next(job.log(follow=True))

    assert f"job {JOB_ID} goes on" in capsys.readouterr().err


def test_job_that_has_ended_does_not_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fail_late() -> Iterator[httpx.Response]:
        yield reply(build_job(JobState.FAILED, revision=2))
        raise KeyboardInterrupt

    answers = fail_late()
    with pytest.raises(KeyboardInterrupt):
        find_job(lambda _: next(answers)).wait(raise_on_failure=True)

    assert capsys.readouterr().err == ""


def test_tail_is_asked_of_the_server() -> None:
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return reply(build_log_page("one", "two", is_complete=True))

    job = find_job(answer)

    assert job.tail(5) == ("one", "two")
    assert [line.text for line in job.log(tail=7)] == ["one", "two"]
    assert [url.params["tail"] for url in asked] == ["5", "7"]
