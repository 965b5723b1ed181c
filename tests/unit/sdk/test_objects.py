"""The objects of a fleet: fields as the contract has them, and twins that are really twins."""

from __future__ import annotations

import inspect
import tracemalloc
from types import FunctionType
from typing import get_args, get_type_hints

import httpx
import msgspec
import pytest

from backhaul import _fields
from backhaul._requests import convert, gather_options
from backhaul.aio import (
    events,
    hosts,
    jobs,
    repositories,
    schedules,
    snapshots,
    sources,
    tokens,
    users,
)
from backhaul.aio import fleet as aio_fleet
from backhaul.client import Client
from backhaul.errors import InvalidRequestError, JobFailedError, NotFoundError
from backhaul.objects.fleet import Fleet
from backhaul.wire.fleet import CreateRepository, CreateSource
from backhaul.wire.jobs import JobState
from backhaul.wire.pages import Page
from backhaul.wire.problems import ProblemType
from backhaul.wire.schedules import CreateSchedule
from tests.unit.sdk.builders import (
    JOB_ID,
    TOKEN,
    URL,
    build_host,
    build_job,
    build_log_page,
    refuse,
    reply,
)
from tools import write_sync

FIELDS = [
    kind
    for _, kind in inspect.getmembers(_fields, inspect.isclass)
    if issubclass(kind, _fields.Record) and kind is not _fields.Record
]
MODULES = [
    aio_fleet,
    events,
    hosts,
    jobs,
    repositories,
    schedules,
    snapshots,
    sources,
    tokens,
    users,
]


def test_objects_that_wait_are_as_written_from_those_of_asyncio() -> None:
    stale = [path for path, text in write_sync.build().items() if path.read_text() != text]

    assert not stale, "run: python -m tools.write_sync"


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_fields_are_those_of_the_contract(kind: type[_fields.Record[msgspec.Struct]]) -> None:
    (base,) = (one for one in kind.__orig_bases__ if get_args(one))  # type: ignore[attr-defined]
    (struct,) = get_args(base)

    fields = [name for name, value in vars(kind).items() if isinstance(value, _fields.Field)]

    assert fields == list(get_type_hints(struct))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_method_says_what_it_does(module: object) -> None:
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if kind.__module__ != getattr(module, "__name__", ""):
            continue
        assert inspect.getdoc(kind)
        for name, value in vars(kind).items():
            is_public = isinstance(value, FunctionType | property) and not name.startswith("_")
            assert not is_public or inspect.getdoc(value), f"{kind.__name__}.{name}"


class Answers:
    """A server that answers by path, and keeps what it was asked."""

    def __init__(self, answers: dict[str, object] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url).removeprefix(URL))
        answer = self.answers.get(request.url.path)
        if answer is None:
            return refuse(404, ProblemType.NOT_FOUND)
        return answer if isinstance(answer, httpx.Response) else reply(answer)


def connect(answers: Answers) -> Fleet:
    transport = httpx.MockTransport(answers)
    return Fleet(Client(URL, token=TOKEN, transport=transport, sleep=lambda _: None))


def test_collection_asks_only_when_it_is_iterated() -> None:
    answers = Answers(
        {"/v1/hosts": Page(items=(build_host("a"), build_host("b")), next_cursor=None)}
    )
    fleet = connect(answers)

    found = fleet.hosts.list(state="online", labels={"env": "prod"})
    assert answers.asked == []
    names = [host.name for host in found]

    assert names == ["a", "b"]
    assert answers.asked == ["/v1/hosts?state=online&label=env%3Dprod&limit=500"]


def test_object_has_the_fields_of_its_data_and_none_can_be_set() -> None:
    fleet = connect(Answers({"/v1/hosts/web-1": build_host("web-1")}))

    host = fleet.hosts["web-1"]

    assert (host.name, host.labels) == ("web-1", {"env": "prod"})
    assert {"name", "backup", "schedules", "last_backup_at"} <= set(dir(host))
    with pytest.raises(AttributeError, match="update"):
        host.name = "other"  # type: ignore[assignment]
    assert TOKEN not in repr(fleet) + repr(host) + repr(fleet.hosts)


def test_missing_host_is_not_found_and_does_not_exist() -> None:
    fleet = connect(Answers())

    with pytest.raises(NotFoundError):
        fleet.hosts["nope"]
    assert not fleet.hosts.exists("nope")


