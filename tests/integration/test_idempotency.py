"""Idempotency-Key: what is sent again creates nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul_api.db.tables import idempotency_keys
from backhaul_api.idempotency import KEPT_FOR
from backhaul_api.services import Services
from tests.conftest import ADA_PASSWORD
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import add_agent

KEY = {"Idempotency-Key": "8a1c6c0e"}
REPOSITORY = {"name": "nas", "location": "/srv/restic", "password": "hunter2 hunter2"}
CREATIONS: Mapping[str, dict[str, Any]] = {
    "/v1/api-tokens": {"name": "ci"},
    "/v1/enrollment-tokens": {"host_name": "web9"},
    "/v1/users": {"username": "bob", "password": "a password of his own"},
    "/v1/repositories": REPOSITORY | {"name": "other"},
    "/v1/sources": {"name": "etc", "paths": ["/etc"]},
    "/v1/hosts/web1/schedules": {
        "kind": "prune",
        "cron": "0 2 * * *",
        "timezone": "UTC",
        "repository": "nas",
    },
    "/v1/jobs": {"kind": "backup", "host": "web1", "repository": "nas", "paths": ["/etc"]},
}


@pytest.fixture(autouse=True)
async def fleet(services: Services, app: Litestar, operator: httpx.AsyncClient) -> None:
    await add_agent(services, app)
    await operator.post("/v1/repositories", json=REPOSITORY)


@pytest.mark.parametrize("path", CREATIONS)
async def test_repetition_gets_the_first_answer_and_creates_nothing(
    operator: httpx.AsyncClient, path: str
) -> None:
    first = await operator.post(path, json=CREATIONS[path], headers=KEY)
    audited = len((await operator.get("/v1/audit")).json()["items"])

    second = await operator.post(path, json=CREATIONS[path], headers=KEY)

    assert (first.status_code, second.status_code) == (201, 201), second.text
    assert second.json() == first.json()
    assert second.headers.get("ETag") == first.headers.get("ETag")
    assert len((await operator.get("/v1/audit")).json()["items"]) == audited


async def test_of_many_at_once_one_creates(operator: httpx.AsyncClient) -> None:
    body = CREATIONS["/v1/jobs"]

    answers = await asyncio.gather(
        *(operator.post("/v1/jobs", json=body, headers=KEY) for _ in range(6))
    )

    assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
    assert len((await operator.get("/v1/jobs")).json()["items"]) == 1


async def test_key_of_another_request_is_refused(operator: httpx.AsyncClient) -> None:
    await operator.post("/v1/sources", json=CREATIONS["/v1/sources"], headers=KEY)

    other_body = await operator.post(
        "/v1/sources", json={"name": "home", "paths": ["/home"]}, headers=KEY
    )
    other_path = await operator.post("/v1/api-tokens", json={"name": "ci"}, headers=KEY)

    assert (other_body.status_code, other_path.status_code) == (422, 422)
    assert other_body.json()["errors"][0]["field"] == "Idempotency-Key"
    assert [one["name"] for one in (await operator.get("/v1/sources")).json()["items"]] == ["etc"]


async def test_keys_of_two_operators_have_nothing_to_do_with_each_other(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    await operator.post("/v1/users", json=CREATIONS["/v1/users"])
    bob = (await api.post("/v1/login", json=CREATIONS["/v1/users"])).json()["token"]
    mine = await operator.post("/v1/api-tokens", json={"name": "ci"}, headers=KEY)

    his = await api.post(
        "/v1/api-tokens", json={"name": "ci"}, headers=KEY | {"Authorization": f"Bearer {bob}"}
    )

    assert his.status_code == 201
    assert his.json()["token"] != mine.json()["token"]


async def test_refused_request_may_be_mended_under_its_key(operator: httpx.AsyncClient) -> None:
    body = CREATIONS["/v1/jobs"]
    refused = await operator.post("/v1/jobs", json=body | {"host": "nobody"}, headers=KEY)

    mended = await operator.post("/v1/jobs", json=body, headers=KEY)

    assert (refused.status_code, mended.status_code) == (422, 201)


async def test_key_serves_again_after_a_day(
    operator: httpx.AsyncClient, api: httpx.AsyncClient, clock: FakeClock
) -> None:
    body = CREATIONS["/v1/jobs"]
    first = await operator.post("/v1/jobs", json=body, headers=KEY)
    clock.advance(KEPT_FOR / timedelta(seconds=1))
    login = await api.post("/v1/login", json={"username": "ada", "password": ADA_PASSWORD})

    later = await api.post(
        "/v1/jobs", json=body, headers=KEY | {"Authorization": f"Bearer {login.json()['token']}"}
    )

    assert later.json()["id"] != first.json()["id"]


async def test_nothing_of_it_is_kept_in_the_clear(
    operator: httpx.AsyncClient, services: Services
) -> None:
    made = await operator.post("/v1/api-tokens", json={"name": "ci"}, headers=KEY)

    async with services.database.reading() as connection:
        [row] = (await connection.execute(sa.select(idempotency_keys))).all()

    assert made.json()["token"].encode() not in row.answer
    assert b"ci" not in row.answer[40:]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e9"])
async def test_key_that_is_none_is_refused(operator: httpx.AsyncClient, key: str) -> None:
    answer = await operator.post(
        "/v1/sources",
        json=CREATIONS["/v1/sources"],
        headers=[(b"Idempotency-Key", key.encode("latin-1"))],
    )

    assert answer.status_code == 422
    assert (await operator.get("/v1/sources")).json()["items"] == []
