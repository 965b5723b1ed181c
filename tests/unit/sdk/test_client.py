"""The two clients against scripted answers."""

from __future__ import annotations

import httpx
import msgspec
import pytest
import respx

from backhaul.async_client import AsyncClient
from backhaul.client import Client
from backhaul.errors import (
    ConfigurationError,
    ConnectionFailedError,
    InvalidRequestError,
    JobFailedError,
    PreconditionFailedError,
    TimedOutError,
)
from backhaul.wire.accounts import UpdateUser
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import BackupRequest
from backhaul.wire.problems import FieldError, ProblemType
from backhaul.wire.schedules import (
    CreateSchedule,
    ScheduleKind,
    SchedulePreview,
    UpdateSchedule,
)
from tests.unit.sdk.builders import (
    JOB_ID,
    NOW,
    SCHEDULE_ID,
    TOKEN,
    URL,
    Script,
    build_host,
    build_job,
    build_log_page,
    build_schedule,
    build_session,
    page,
    refuse,
    reply,
)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        refuse(429),
        refuse(502),
        refuse(503, ProblemType.NOT_READY),
        refuse(504),
        httpx.Response(200, text="<html>"),
    ],
    ids=["connect", "timeout", "cut", "429", "502", "503", "504", "page"],
)
def test_reading_is_tried_again(failure: httpx.Response | Exception) -> None:
    script = Script(failure, reply(build_host()))

    assert script.build_client().get_host("web-1").name == "web-1"
    assert len(script.slept_s) <= 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 500])
def test_a_plain_no_is_not_asked_again(status: int) -> None:
    script = Script(refuse(status))

    with pytest.raises(Exception, match=r"No\."):
        script.build_client().get_host("web-1")

    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        refuse(503),
        refuse(429),
        httpx.Response(201, text="from a proxy"),
    ],
    ids=["connect", "timeout", "503", "429", "page"],
)
def test_creation_without_an_answer_is_repeated_under_its_key(
    failure: httpx.Response | Exception,
) -> None:
    script = Script(failure, reply(build_job(), 201), reply(build_job(), 201))
    client = script.build_client()

    client.create_job(BACKUP)
    client.create_job(BACKUP)

    first, again, other = (request.headers["Idempotency-Key"] for request in script.requests)
    assert first == again != other


BACKUP = BackupRequest(host="a", repository="b", paths=("/etc",))


def test_retry_after_is_slept() -> None:
    script = Script(refuse(429, headers={"Retry-After": "3"}), reply(build_host()))

    script.build_client().get_host("web-1")

    assert script.slept_s == [3.0]


def test_trying_again_has_an_end() -> None:
    script = Script(*(httpx.ConnectError("refused") for _ in range(4)))

    with pytest.raises(ConnectionFailedError, match=URL):
        script.build_client().get_host("web-1")

    assert len(script.requests) == 4


def test_request_is_json_with_its_kind() -> None:
    script = Script(reply(build_job(), 201))

    script.build_client().create_job(BackupRequest(host="web-1", repository="nas", source="etc"))

    sent = msgspec.json.decode(script.requests[0].content)
    assert sent["kind"] == "backup"
    assert script.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_refused_fields_are_named() -> None:
    errors = (FieldError(field="paths[0]", message="must be absolute"),)
    script = Script(refuse(422, ProblemType.INVALID_REQUEST, errors=errors))

    with pytest.raises(InvalidRequestError, match=r"paths\[0\]: must be absolute") as caught:
        script.build_client().create_job(BackupRequest(host="a", repository="b", paths=("etc",)))

    assert caught.value.errors == errors


def test_list_reads_pages_only_as_it_is_iterated() -> None:
    script = Script(page(build_host("a"), build_host("b"), next_cursor="x"), page(build_host("c")))
    hosts = script.build_client().list_hosts()

    assert script.requests == []
    assert [next(hosts).name, next(hosts).name] == ["a", "b"]
    assert len(script.requests) == 1
    assert next(hosts).name == "c"
    assert script.requests[1].url.params["cursor"] == "x"