@pytest.mark.parametrize(
    ("since", "message"),
    [("soon", "since: 'soon' is neither"), ("2026-11-01T00:00:00", "needs a time zone")],
)
def test_bad_time_is_refused_before_anything_is_asked(since: str, message: str) -> None:
    answers = Answers()

    with pytest.raises(InvalidRequestError, match=message):
        connect(answers).jobs.list(since=since)

    assert answers.asked == []


def test_single_path_and_unknown_argument_are_refused_by_name() -> None:
    answers = Answers(
        {
            "/v1/hosts/web-1": build_host("web-1"),
            "/v1/repositories": Page(items=(), next_cursor=None),
        }
    )
    host = connect(answers).hosts["web-1"]

    with pytest.raises(InvalidRequestError, match="paths: takes a list"):
        host.backup("/etc", repository="nas")
    with pytest.raises(InvalidRequestError, match="subset"):
        host.run("check", repository="nas", subset="1/7")
    with pytest.raises(
        InvalidRequestError, match="kind: 'defrag' is not known here; it can be init"
    ):
        host.run("defrag", repository="nas")
    with pytest.raises(InvalidRequestError, match="repository: there is none yet"):
        host.backup(["/etc"])


@pytest.mark.parametrize(
    ("type_", "fields", "named"),
    [
        (CreateSchedule, {"jitter": "\ud800"}, "jitter"),
        (CreateSchedule, {"catch_up": "\ud800"}, "catch_up"),
        (CreateSource, {"retention": "\ud800"}, "retention"),
        (CreateSource, {"retention": {"keep_within": "\ud800"}}, "retention.keep_within"),
        (CreateSource, {"paths": ["/etc", "/\udcff"]}, r"paths\[1\]"),
        (CreateRepository, {"environment": "\ud800"}, "environment"),
        (CreateRepository, {"environment": {"A": "\ud800"}}, "environment.A"),
    ],
)
def test_text_that_is_no_utf8_is_refused_by_its_field(
    type_: type[msgspec.Struct], fields: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{named}: must be UTF-8"):
        convert(fields, type_)


def test_options_that_are_none_are_refused_by_name() -> None:
    gathered = gather_options("check", {"options": "all", "read_data_parts": 7})

    with pytest.raises(InvalidRequestError, match=r"^options: must be an object"):
        convert({"kind": "check", "cron": "@daily", "repository": "nas"} | gathered, CreateSchedule)


def test_options_of_a_schedule_need_not_say_its_kind_again() -> None:
    gathered = gather_options("drill", {"options": {"files": 3}, "max_bytes": 1})

    assert gathered == {"options": {"kind": "drill", "files": 3, "max_bytes": 1}}
    assert gather_options("drill", {"options": None}) == {"options": None}


def test_failure_that_was_waited_for_tells_the_last_lines() -> None:
    job = build_job(JobState.FAILED, message="restic exited with 1", revision=4)
    log = build_log_page(*(f"line {number}" for number in range(30)), is_complete=True)
    answers = Answers({f"/v1/jobs/{JOB_ID}": job, f"/v1/jobs/{JOB_ID}/log": log})
    failed = connect(answers).jobs[JOB_ID]

    with pytest.raises(JobFailedError) as caught:
        failed.wait(raise_on_failure=True)

    assert caught.value.last_lines == tuple(f"line {seq}" for seq in range(10, 30))
    assert "restic exited with 1" in str(caught.value)
    assert "line 29" in str(caught.value)


def test_failure_whose_log_was_deleted_is_told_without_it() -> None:
    job = build_job(JobState.FAILED, message="restic exited with 1", revision=4)
    gone = refuse(410, ProblemType.LOG_DELETED)
    answers = Answers({f"/v1/jobs/{JOB_ID}": job, f"/v1/jobs/{JOB_ID}/log": gone})
    failed = connect(answers).jobs[JOB_ID]

    with pytest.raises(JobFailedError, match="restic exited with 1") as caught:
        failed.wait(raise_on_failure=True)
    assert caught.value.last_lines == ()
    with pytest.raises(NotFoundError):
        list(failed.log())


def test_many_jobs_take_the_memory_of_a_few_pages() -> None:
    page = msgspec.json.encode(Page(items=(build_job(),) * 500, next_cursor="more"))
    last = msgspec.json.encode(Page(items=(), next_cursor=None))
    left = 100

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal left
        left -= 1
        return httpx.Response(200, content=page if left >= 0 else last)

    client = Client(URL, token=TOKEN, transport=httpx.MockTransport(answer))
    tracemalloc.start()
    count = sum(1 for _ in Fleet(client).jobs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 50_000
    assert peak < 20 * len(page)
