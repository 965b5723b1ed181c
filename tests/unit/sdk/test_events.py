"""Events: which calls, what the command prints, what a live view shows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import httpx
import msgspec
import pytest
import respx

from backhaul._view import RETRY_S, Scene, View, show_view
from backhaul._watching import HOLD_S, LONGEST_PAUSE_S, EventWatch
from backhaul.client import Client
from backhaul.errors import ConfigurationError
from backhaul.objects.fleet import Fleet
from backhaul.wire.events import Event, EventPage
from backhaul.wire.fleet import HostState
from backhaul.wire.jobs import JobState, Progress
from backhaul.wire.kinds import JobKind
from tests.unit.sdk.builders import (
    JOB_ID,
    NOW,
    TOKEN,
    URL,
    Script,
    build_host,
    build_job,
    page,
    refuse,
    reply,
)
from tests.unit.sdk.command_line import Cli

FAILED = Event(
    id=2,
    at=NOW,
    kind="job.failed",
    host="web-1",
    job_id=JOB_ID,
    job_kind=JobKind.BACKUP,
    message="restic exited with 1",
)
CHANGED = Event(id=1, at=NOW, kind="source.update", actor="ada", target="etc")


def build_page(*items: Event, has_more: bool = False, cursor: str = "c") -> httpx.Response:
    return reply(EventPage(items=items, next_cursor=cursor, has_more=has_more))


class Stopwatch:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


# Which calls --------------------------------------------------------------------------------------


def test_list_ends_with_the_newest() -> None:
    script = Script(build_page(CHANGED, has_more=True, cursor="x"), build_page(FAILED))

    found = list(script.build_client().list_events(kinds=["job", "source.update"], tail=2))

    assert found == [CHANGED, FAILED]
    first, second = (dict(request.url.params.multi_items()) for request in script.requests)
    assert script.requests[0].url.params.get_list("kind") == ["job", "source.update"]
    assert (first["tail"], first.get("wait")) == ("2", None)
    assert (second["cursor"], second.get("tail")) == ("x", None)


def test_followed_feed_is_held_and_never_ends() -> None:
    script = Script(build_page(), build_page(FAILED), build_page(), build_page(CHANGED))

    events = script.build_client().follow_events(host="web-1")

    assert [next(events), next(events)] == [FAILED, CHANGED]
    waits = [request.url.params.get("wait") for request in script.requests]
    # The first only gives the cursor: from there on, nothing is missed.
    assert waits == [None, "20", "20", "20"]
    assert script.requests[0].url.params["tail"] == "0"
    assert script.requests[1].extensions["timeout"]["read"] > HOLD_S


def test_server_that_answers_at_once_with_nothing_is_asked_ever_more_slowly() -> None:
    stopwatch = Stopwatch()
    watch = EventWatch(is_followed=True, monotonic=stopwatch)
    pauses = []

    for _ in range(8):
        watch.next_call()
        watch.accept(EventPage(items=(), next_cursor="c"))
        pauses.append(watch.pause_s)

    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_collection_is_the_newest_until_it_is_called() -> None:
    script = Script(
        build_page(FAILED), build_page(FAILED, CHANGED), build_page(), build_page(FAILED)
    )
    fleet = Fleet(script.build_client())

    newest = list(fleet.events)
    some = fleet.events(kind="job.failed", host="web-1").to_list(limit=1)
    coming = fleet.events(follow=True).to_list(limit=1)

    assert [event.kind for event in (*newest, *some, *coming)] == ["job.failed"] * 3
    first, second, third, _ = (request.url.params for request in script.requests)
    assert first["tail"] == "100"
    assert (second["kind"], second["host"], second.get("tail")) == ("job.failed", "web-1", None)
    assert third["tail"] == "0"


def test_followed_collection_shows_itself_without_waiting() -> None:
    script = Script()

    html = Fleet(script.build_client()).events(follow=True)._repr_html_()

    assert "fleet.watch()" in html
    assert script.requests == []


# The command --------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=URL) as router:
        yield router


def answer_and_interrupt(*answers: httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    """Answer one after the other; after them comes Ctrl-C."""
    left = list(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        if not left:
            raise KeyboardInterrupt
        return left.pop(0)

    return answer


def test_command_prints_a_table(cli: Cli, server: respx.MockRouter) -> None:
    route = server.get("/v1/events").mock(return_value=build_page(CHANGED, FAILED))

    result = cli("events", "--kind", "job", "--host", "web-1")

    assert "source.update" in result.stdout
    assert "restic exited with 1" in result.stdout
    assert route.calls[0].request.url.params["tail"] == "50"
    assert json.loads(cli("events", "--json").stdout)[0]["kind"] == "source.update"


def test_command_follows_until_it_is_interrupted(cli: Cli, server: respx.MockRouter) -> None:
    answers = answer_and_interrupt(build_page(CHANGED), build_page(FAILED))
    server.get("/v1/events").mock(side_effect=answers)

    result = cli("events", "-f")

    assert result.exit_code == 130
    first, second = result.stdout.splitlines()
    assert first.endswith("source.update  etc")
    assert second.endswith("job.failed  web-1  backup: restic exited with 1")


def test_followed_json_is_one_object_a_line(cli: Cli, server: respx.MockRouter) -> None:
    answers = answer_and_interrupt(build_page(CHANGED, FAILED))
    server.get("/v1/events").mock(side_effect=answers)

    lines = cli("events", "-f", "--json").stdout.splitlines()

    assert [json.loads(line)["id"] for line in lines] == [1, 2]


# The live view ------------------------------------------------------------------------------------


class FakeServer:
    """A fleet whose events a test gives one page at a time."""

    def __init__(self) -> None:
        self.jobs: list[httpx.Response] = [page()]
        self.pages: list[httpx.Response] = []
        self.asked: list[httpx.URL] = []
        self.more = threading.Semaphore(0)

    def tell(self, answer: httpx.Response, *, jobs: httpx.Response | None = None) -> None:
        self.pages.append(answer)
        self.jobs.append(jobs or page())
        self.more.release()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs":
            return self.jobs[-1]
        if request.url.path == "/v1/hosts":
            return page(msgspec.structs.replace(build_host("db-1"), state=HostState.OFFLINE))
        self.asked.append(request.url)
        self.more.acquire()
        return self.pages.pop(0)


class Cell:
    """What the view has shown, as HTML."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.new = threading.Semaphore(0)

    def __call__(self, scene: Scene) -> None:
        self.shown.append(scene._repr_html_())
        self.new.release()

    def wait(self) -> str:
        assert self.new.acquire(timeout=10)
        return self.shown[-1]


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def cell() -> Cell:
    return Cell()