def test_list_stops_at_its_limit() -> None:
    script = Script(page(build_host("a"), build_host("b"), next_cursor="x"), page(build_host("c")))

    hosts = list(script.build_client().list_hosts(limit=3))

    assert [host.name for host in hosts] == ["a", "b", "c"]
    assert list(Script().build_client().list_hosts(limit=0)) == []


def test_client_uses_the_session_that_it_signed_in_for() -> None:
    script = Script(reply(build_session(), 201), reply(build_host()))
    client = script.build_client(token=None)

    client.log_in(username="ada", password="correct horse")
    client.get_host("web-1")

    assert "Authorization" not in script.requests[0].headers
    assert script.requests[1].headers["Authorization"] == f"Bearer {TOKEN}"


def test_nothing_is_sent_without_a_token() -> None:
    script = Script()

    with pytest.raises(ConfigurationError):
        script.build_client(token=None).get_me()

    assert script.requests == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_repr_shows_the_server_but_not_the_token(kind: type[Client | AsyncClient]) -> None:
    assert repr(kind(URL, token=TOKEN)) == f"{kind.__name__}('{URL}')"


def test_failed_job_is_raised_when_asked() -> None:
    script = Script(reply(build_job(JobState.FAILED)), reply(build_job(JobState.FAILED)))
    client = script.build_client()

    assert client.wait_for_job(JOB_ID).state is JobState.FAILED
    with pytest.raises(JobFailedError):
        client.wait_for_job(JOB_ID, raise_on_failure=True)


def test_followed_job_gives_each_change_once_and_asks_after_the_last() -> None:
    script = Script(
        reply(build_job(revision=1)),
        reply(build_job(JobState.RUNNING, revision=4)),
        reply(build_job(JobState.RUNNING, revision=4)),
        reply(build_job(JobState.SUCCEEDED, revision=5)),
    )

    states = [(job.state, job.revision) for job in script.build_client().follow_job(JOB_ID)]

    assert states == [("queued", 1), ("running", 4), ("succeeded", 5)]
    asked = [dict(request.url.params) for request in script.requests]
    assert asked == [
        {},
        {"after_revision": "1", "wait": "20"},
        {"after_revision": "4", "wait": "20"},
        {"after_revision": "4", "wait": "20"},
    ]


def test_log_is_followed_to_its_end() -> None:
    script = Script(
        reply(build_log_page("one", is_complete=False)),
        reply(build_log_page(first=1, is_complete=False)),
        reply(build_log_page("two", first=1, is_complete=True)),
    )

    texts = [line.text for line in script.build_client().follow_job_log(JOB_ID)]

    assert texts == ["one", "two"]
    cursors = [request.url.params.get("cursor") for request in script.requests]
    assert cursors == [None, "after-1", "after-1"]


def test_log_that_is_not_followed_ends_where_it_is() -> None:
    script = Script(
        reply(build_log_page("one", is_complete=False)),
        reply(build_log_page(first=1, is_complete=False)),
    )

    assert [line.text for line in script.build_client().get_job_log(JOB_ID)] == ["one"]
    assert all("wait" not in request.url.params for request in script.requests)


@respx.mock
async def test_async_client_retries_iterates_and_follows() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    respx.get(f"{URL}/v1/hosts").mock(
        side_effect=[
            refuse(503, headers={"Retry-After": "2"}),
            page(build_host("a"), next_cursor="x"),
            page(build_host("b")),
        ]
    )
    respx.get(f"{URL}/v1/jobs/{JOB_ID}").mock(
        side_effect=[reply(build_job()), reply(build_job(JobState.SUCCEEDED, revision=2))]
    )
    respx.get(f"{URL}/v1/jobs/{JOB_ID}/log").mock(
        return_value=reply(build_log_page("one", is_complete=True))
    )

    async with AsyncClient(URL, token=TOKEN, sleep=sleep) as client:
        hosts = [host.name async for host in client.list_hosts()]
        states = [job.state async for job in client.follow_job(JOB_ID)]
        lines = [line.text async for line in client.follow_job_log(JOB_ID)]

    assert hosts == ["a", "b"]
    assert slept == [2.0]
    assert states == ["queued", "succeeded"]
    assert lines == ["one"]


