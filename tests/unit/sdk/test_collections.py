"""Collections: membership, filters that add up, objects in the place of names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import msgspec
import pytest

from backhaul.aio.fleet import AsyncFleet
from backhaul.async_client import AsyncClient
from backhaul.errors import InvalidRequestError
from backhaul.objects.fleet import Fleet
from backhaul.wire.kinds import BackupRequest, JobRequest
from backhaul.wire.problems import ProblemType
from tests.unit.sdk.builders import (
    HOST_ID,
    JOB_ID,
    TOKEN,
    URL,
    build_host,
    build_job,
    build_repository,
    build_schedule,
    page,
    refuse,
    reply,
)


class Server:
    """Knows the host web-1, the repository nas and one job; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.answers = {
            "/v1/hosts": page(build_host()),
            "/v1/hosts/web-1": reply(build_host()),
            f"/v1/hosts/{HOST_ID}": reply(build_host()),
            "/v1/repositories": page(build_repository()),
            "/v1/jobs": page(build_job()),
            f"/v1/jobs/{JOB_ID}": reply(build_job()),
            "/v1/snapshots": page(),
            "/v1/schedules": page(build_schedule()),
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.method == "POST":
            return reply(build_job(), 201)
        return self.answers.get(request.url.path) or refuse(404, ProblemType.NOT_FOUND)

    @property
    def last(self) -> httpx.QueryParams:
        return self.asked[-1].url.params

    def connect(self) -> Fleet:
        from backhaul.client import Client

        transport = httpx.MockTransport(self)
        return Fleet(Client(URL, token=TOKEN, transport=transport, sleep=lambda _: None))


@pytest.fixture
def server() -> Server:
    return Server()


def test_names_ids_and_objects_are_in_a_collection_or_not(server: Server) -> None:
    fleet = server.connect()
    host = fleet.hosts["web-1"]

    assert "web-1" in fleet.hosts
    assert host in fleet.hosts
    assert JOB_ID in fleet.jobs
    assert "web-2" not in fleet.hosts
    assert uuid4() not in fleet.jobs
    assert 7 not in fleet.hosts
    # One request each, and none for what can be no name.
    assert [request.url.path.split("/")[2] for request in server.asked].count("hosts") == 4


async def test_async_collection_has_no_in_but_exists(server: Server) -> None:
    client = AsyncClient(URL, token=TOKEN, transport=httpx.MockTransport(server))
    async with AsyncFleet(client) as fleet:
        with pytest.raises(TypeError):
            "web-1" in fleet.hosts  # type: ignore[misc]  # noqa: B015
        assert await fleet.hosts.exists("web-1")
        assert not await fleet.hosts.exists("web-2")


def test_filters_add_up_and_the_newest_wins(server: Server) -> None:
    fleet = server.connect()
    hosts = fleet.hosts.list(labels={"env": "prod"}).list(labels={"site": "a"}, state="online")
    jobs = fleet.hosts["web-1"].jobs.list(state="failed").list(kind="backup", state="lost")

    hosts.first()
    assert server.last.get_list("label") == ["env=prod", "site=a"]
    assert server.last["state"] == "online"
    assert jobs.first() is not None
    assert (server.last["host"], server.last["kind"]) == ("web-1", "backup")
    assert server.last.get_list("state") == ["lost"]
    assert repr(jobs) == "<Jobs jobs(host=web-1, states=lost, kind=backup)>"


def test_objects_stand_for_their_names(server: Server) -> None:
    fleet = server.connect()
    host, (repository,), (schedule,) = fleet.hosts["web-1"], fleet.repositories, fleet.schedules

    fleet.jobs.list(host=host, repository=repository, schedule=schedule).first()
    asked = [server.last[name] for name in ("host", "repository", "schedule")]
    assert asked == ["web-1", "nas", str(schedule.id)]
    fleet.snapshots.list(host=host, repository=repository.id).first()
    assert (server.last["host"], server.last["repository"]) == ("web-1", str(repository.id))
    fleet.schedules.list(host=host).first()
    assert server.last["host"] == "web-1"
    with pytest.raises(InvalidRequestError, match="host: 7 is neither a name nor an object"):
        fleet.jobs.list(host=7)  # type: ignore[arg-type]


def test_only_repository_need_not_be_named(server: Server) -> None:
    host = server.connect().hosts["web-1"]

    host.backup(["/etc"], tags=["by-hand"])

    request: JobRequest = msgspec.json.decode(server.asked[-1].content, type=JobRequest)
    assert request == BackupRequest(
        host="web-1", repository="nas", paths=("/etc",), tags=("by-hand",)
    )


def test_argument_that_is_wrong_or_given_twice_is_refused(server: Server) -> None:
    host = server.connect().hosts["web-1"]
    asked = len(server.asked)

    for arguments, message in (
        ({"host": "web-2"}, "host: is web-1 already"),
        ({"read_data_subset": 0}, "read_data_subset: must be a string or null"),
        ({"read_data_subset": "half"}, "read_data_subset: must be a part like 1/7"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            host.run("check", repository="nas", **arguments)

    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("since", "ago"),
    [("7d", timedelta(days=7)), ("1d12h", timedelta(hours=36)), (timedelta(hours=1),) * 2],
    ids=str,
)
def test_times_are_moments_or_how_long_ago(
    server: Server, since: str | timedelta, ago: timedelta
) -> None:
    server.connect().jobs.list(since=since, until=datetime(2026, 1, 1, tzinfo=UTC)).first()

    asked = datetime.fromisoformat(server.last["since"])
    assert abs(datetime.now(UTC) - ago - asked) < timedelta(seconds=5)
    assert server.last["until"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("since", "words"),
    [(7, "takes a duration like '7d'"), ("999999w", "before all time"), ("7 days", "neither")],
    ids=["number", "too long", "words"],
)
def test_time_that_is_none_is_refused(server: Server, since: object, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        server.connect().jobs.list(since=since)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", ".", "web-1/schedules"])
def test_what_can_be_no_name_is_in_no_collection(server: Server, name: str) -> None:
    assert name not in server.connect().hosts
    assert server.asked == []


def test_collection_is_iterated_as_often_as_one_likes(server: Server) -> None:
    jobs = server.connect().jobs.list(state="queued")

    assert [job.id for job in jobs] == [job.id for job in jobs] == [JOB_ID]
    assert [request.url.path for request in server.asked] == ["/v1/jobs"] * 2


def test_a_collection_has_no_length(server: Server) -> None:
    with pytest.raises(TypeError, match="len"):
        len(server.connect().jobs)  # type: ignore[arg-type]
