"""The audit log: each change leaves an entry, in the same transaction."""

from __future__ import annotations

import base64
from datetime import timedelta

import httpx
import pytest
from litestar import Litestar

from backhaul.wire.base import PROTOCOL_HEADER
from backhaul_api.services import Services
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import add_agent, add_repository, add_schedule, add_source

FACTS = {
    "hostname": "web-1",
    "os": "Debian",
    "architecture": "x86_64",
    "agent_version": "0.1.0",
    "protocol": {"minimum": 1, "maximum": 1},
}


async def _actions(operator: httpx.AsyncClient) -> list[str]:
    entries = (await operator.get("/v1/audit")).json()["items"]
    return [entry["action"] for entry in reversed(entries)]


async def test_every_change_leaves_an_entry(operator: httpx.AsyncClient) -> None:
    made = (await operator.post("/v1/api-tokens", json={"name": "n"})).json()
    await operator.delete(f"/v1/api-tokens/{made['api_token']['id']}")
    await operator.post("/v1/sources", json={"name": "etc", "paths": ["/etc"]})
    await operator.patch("/v1/sources/etc", json={"excludes": ["*.tmp"]})
    await operator.delete("/v1/sources/etc")
    repository = {"name": "nas", "location": "/srv/restic", "password": "hunter2"}
    await operator.post("/v1/repositories", json=repository)
    await operator.patch("/v1/repositories/nas", json={"password": "swordfish"})
    await operator.delete("/v1/repositories/nas")
    token = (await operator.post("/v1/enrollment-tokens", json={})).json()
    body = {
        "enrollment_token": token["token"],
        "public_key": base64.b64encode(bytes(range(32))).decode(),
        "facts": FACTS,
    }
    await operator.post("/v1/agents/enroll", json=body, headers={PROTOCOL_HEADER: "1"})
    await operator.delete(f"/v1/enrollment-tokens/{token['enrollment_token']['id']}")
    await operator.patch("/v1/hosts/web-1", json={"labels": {"a": "b"}})
    await operator.delete("/v1/hosts/web-1")

    assert await _actions(operator) == [
        "user.bootstrap",
        "api_token.create",
        "api_token.delete",
        "source.create",
        "source.update",
        "source.delete",
        "repository.create",
        "repository.update",
        "repository.delete",
        "enrollment_token.create",
        "host.enroll",
        "enrollment_token.delete",
        "host.update",
        "host.delete",
    ]


async def test_entry_names_who_what_and_when(operator: httpx.AsyncClient) -> None:
    created = await operator.post("/v1/sources", json={"name": "etc", "paths": ["/etc"]})

    entry = (await operator.get("/v1/audit", params={"limit": 1})).json()["items"][0]

    assert (entry["actor_kind"], entry["actor"]) == ("user", "ada")
    assert (entry["action"], entry["target_kind"]) == ("source.create", "source")
    assert (entry["target"], entry["target_id"]) == ("etc", created.json()["id"])
    assert entry["at"] == "2026-11-23T12:00:00Z"


async def test_refused_change_leaves_no_entry(operator: httpx.AsyncClient) -> None:
    await operator.post("/v1/sources", json={"name": "etc", "paths": ["etc"]})
    await operator.delete("/v1/sources/etc")

    assert await _actions(operator) == ["user.bootstrap"]


async def test_login_and_logout_are_in_the_log(operator: httpx.AsyncClient) -> None:
    body = {"username": "ada", "password": "correct horse battery"}
    token = (await operator.post("/v1/login", json=body)).json()["token"]
    await operator.post("/v1/logout", headers={"Authorization": f"Bearer {token}"})

    assert await _actions(operator) == ["user.bootstrap", "session.create", "session.delete"]


async def test_log_is_paged_newest_first(operator: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c"):
        await operator.post("/v1/sources", json={"name": name, "paths": ["/etc"]})

    first = (await operator.get("/v1/audit", params={"limit": 2})).json()
    rest = (await operator.get("/v1/audit", params={"cursor": first["next_cursor"]})).json()

    assert [entry["target"] for entry in first["items"]] == ["c", "b"]
    assert [entry["target"] for entry in rest["items"]] == ["a", "ada"]
    assert rest["next_cursor"] is None


async def test_entries_are_found_by_when_they_were_made(
    operator: httpx.AsyncClient, clock: FakeClock
) -> None:
    for name in ("one", "two", "three"):
        clock.advance(60)
        await operator.post("/v1/sources", json={"name": name, "paths": ["/etc"]})
    begin = clock.now() - timedelta(seconds=60)

    async def targets(**query: str) -> list[str]:
        items = (await operator.get("/v1/audit", params=query)).json()["items"]
        return [one["target"] for one in items]

    assert await targets(since=begin.isoformat()) == ["three", "two"]
    assert await targets(since=begin.isoformat(), until=clock.now().isoformat()) == ["two"]
    refused = await operator.get("/v1/audit", params={"since": "yesterday"})
    assert refused.json()["errors"][0]["field"] == "since"


@pytest.mark.parametrize(
    "thing", ["hosts/web1", "repositories/nas", "sources/etc", "schedules/{}", "users/ada"]
)
async def test_change_of_nothing_changes_nothing_and_leaves_no_entry(
    operator: httpx.AsyncClient, services: Services, app: Litestar, clock: FakeClock, thing: str
) -> None:
    await add_agent(services, app)
    await add_repository(operator)
    await add_source(operator)
    schedule = await add_schedule(operator, when_unreachable="run")
    path = f"/v1/{thing}".format(schedule["id"])
    before, actions = (await operator.get(path)).json(), await _actions(operator)
    version = (await operator.get("/v1/hosts/web1")).json()["schedule_version"]
    clock.advance(60)

    answer = await operator.patch(path, json={})

    assert answer.status_code == 200, answer.text
    for name in ("updated_at", "revision", "name"):
        assert answer.json().get(name) == before.get(name)
    assert await _actions(operator) == actions
    assert (await operator.get("/v1/hosts/web1")).json()["schedule_version"] == version