@respx.mock
async def test_async_client_never_repeats_a_change() -> None:
    route = respx.patch(f"{URL}/v1/users/ada").mock(side_effect=httpx.ReadTimeout("slow"))

    async with AsyncClient(URL, token=TOKEN) as client:
        with pytest.raises(TimedOutError):
            await client.update_user("ada", UpdateUser(disabled=True))

    assert route.call_count == 1


# Schedules ----------------------------------------------------------------------------------------


def test_change_names_the_revision_that_it_is_meant_for() -> None:
    changed = reply(build_schedule(revision=4))
    script = Script(changed, changed, httpx.Response(204), httpx.Response(204))
    client = script.build_client()

    client.update_schedule(SCHEDULE_ID, UpdateSchedule(enabled=False), if_revision=3)
    client.update_schedule(SCHEDULE_ID, UpdateSchedule(enabled=False))
    client.delete_schedule(SCHEDULE_ID, if_revision=4)
    client.delete_schedule(SCHEDULE_ID)

    tags = [request.headers.get("If-Match") for request in script.requests]
    assert tags == ['"3"', None, '"4"', None]
    assert script.requests[0].content == b'{"enabled":false}'


def test_lost_race_is_an_error_of_its_own_and_not_tried_again() -> None:
    script = Script(refuse(412, ProblemType.PRECONDITION_FAILED, detail="It was changed."))

    with pytest.raises(PreconditionFailedError, match="was changed"):
        script.build_client().delete_schedule(SCHEDULE_ID, if_revision=1)

    assert len(script.requests) == 1


def test_schedules_are_listed_of_the_fleet_or_of_a_host() -> None:
    script = Script(page(build_schedule()), page(build_schedule()))
    client = script.build_client()

    assert [schedule.id for schedule in client.list_schedules()] == [SCHEDULE_ID]
    assert next(client.list_schedules(host="web-1")).host == "web-1"
    hosts = [request.url.params.get("host") for request in script.requests]
    assert hosts == [None, "web-1"]


def test_preview_asks_from_a_moment_with_its_offset() -> None:
    preview = SchedulePreview(cron="@daily", timezone="UTC", fires=())
    script = Script(reply(preview), reply(preview), reply(preview))
    client = script.build_client()

    client.preview_cron("@daily", "Europe/London", start=NOW, count=3)
    client.preview_schedule(SCHEDULE_ID, start=NOW)
    client.preview_schedule(SCHEDULE_ID)

    asked = [(request.url.path, dict(request.url.params)) for request in script.requests]
    moment, path = NOW.isoformat(), f"/v1/schedules/{SCHEDULE_ID}/preview"
    cron = {"cron": "@daily", "timezone": "Europe/London", "from": moment, "count": "3"}
    assert asked == [("/v1/schedules/preview", cron), (path, {"from": moment}), (path, {})]


def test_preview_from_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="start: needs a time zone"):
        Script().build_client().preview_cron("@daily", start=NOW.replace(tzinfo=None))


@respx.mock
async def test_async_client_speaks_of_schedules_too() -> None:
    respx.post(f"{URL}/v1/hosts/web-1/schedules").mock(return_value=reply(build_schedule(), 201))
    respx.get(f"{URL}/v1/schedules/{SCHEDULE_ID}").mock(return_value=reply(build_schedule()))
    patched = respx.patch(f"{URL}/v1/schedules/{SCHEDULE_ID}").mock(
        return_value=refuse(412, ProblemType.PRECONDITION_FAILED)
    )
    request = CreateSchedule(
        kind=ScheduleKind.BACKUP, cron="@daily", repository="nas", source="etc"
    )

    async with AsyncClient(URL, token=TOKEN) as client:
        made = await client.create_schedule("web-1", request)
        assert await client.get_schedule(made.id) == made
        with pytest.raises(PreconditionFailedError):
            await client.update_schedule(made.id, UpdateSchedule(enabled=False), if_revision=7)

    assert patched.calls[0].request.headers["If-Match"] == '"7"'
