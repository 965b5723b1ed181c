"""How the API says no, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
from litestar import Litestar, get

from backhaul.wire.problems import Problem, decode_problem
from backhaul_api.access_log import REQUEST_ID_HEADER
from backhaul_api.app import create_app
from backhaul_api.auth import NOBODY
from backhaul_api.logs import JsonFormatter
from backhaul_api.services import Services
from tests.conftest import build_client
from tests.fakes.served import serve


def _read(answer: httpx.Response) -> Problem:
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = decode_problem(answer.content)
    assert problem is not None
    assert problem.status == answer.status_code
    assert problem.instance == answer.headers[REQUEST_ID_HEADER]
    return problem


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "field"),
    [
        ("POST", "/v1/sources", {"content": b"{nope"}, 400, None),
        ("POST", "/v1/sources", {"content": b'{"name": "\xff"}'}, 400, None),
        ("POST", "/v1/sources", {}, 422, ""),
        ("POST", "/v1/sources", {"json": {"name": "etc"}}, 422, "paths"),
        ("POST", "/v1/sources", {"json": {"name": "etc", "paths": ["a"]}}, 422, "paths[0]"),
        ("POST", "/v1/sources", {"json": {"name": "etc", "paths": []}}, 422, "paths"),
        ("POST", "/v1/sources", {"json": {"name": "etc", "zap": 1}}, 422, "zap"),
        ("POST", "/v1/jobs", {"json": {"kind": "zap"}}, 422, "kind"),
        ("POST", "/v1/sources", {"data": {"name": "etc"}}, 415, None),
        (
            "POST",
            "/v1/sources",
            {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
            415,
            None,
        ),
        ("POST", "/v1/sources", {"content": b"[" + b"1," * 1_100_000}, 413, None),
        ("GET", "/v1/sources?limit=0", {}, 422, "limit"),
        ("GET", "/v1/sources?limit=1001", {}, 422, "limit"),
        ("GET", "/v1/sources?limit=ten", {}, 422, "limit"),
        ("GET", "/v1/sources?cursor=nonsense", {}, 422, "cursor"),
        ("GET", "/v1/audit?cursor=WzFd", {}, 422, "cursor"),
        ("GET", "/v1/sources/a%00b", {}, 422, ""),
        ("GET", "/v1/hosts?label=a%3D%00", {}, 422, ""),
        ("GET", "/v1/nothing", {}, 404, None),
        ("GET", "/v1/sources/nothing", {}, 404, None),
        ("DELETE", "/v1/api-tokens/not-an-id", {}, 404, None),
        ("DELETE", "/v1/api-tokens", {}, 405, None),
        ("GET", "/v1/jobs/not-an-id", {}, 404, None),
        ("GET", "/v1/sources?cursor=WyJhXHUwMDAwYiJd", {}, 422, "cursor"),
        ("GET", "/v1/jobs?kind=zap", {}, 422, "kind"),
        ("GET", "/v1/jobs?kinds=backup", {}, 422, "kinds"),
        ("DELETE", "/v1/sources", {}, 405, None),
        ("PUT", "/v1/sources/etc", {}, 405, None),
    ],
)
async def test_bad_request_is_refused_with_its_field(
    operator: httpx.AsyncClient,
    method: str,
    path: str,
    sent: dict[str, Any],
    status: int,
    field: str | None,
) -> None:
    answer = await operator.request(method, path, **sent)

    assert answer.status_code == status, answer.text
    problem = _read(answer)
    assert [error.field for error in problem.errors] == ([] if field is None else [field])
    assert problem.detail


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/v1/jobs/web-1", "job 'web-1'"),
        ("/v1/jobs/web-1/log", "job 'web-1'"),
        ("/v1/schedules/nightly", "schedule 'nightly'"),
    ],
)
async def test_name_in_the_place_of_an_id_is_told_apart_from_a_wrong_address(
    operator: httpx.AsyncClient, path: str, what: str
) -> None:
    detail = (await operator.get(path)).json()["detail"]

    assert f"There is no {what}" in detail
    assert "UUID" in detail


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("jobs?state=done", "queued, accepted, running"),
        ("jobs?kind=zap", "init, backup, snapshots"),
        ("hosts?state=up", "never_seen, online, offline"),
    ],
)
async def test_filter_of_an_unknown_value_lists_what_there_is(
    operator: httpx.AsyncClient, query: str, values: str
) -> None:
    (error,) = _read(await operator.get(f"/v1/{query}")).errors

    assert f"is not known here; it can be {values}" in error.message


async def test_filter_that_is_no_id_says_what_it_takes(operator: httpx.AsyncClient) -> None:
    (error,) = _read(await operator.get("/v1/jobs?schedule=nightly")).errors

    assert (error.field, error.message) == ("schedule", "must be an id (UUID)")


async def test_client_that_hangs_up_within_its_body_is_no_failure_of_the_server(
    app: Litestar, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head = {"Content-Type": "application/json", "Content-Length": "100"}
    async with serve(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = ["POST /v1/login HTTP/1.1", "Host: api", *(f"{k}: {v}" for k, v in head.items())]
        writer.write("\r\n".join([*lines, "", '{"user']).encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        while not any(record.getMessage() == "request.done" for record in caplog.records):
            await asyncio.sleep(0.005)

    (done,) = [record for record in caplog.records if record.getMessage() == "request.done"]
    assert '"status":499' in JsonFormatter().format(done)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_refused_method_tells_what_is_allowed(operator: httpx.AsyncClient) -> None:
    answer = await operator.delete("/v1/sources")

    assert set(answer.headers["Allow"].replace(" ", "").split(",")) >= {"GET", "POST"}


async def test_unexpected_failure_shows_no_detail_and_is_logged_with_the_request_id(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    @get("/broken", opt=NOBODY)
    async def break_down() -> None:
        raise RuntimeError("the secret is hunter2")

    app = create_app(services)
    app.register(break_down)
    caplog.set_level(logging.INFO)
    async with build_client(app) as client:
        answer = await client.get("/broken")

    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert _read(answer).detail
    (failed,) = [record for record in caplog.records if record.getMessage() == "request.failed"]
    assert failed.exc_info is not None


async def test_every_answer_has_its_own_request_id(api: httpx.AsyncClient) -> None:
    paths = ["/health/live", "/v1/me", "/nothing", "/docs", "/openapi.json"]

    ids = [(await api.get(path)).headers[REQUEST_ID_HEADER] for path in paths]

    assert len(set(ids)) == len(paths)


async def test_each_request_is_one_line_in_the_log_without_a_secret(
    operator: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    answer = await operator.get("/v1/sources?cursor=bhs_in_the_wrong_place")

    (record,) = [record for record in caplog.records if record.getMessage() == "request.done"]
    line = JsonFormatter().format(record)
    assert '"path":"/v1/sources"' in line
    assert f'"status":{answer.status_code}' in line
    assert '"actor":"ada"' in line
    assert "wrong_place" not in line
    assert operator.headers["Authorization"].removeprefix("Bearer ") not in line