@pytest.fixture
def paused() -> list[float]:
    return []


@pytest.fixture
def view(fake: FakeServer, cell: Cell, paused: list[float]) -> Iterator[View]:
    client = Client(URL, token=TOKEN, transport=httpx.MockTransport(fake), sleep=lambda _: None)

    def pause(_: threading.Event, seconds: float) -> bool:
        paused.append(seconds)
        return False

    view = View(client, cell, pause=pause)
    view.start()
    yield view
    view.stop()
    fake.tell(build_page())
    view._thread.join(10)
    assert not view._thread.is_alive()


def test_view_shows_jobs_absent_hosts_and_events(view: View, fake: FakeServer, cell: Cell) -> None:
    running = build_job(JobState.RUNNING, started_at=NOW, progress=Progress(percent_done=0.42))
    fake.tell(build_page(CHANGED), jobs=page(running))

    shown = cell.wait()

    assert view.is_following
    assert all(text in shown for text in ("42%", "db-1", "offline", "source.update", "Live"))


def test_view_looks_often_only_while_a_job_runs(view: View, fake: FakeServer, cell: Cell) -> None:
    fake.tell(build_page(), jobs=page(build_job(JobState.RUNNING, started_at=NOW)))
    cell.wait()
    fake.tell(build_page(), jobs=page())
    cell.wait()
    fake.tell(build_page())
    cell.wait()

    waits = [url.params.get("wait") for url in fake.asked[:3]]
    assert waits == [None, "2", "20"]
    assert fake.asked[0].params["tail"] == "10"


def test_view_says_that_the_server_is_away_and_goes_on(
    view: View, fake: FakeServer, cell: Cell, paused: list[float]
) -> None:
    fake.tell(refuse(500, detail="broken"))
    trouble = cell.wait()
    fake.tell(build_page(FAILED))
    better = cell.wait()

    assert "cannot be asked now" in trouble
    assert "broken" in trouble
    assert paused[0] == RETRY_S
    assert "cannot be asked" not in better
    assert "job.failed" in better


def test_stopped_view_stays_as_it_is(view: View, fake: FakeServer, cell: Cell) -> None:
    fake.tell(build_page(FAILED))
    cell.wait()

    view.stop()
    stopped = cell.wait()
    view.stop()
    fake.tell(build_page(CHANGED))
    view._thread.join(10)

    assert "Stopped" in stopped
    assert "job.failed" in stopped
    assert cell.shown[-1] == stopped
    assert not view.is_following
    assert "stopped" in repr(view)


def test_view_is_for_notebooks() -> None:
    with pytest.raises(ConfigurationError, match="follow=True"):
        show_view(Client(URL, token=TOKEN))
