"""Hosts: how they join, how they are named, found and removed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any
from uuid import UUID, uuid4

import httpx
import nacl.public
import nacl.signing
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.base import PROTOCOL_HEADER
from backhaul.wire.problems import removal_message
from backhaul.wire.tokens import TokenKind, build_token
from backhaul_api.db.tables import hosts, jobs, schedules
from backhaul_api.ids import new_id
from backhaul_api.services import Services
from tests.conftest import build_client
from tests.fakes.clock import FakeClock

BOOT = uuid4()
PROTOCOL = {PROTOCOL_HEADER: "1"}
FACTS = {
    "hostname": "web-1.example.com",
    "os": "Debian GNU/Linux 12 (bookworm)",
    "architecture": "x86_64",
    "agent_version": "0.1.0",
    "protocol": {"minimum": 1, "maximum": 1},
}


KEY = base64.b64encode(bytes(range(32))).decode()


async def _poll(app: Litestar, agent_token: str) -> int:
    headers = {"Authorization": f"Bearer {agent_token}", **PROTOCOL}
    body = {
        "boot_id": str(BOOT),
        "schedule_version": 0,
        "settings_version": 0,
        "jobs": [],
        "clock": "2026-11-23T12:00:00Z",
        "hold": 0,
    }
    async with build_client(app) as api:
        return (await api.post("/v1/agent/poll", json=body, headers=headers)).status_code


async def _make_token(operator: httpx.AsyncClient, **wishes: Any) -> str:
    answer = await operator.post("/v1/enrollment-tokens", json=wishes)
    assert answer.status_code == 201, answer.text
    token = answer.json()["token"]
    assert isinstance(token, str)
    return token


async def _enroll(api: httpx.AsyncClient, token: str, **wishes: Any) -> httpx.Response:
    key = bytes(nacl.public.PrivateKey.generate().public_key)
    body = {
        "enrollment_token": token,
        "public_key": base64.b64encode(key).decode(),
        "facts": FACTS,
        **wishes,
    }
    return await api.post("/v1/agents/enroll", json=body, headers=PROTOCOL)


async def _join(operator: httpx.AsyncClient, name: str, **wishes: Any) -> dict[str, Any]:
    answer = await _enroll(operator, await _make_token(operator), name=name, **wishes)
    assert answer.status_code == 201, answer.text
    joined: dict[str, Any] = answer.json()
    return joined


async def _insert_job(services: Services, host_id: str, *, state: str) -> None:
    async with services.database.writing() as connection:
        await connection.execute(
            sa.insert(jobs).values(
                id=new_id(),
                host_id=UUID(host_id),
                kind="backup",
                state=state,
                arguments={"kind": "backup", "paths": ["/etc"]},
                actor_kind="user",
                created_at=services.clock.now(),
            )
        )


async def test_host_joins_with_a_token_and_is_listed(operator: httpx.AsyncClient) -> None:
    joined = await _join(operator, "web-1", labels={"site": "berlin"}, public_key=KEY)

    (host,) = (await operator.get("/v1/hosts")).json()["items"]

    assert host["id"] == joined["host_id"]
    assert (host["name"], host["labels"]) == ("web-1", {"site": "berlin"})
    assert host["facts"]["os"] == FACTS["os"]
    assert host["public_key_fingerprint"] == hashlib.sha256(base64.b64decode(KEY)).hexdigest()
    assert host["last_seen_at"] is None


async def test_lost_answer_is_given_again_for_the_same_host(
    operator: httpx.AsyncClient, app: Litestar
) -> None:
    token = await _make_token(operator, host_name="web-1")
    wishes = {"public_key": KEY, "labels": {"site": "berlin"}}
    first, second = await asyncio.gather(*(_enroll(operator, token, **wishes) for _ in range(2)))

    other = {"name": "db-1", "labels": {"site": "paris"}, "facts": {**FACTS, "os": "other"}}
    again = [await _enroll(operator, token, public_key=KEY, **other) for _ in range(2)]

    answers = [one.json() for one in (first, second, *again)]
    assert {one.status_code for one in (first, second, *again)} == {201}
    assert {(one["host_id"], one["name"]) for one in answers} == {(answers[0]["host_id"], "web-1")}
    (host,) = (await operator.get("/v1/hosts")).json()["items"]
    assert (host["labels"], host["facts"]["os"]) == ({"site": "berlin"}, FACTS["os"])
    # Of two answers that cross, the agent may have either.
    assert [await _poll(app, one["agent_token"]) for one in answers[2:]] == [200, 200]


async def test_answer_is_not_given_again_to_anybody_else(
    operator: httpx.AsyncClient, app: Litestar, clock: FakeClock
) -> None:
    token, used = await _make_token(operator), await _make_token(operator, uses=2)
    joined = await _enroll(operator, token, name="web-1", public_key=KEY)
    assert joined.status_code == 201

    other_key = await _enroll(operator, token, name="web-1")
    other_token = await _enroll(operator, used, name="web-1", public_key=KEY)
    assert (other_key.status_code, other_token.status_code) == (401, 409)

    # An agent that was heard of has had its answer.
    await _poll(app, joined.json()["agent_token"])
    assert (await _enroll(operator, token, name="web-1", public_key=KEY)).status_code == 401

    late = await _make_token(operator)
    await _enroll(operator, late, name="web-2", public_key=KEY)
    clock.advance(3600)
    assert (await _enroll(operator, late, name="web-2", public_key=KEY)).status_code == 401


async def test_single_use_token_lets_exactly_one_of_five_hosts_in(
    operator: httpx.AsyncClient,
) -> None:
    token = await _make_token(operator)

    answers = await asyncio.gather(*(_enroll(operator, token, name=f"web-{n}") for n in range(5)))

    assert sorted(answer.status_code for answer in answers) == [201, 401, 401, 401, 401]
    assert len((await operator.get("/v1/hosts")).json()["items"]) == 1


async def test_token_with_three_uses_lets_three_hosts_in(operator: httpx.AsyncClient) -> None:
    token = await _make_token(operator, uses=3)

    answers = [await _enroll(operator, token, name=f"web-{n}") for n in range(4)]

    assert [answer.status_code for answer in answers] == [201, 201, 201, 401]


async def test_token_ends_after_an_hour(operator: httpx.AsyncClient, clock: FakeClock) -> None:
    token = await _make_token(operator)
    clock.advance(3600)

    answer = await _enroll(operator, token, name="web-1")

    assert answer.status_code == 401
    assert (await operator.get("/v1/enrollment-tokens")).json()["items"] == []


async def test_revoked_token_lets_nobody_in(operator: httpx.AsyncClient) -> None:
    token = await _make_token(operator)
    (listed,) = (await operator.get("/v1/enrollment-tokens")).json()["items"]

    revoked = await operator.delete(f"/v1/enrollment-tokens/{listed['id']}")

    assert revoked.status_code == 204
    assert (await _enroll(operator, token)).status_code == 401
    assert (await operator.delete(f"/v1/enrollment-tokens/{listed['id']}")).status_code == 404


async def test_used_up_token_is_not_listed(operator: httpx.AsyncClient) -> None:
    await _join(operator, "web-1")

    assert (await operator.get("/v1/enrollment-tokens")).json()["items"] == []


async def test_name_and_labels_of_the_token_win(operator: httpx.AsyncClient) -> None:
    token = await _make_token(operator, host_name="db-1", labels={"site": "berlin"})

    answer = await _enroll(operator, token, name="mine", labels={"site": "paris", "rack": "4"})

    assert answer.json()["name"] == "db-1"
    host = (await operator.get("/v1/hosts/db-1")).json()
    assert host["labels"] == {"site": "berlin", "rack": "4"}


async def test_host_that_asks_for_no_name_gets_its_own(operator: httpx.AsyncClient) -> None:
    answer = await _enroll(operator, await _make_token(operator))

    assert answer.json()["name"] == "web-1.example.com"


async def test_taken_name_is_refused_with_the_remedy_and_costs_no_use(
    operator: httpx.AsyncClient,
) -> None:
    await _join(operator, "web-1")
    token = await _make_token(operator)

    refused = await _enroll(operator, token, name="web-1")
    accepted = await _enroll(operator, token, name="web-2")

    assert refused.status_code == 409
    assert "--name" in refused.json()["detail"]
    assert accepted.status_code == 201


async def test_token_with_a_host_name_serves_once_only(operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/v1/enrollment-tokens", json={"host_name": "web-1", "uses": 2})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "host_name"


async def test_agent_token_is_stored_as_a_hash_only(
    operator: httpx.AsyncClient, services: Services
) -> None:
    joined = await _join(operator, "web-1")

    async with services.database.reading() as connection:
        row = (await connection.execute(sa.select(hosts))).one()

    assert joined["agent_token"] not in str(row)
    assert row.token_hash == hashlib.sha256(joined["agent_token"].encode()).digest()


@pytest.mark.parametrize("path", ["/v1/agents/enroll", "/v1/agent/poll", "/v1/agent/envelopes"])
@pytest.mark.parametrize("protocol", [None, "0", "2", "one", "1.0"])
async def test_other_protocol_is_refused_with_the_range(
    api: httpx.AsyncClient, path: str, protocol: str | None
) -> None:
    headers = {} if protocol is None else {PROTOCOL_HEADER: protocol}

    answer = await api.post(path, json={}, headers=headers)

    assert answer.status_code == 426
    assert answer.json()["protocol"] == {"minimum": 1, "maximum": 1}
    assert answer.headers[PROTOCOL_HEADER] == "1"


async def test_answers_to_agents_carry_the_protocol_also_when_they_refuse(
    api: httpx.AsyncClient,
) -> None:
    answers = [
        await _enroll(api, build_token(TokenKind.ENROLLMENT)),
        await api.post("/v1/agents/enroll", content=b"{", headers=PROTOCOL),
        await api.post("/v1/agent/poll", headers=PROTOCOL),
        await api.get("/v1/agent/nothing", headers=PROTOCOL),
    ]

    assert [answer.status_code for answer in answers] == [401, 400, 401, 404]
    assert {answer.headers[PROTOCOL_HEADER] for answer in answers} == {"1"}
    assert PROTOCOL_HEADER not in (await api.get("/v1/hosts")).headers


async def test_hosts_are_listed_by_name_in_pages(operator: httpx.AsyncClient) -> None:
    for name in ("web-2", "db-1", "web-1"):
        await _join(operator, name)

    first = (await operator.get("/v1/hosts", params={"limit": 2})).json()
    rest = (await operator.get("/v1/hosts", params={"cursor": first["next_cursor"]})).json()

    assert [host["name"] for host in first["items"]] == ["db-1", "web-1"]
    assert [host["name"] for host in rest["items"]] == ["web-2"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["site=berlin"], ["web-1", "web-2"]),
        (["site=berlin", "rack=4"], ["web-2"]),
        (["site=paris"], []),
        (["note=a=b"], ["web-2"]),
        (['odd"key=x'], ["web-1"]),
        (["empty="], ["web-1"]),
        (["si%e=berlin"], []),
    ],
)
async def test_hosts_are_found_by_labels(
    operator: httpx.AsyncClient, labels: list[str], names: list[str]
) -> None:
    await _join(operator, "web-1", labels={"site": "berlin", 'odd"key': "x", "empty": ""})
    await _join(operator, "web-2", labels={"site": "berlin", "rack": "4", "note": "a=b"})

    found = (await operator.get("/v1/hosts", params={"label": labels})).json()["items"]

    assert [host["name"] for host in found] == names


@pytest.mark.parametrize("label", ["site", "=berlin", ""])
async def test_label_filter_that_is_no_pair_is_refused(
    operator: httpx.AsyncClient, label: str
) -> None:
    answer = await operator.get("/v1/hosts", params={"label": label})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "label"


async def test_host_is_renamed_and_relabelled(operator: httpx.AsyncClient) -> None:
    joined = await _join(operator, "web-1", labels={"site": "berlin"})

    renamed = await operator.patch("/v1/hosts/web-1", json={"name": "www-1"})
    relabelled = await operator.patch("/v1/hosts/www-1", json={"labels": {"rack": "4"}})

    assert renamed.json()["labels"] == {"site": "berlin"}
    assert relabelled.json()["labels"] == {"rack": "4"}
    by_id = (await operator.get(f"/v1/hosts/{joined['host_id']}")).json()
    assert by_id == relabelled.json()


async def test_rename_to_a_taken_name_is_refused(operator: httpx.AsyncClient) -> None:
    await _join(operator, "web-1")
    await _join(operator, "web-2")

    answer = await operator.patch("/v1/hosts/web-1", json={"name": "web-2"})

    assert answer.status_code == 409


async def test_removed_host_is_gone_and_its_agent_is_told_with_a_signature(
    operator: httpx.AsyncClient,
) -> None:
    joined = await _join(operator, "web-1")

    assert (await operator.delete("/v1/hosts/web-1")).status_code == 204

    assert (await operator.get("/v1/hosts/web-1")).status_code == 404
    assert (await operator.get(f"/v1/hosts/{joined['host_id']}")).status_code == 404
    told = await operator.post(
        "/v1/agent/envelopes",
        json={"envelopes": []},
        headers=PROTOCOL | {"Authorization": f"Bearer {joined['agent_token']}"},
    )
    assert told.status_code == 410
    signing_key = nacl.signing.VerifyKey(base64.b64decode(joined["signing_key"]))
    signing_key.verify(
        removal_message(joined["host_id"]), base64.b64decode(told.json()["signature"])
    )


async def test_name_of_a_removed_host_is_free_again(operator: httpx.AsyncClient) -> None:
    await _join(operator, "web-1")
    await operator.delete("/v1/hosts/web-1")

    again = await _join(operator, "web-1")

    assert (await operator.get("/v1/hosts/web-1")).json()["id"] == again["host_id"]


@pytest.mark.parametrize(
    ("state", "force", "status", "after"),
    [
        ("queued", False, 204, "cancelled"),
        ("queued", True, 204, "cancelled"),
        ("accepted", False, 409, "accepted"),
        ("running", False, 409, "running"),
        ("accepted", True, 204, "lost"),
        ("running", True, 204, "lost"),
        ("succeeded", False, 204, "succeeded"),
        ("lost", False, 204, "lost"),
    ],
)
async def test_removal_ends_what_was_not_begun_and_the_rest_only_by_force(
    operator: httpx.AsyncClient,
    services: Services,
    state: str,
    force: bool,
    status: int,
    after: str,
) -> None:
    joined = await _join(operator, "web-1")
    await _insert_job(services, joined["host_id"], state=state)

    answer = await operator.delete("/v1/hosts/web-1", params={"force": "true"} if force else {})

    assert answer.status_code == status
    assert status == 204 or "--force" in answer.json()["detail"]
    (job,) = (await operator.get("/v1/jobs")).json()["items"]
    assert job["state"] == after
    if after != state:
        assert "was removed" in job["message"]
        assert job["finished_at"] is not None


async def test_reader_of_a_job_hears_of_its_end_by_the_removal(
    operator: httpx.AsyncClient, services: Services
) -> None:
    joined = await _join(operator, "web-1")
    await _insert_job(services, joined["host_id"], state="queued")
    (job,) = (await operator.get("/v1/jobs")).json()["items"]
    query = {"after_revision": job["revision"], "wait": 20}
    waiting = asyncio.create_task(operator.get(f"/v1/jobs/{job['id']}", params=query))
    while not services.wakeups.waiting:
        await asyncio.sleep(0.005)

    await operator.delete("/v1/hosts/web-1")

    assert (await waiting).json()["state"] == "cancelled"


@pytest.mark.parametrize(
    "public_key",
    [
        bytes(32),
        b"\x01" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    ],
    ids=["zero", "one", "order-8"],
)
async def test_public_key_to_which_nothing_can_be_sealed_is_refused(
    operator: httpx.AsyncClient, public_key: bytes
) -> None:
    token = await _make_token(operator)

    answer = await _enroll(operator, token, public_key=base64.b64encode(public_key).decode())

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "public_key"
    assert (await _enroll(operator, token)).status_code == 201


async def test_labels_of_token_and_host_together_are_bounded(operator: httpx.AsyncClient) -> None:
    token = await _make_token(operator, labels={f"a{n}": "" for n in range(40)})

    answer = await _enroll(operator, token, labels={f"b{n}": "" for n in range(40)})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "labels"


async def test_host_with_a_schedule_is_not_removed(
    operator: httpx.AsyncClient, services: Services
) -> None:
    joined = await _join(operator, "web-1")
    body = {"name": "nas", "location": "/srv/restic", "password": "hunter2"}
    repository = (await operator.post("/v1/repositories", json=body)).json()
    now = services.clock.now()
    async with services.database.writing() as connection:
        await connection.execute(
            sa.insert(schedules).values(
                id=new_id(),
                host_id=UUID(joined["host_id"]),
                repository_id=UUID(repository["id"]),
                kind="backup",
                cron="@daily",
                timezone="UTC",
                enabled=True,
                catch_up="once",
                jitter=0.0,
                when_unreachable="run",
                created_at=now,
                updated_at=now,
            )
        )

    hosts_answer = await operator.delete("/v1/hosts/web-1")
    repository_answer = await operator.delete("/v1/repositories/nas")

    assert hosts_answer.status_code == 409
    assert "schedule" in hosts_answer.json()["detail"]
    assert repository_answer.status_code == 409
    assert "schedule" in repository_answer.json()["detail"]
