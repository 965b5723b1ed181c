"""The admin credential: who is ever sent it, and who is refused the jobs that need it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.commands import CommandRun, Credentials, QueryRun
from backhaul.wire.kinds import PasswdArguments, PasswdStep
from backhaul.wire.schedules import ScheduleSet
from backhaul_api.db.tables import repositories, repository_secrets
from backhaul_api.identity import SYSTEM
from backhaul_api.jobs import store
from backhaul_api.services import Services
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_schedule, add_source

ADMIN = {
    "location": "rest:https://keeper:topsecret@backup.example.com/nas",
    "password": "another key",
    "environment": {"AWS_SECRET_ACCESS_KEY": "may delete"},
}
EVERYDAY = {
    "location": "rest:https://host:append@backup.example.com/nas",
    "password": "the key of all hosts",
    "environment": {"AWS_SECRET_ACCESS_KEY": "may append"},
}
SECRETS = ("topsecret", "another key", "may delete")


@pytest.fixture
async def agents(
    services: Services, app: Litestar, operator: httpx.AsyncClient
) -> tuple[FakeAgent, FakeAgent]:
    """The upkeep host of the repository `nas`, and another host; both have said hello."""
    keeper, other = [await add_agent(services, app, name=name) for name in ("keeper", "web1")]
    for agent in (keeper, other):
        await agent.say_hello()
    body = {"name": "nas", **EVERYDAY, "admin": ADMIN, "upkeep_host": "keeper"}
    answer = await operator.post("/v1/repositories", json=body)
    assert answer.status_code == 201, answer.text
    await add_source(operator, retention={"keep_last": 1})
    return keeper, other


async def open_all(agent: FakeAgent) -> dict[str, Credentials]:
    """Open every box that a host is sent, by what it came with."""
    opened = {}
    reply = await agent.poll()
    for raw in reply.envelopes:
        envelope = msgspec.json.decode(bytes(raw), type=CommandRun | QueryRun | ScheduleSet)
        if isinstance(envelope, ScheduleSet):
            for entry in envelope.schedules:
                if entry.template is not None:
                    opened[f"template of {entry.kind}"] = agent.unseal(entry.template)
        else:
            arguments = msgspec.json.decode(envelope.arguments)
            is_all = " of all" if arguments.get("remove_all") else ""
            opened[f"{arguments['kind']}{is_all}"] = agent.unseal(envelope)
    return opened


async def run_each_kind(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> dict[str, Credentials]:
    """Order a job of each kind on a host, one after the other, and open what it is sent."""
    orders: list[dict[str, Any]] = [
        {"kind": "init"},
        {"kind": "backup"},
        {"kind": "snapshots"},
        {"kind": "restore", "snapshot": "latest", "target": "/srv/back"},
        {"kind": "check"},
        {"kind": "stats"},
        {"kind": "unlock"},
        {"kind": "unlock", "remove_all": True},
        {"kind": "forget", "source": "etc"},
        {"kind": "prune"},
    ]
    opened: dict[str, Credentials] = {}
    for order in orders:
        body = {"host": agent.name, "repository": "nas", **order}
        if order["kind"] == "backup":
            body["paths"] = ["/etc"]
        answer = await operator.post("/v1/jobs", json=body)
        if answer.status_code == 422:
            assert answer.json()["errors"][0]["field"] == "host", answer.text
            continue
        opened |= await open_all(agent)
        await operator.post(f"/v1/jobs/{answer.json()['id']}/cancel")
    return opened


async def test_only_what_deletes_on_the_upkeep_host_is_sealed_with_the_admin_credential(
    operator: httpx.AsyncClient, services: Services, agents: tuple[FakeAgent, FakeAgent]
) -> None:
    keeper, other = agents
    for host in ("keeper", "web1"):
        await add_schedule(operator, host=host)
    await add_schedule(operator, host="keeper", kind="forget")
    everyday, admin = msgspec.convert(EVERYDAY, dict), msgspec.convert(ADMIN, dict)

    to_keeper = await run_each_kind(operator, keeper, services)
    to_other = await run_each_kind(operator, other, services)

    def read(credentials: Credentials) -> dict[str, Any]:
        return {name: getattr(credentials, name) for name in everyday}

    with_admin = {name for name, one in to_keeper.items() if read(one) == admin}
    assert with_admin == {"unlock of all", "forget", "prune"}
    assert len(to_keeper) == 11
    rest = {name: one for name, one in to_keeper.items() if name not in with_admin} | to_other
    assert "template of backup" in rest
    assert len(to_other) == 8
    assert all(read(one) == everyday for one in rest.values())
    sent = b"".join(msgspec.json.encode(one) for one in rest.values()).decode()
    assert not [secret for secret in SECRETS if secret in sent]


async def test_job_that_waits_for_a_host_which_is_no_upkeep_host_any_more_fails(
    operator: httpx.AsyncClient, agents: tuple[FakeAgent, FakeAgent]
) -> None:
    keeper, _ = agents
    job_id = await add_job(operator, kind="prune", host="keeper")
    await operator.patch("/v1/repositories/nas", json={"upkeep_host": "web1"})

    assert await open_all(keeper) == {}
    job = (await operator.get(f"/v1/jobs/{job_id}")).json()
    assert job["state"] == "failed"
    assert "upkeep host" in job["message"]


async def test_step_of_a_password_change_without_its_passwords_fails(
    operator: httpx.AsyncClient, services: Services, agents: tuple[FakeAgent, FakeAgent]
) -> None:
    keeper, _ = agents
    repository = (await operator.get("/v1/repositories/nas")).json()
    new = store.NewJob(
        host_id=keeper.host_id,
        repository_id=UUID(repository["id"]),
        arguments=PasswdArguments(step=PasswdStep.REMOVE),
        actor=SYSTEM,
    )
    async with services.database.writing() as connection:
        job = await store.insert(connection, new, now=services.clock.now())

    assert await open_all(keeper) == {}
    assert (await operator.get(f"/v1/jobs/{job.id}")).json()["state"] == "failed"


async def test_schedules_that_delete_are_refused_on_other_hosts(
    operator: httpx.AsyncClient, agents: tuple[FakeAgent, FakeAgent]
) -> None:
    plain = {**EVERYDAY, "name": "plain"}
    await operator.post("/v1/repositories", json=plain)
    body = {"kind": "prune", "cron": "@daily", "repository": "nas"}
    elsewhere = await operator.post("/v1/hosts/web1/schedules", json=body)
    made = await add_schedule(operator, host="web1", kind="prune", repository="plain")
    moved = await operator.patch(f"/v1/schedules/{made['id']}", json={"repository": "nas"})
    claimed = await operator.patch("/v1/repositories/plain", json={"upkeep_host": "keeper"})

    assert [answer.status_code for answer in (elsewhere, moved)] == [422, 422]
    assert elsewhere.json()["errors"][0]["field"] == "host"
    assert claimed.status_code == 409
    assert "prune on web1" in claimed.json()["detail"]


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"upkeep_host": None}, 422, "upkeep_host"),
        ({"upkeep_host": "nobody"}, 422, "upkeep_host"),
        ({"admin": {}}, 422, "admin"),
        ({"admin": {"location": "relative"}}, 422, "admin.location"),
        ({"admin": {"environment": {"LD_PRELOAD": "x"}}}, 422, "admin.environment.LD_PRELOAD"),
        ({"admin": None, "upkeep_host": None}, 200, None),
    ],
)
async def test_change_of_the_admin_credential_names_what_is_wrong(
    operator: httpx.AsyncClient,
    agents: tuple[FakeAgent, FakeAgent],
    change: dict[str, Any],
    status: int,
    field: str | None,
) -> None:
    answer = await operator.patch("/v1/repositories/nas", json=change)

    assert answer.status_code == status, answer.text
    assert [error["field"] for error in answer.json().get("errors", [])] == [field] * bool(field)


async def test_admin_credential_is_shown_masked_and_stored_encrypted(
    operator: httpx.AsyncClient, services: Services, agents: tuple[FakeAgent, FakeAgent]
) -> None:
    shown = (await operator.get("/v1/repositories/nas")).json()
    async with services.database.reading() as connection:
        stored = [
            repr(row)
            for table in (repositories, repository_secrets)
            for row in (await connection.execute(sa.select(table))).all()
        ]

    assert shown["has_admin"]
    assert shown["admin_location"] == "rest:https://keeper:***@backup.example.com/nas"
    assert shown["admin_environment_names"] == ["AWS_SECRET_ACCESS_KEY"]
    assert shown["upkeep_host"] == "keeper"
    assert not [secret for secret in SECRETS if secret in f"{shown}{stored}"]


async def test_what_the_admin_credential_leaves_out_is_as_for_everyday_use(
    operator: httpx.AsyncClient, agents: tuple[FakeAgent, FakeAgent]
) -> None:
    keeper, _ = agents
    await operator.patch("/v1/repositories/nas", json={"admin": {"password": "another key"}})
    await add_job(operator, kind="prune", host="keeper")

    (sent,) = (await open_all(keeper)).values()

    assert (sent.location, sent.password) == (EVERYDAY["location"], "another key")
    assert sent.environment == EVERYDAY["environment"]


async def test_upkeep_host_is_not_removed(
    operator: httpx.AsyncClient, agents: tuple[FakeAgent, FakeAgent]
) -> None:
    refused = await operator.delete("/v1/hosts/keeper")
    await operator.patch("/v1/repositories/nas", json={"upkeep_host": "web1"})
    removed = await operator.delete("/v1/hosts/keeper")

    assert (refused.status_code, removed.status_code) == (409, 204)
    assert "nas" in refused.json()["detail"]
