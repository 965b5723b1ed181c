"""How hosts follow their schedules: versions, the set in the poll, the ack, and drift."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import PollReply, Receipt, ReceiptStatus
from backhaul.wire.kinds import BackupArguments
from backhaul.wire.schedules import EntryError, ScheduleAck, ScheduleEntry
from backhaul_api.db.tables import hosts, repository_secrets, server_identity
from backhaul_api.keys import KeyRing
from backhaul_api.server_identity import follow_keys
from backhaul_api.services import Services
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_agent,
    add_job,
    add_repository,
    add_schedule,
    add_source,
    read_commands,
    read_set,
)
from tests.fakes.statements import watch_statements

OK, DUPLICATE, REJECTED = ReceiptStatus.OK, ReceiptStatus.DUPLICATE, ReceiptStatus.REJECTED


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1` whose agent has said hello, a repository `nas`, and a source `etc`."""
    await add_repository(operator)
    await add_source(operator, retention={"keep_daily": 7})
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent


async def _show_host(operator: httpx.AsyncClient, name: str = "web1") -> dict[str, Any]:
    host: dict[str, Any] = (await operator.get(f"/v1/hosts/{name}")).json()
    return host


async def _until_parked(services: Services) -> None:
    async with asyncio.timeout(20):
        while not services.wakeups.waiting:
            await asyncio.sleep(0)


async def _read_entries(agent: FakeAgent) -> list[ScheduleEntry]:
    return list(read_set(await agent.poll()).schedules)


# Versions ----------------------------------------------------------------------------------------


async def test_every_change_moves_the_version_of_the_host_and_of_no_other(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    await add_agent(services, app, name="web2")
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"
    seen = [(await _show_host(operator))["schedule_version"]]
    for change in ({"enabled": False}, {"cron": "@daily"}, {"enabled": True}):
        assert (await operator.patch(path, json=change)).status_code == 200
        seen.append((await _show_host(operator))["schedule_version"])
    assert (await operator.delete(path)).status_code == 204
    seen.append((await _show_host(operator))["schedule_version"])

    assert seen == [1, 2, 3, 4, 5]
    assert (await _show_host(operator, "web2"))["schedule_version"] == 0


async def test_refused_changes_move_nothing(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"

    await operator.patch(path, json={"cron": "nonsense"})
    await operator.patch(path, json={"cron": "@daily"}, headers={"If-Match": '"7"'})

    assert (await _show_host(operator))["schedule_version"] == 1


async def test_change_of_a_source_moves_the_hosts_that_have_schedules_of_it(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    await add_agent(services, app, name="web2")
    await add_agent(services, app, name="web3")
    await add_source(operator, name="home", paths=["/home"])
    await add_schedule(operator)
    await add_schedule(operator)
    await add_schedule(operator, host="web2", source="home")
    deleted = await add_schedule(operator, host="web3")
    await operator.delete(f"/v1/schedules/{deleted['id']}")

    answer = await operator.patch("/v1/sources/etc", json={"excludes": ["*.iso"]})

    assert answer.status_code == 200
    versions = [
        (await _show_host(operator, name))["schedule_version"] for name in ("web1", "web2", "web3")
    ]
    assert versions == [3, 1, 2]


@pytest.mark.parametrize(
    ("schedule", "moves"),
    [
        ({}, True),
        ({"enabled": False}, False),
        ({"when_unreachable": "wait"}, False),
        ({"kind": "prune"}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "change",
    [
        {"password": "another password"},
        {"location": "/srv/elsewhere"},
        {"environment": {}},
        {"name": "cloud"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_change_of_a_repository_moves_the_hosts_that_hold_its_secrets(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    schedule: dict[str, Any],
    moves: bool,
    change: dict[str, Any],
) -> None:
    await add_schedule(operator, **schedule)

    assert (await operator.patch("/v1/repositories/nas", json=change)).status_code == 200

    assert (await _show_host(operator))["schedule_version"] == (2 if moves else 1)


async def test_versions_only_grow_whatever_happens_at_once(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"

    answers = await asyncio.gather(
        *(operator.patch(path, json={"jitter": n}) for n in range(3)),
        *(operator.patch("/v1/sources/etc", json={"tags": [f"t{n}"]}) for n in range(3)),
        *(operator.patch("/v1/repositories/nas", json={"password": f"p{n}"}) for n in range(3)),
        *(agent.send(ScheduleAck(schedule_version=1)) for _ in range(3)),
        *(operator.post("/v1/jobs", json={**JOB, "paths": [f"/{n}"]}) for n in range(3)),
        *(add_schedule(operator) for _ in range(3)),
    )

    statuses = [a.status_code for a in answers if isinstance(a, httpx.Response)]
    assert statuses == [200] * 9 + [201] * 3
    host = await _show_host(operator)
    assert (host["schedule_version"], host["applied_schedule_version"]) == (13, 1)


JOB = {"kind": "backup", "host": "web1", "repository": "nas"}


# The set -----------------------------------------------------------------------------------------


async def test_set_is_due_until_the_agent_names_its_version(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await add_schedule(operator)

    sets = [read_set(await agent.poll(schedule_version=version)) for version in (0, 0)]
    applied = await agent.poll(schedule_version=1)

    assert {set_.schedule_version for set_ in sets} == {1}
    assert applied.envelopes == ()


async def test_host_without_schedules_is_sent_no_set(agent: FakeAgent) -> None:
    assert (await agent.poll()).envelopes == ()


async def test_set_carries_all_that_the_agent_needs(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    policies: dict[str, Any] = {
        "cron": "H 2 * * *",
        "timezone": "Europe/London",
        "catch_up": "skip",
        "catch_up_window": 60.0,
        "jitter": 5.0,
        "start_deadline": 3600.0,
        "max_duration": 7200.0,
    }
    created = await add_schedule(operator, **policies)

    [entry] = await _read_entries(agent)

    assert {name: getattr(entry, name) for name in policies} == policies
    assert (str(entry.schedule_id), entry.kind, entry.enabled) == (created["id"], "backup", True)
    assert entry.when_unreachable == "run"
    assert entry.template is not None
    assert entry.template.arguments == BackupArguments(paths=("/etc",), tags=("etc", "nightly"))
    assert str(entry.template.repository_id) == created["repository_id"]
    credentials = agent.unseal(entry.template)
    assert credentials.repository_id == entry.template.repository_id
    assert credentials.password == "a password of its own"


async def test_template_has_the_options_of_the_source(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await add_schedule(operator)
    options = {"limit_upload": 100, "compression": "max", "nice": 5, "dump": "db", "paths": []}
    assert (await operator.patch("/v1/sources/etc", json=options)).status_code == 200

    [entry] = await _read_entries(agent)

    assert entry.template is not None
    assert entry.template.arguments == BackupArguments(
        paths=(), tags=("etc", "nightly"), limit_upload=100, compression="max", nice=5, dump="db"
    )


@pytest.mark.parametrize(
    "schedule",
    [{"enabled": False}, {"when_unreachable": "wait"}, {"kind": "prune"}, {"kind": "forget"}],
    ids=str,
)
async def test_schedule_that_cannot_run_alone_is_sent_without_a_template(
    operator: httpx.AsyncClient, agent: FakeAgent, schedule: dict[str, Any]
) -> None:
    await add_schedule(operator, **schedule)

    [entry] = await _read_entries(agent)

    assert entry.template is None
    assert entry.enabled is schedule.get("enabled", True)


async def test_deleted_schedules_and_those_of_other_hosts_are_not_in_the_set(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    await add_agent(services, app, name="web2")
    await add_schedule(operator, host="web2")
    deleted, kept = [(await add_schedule(operator))["id"] for _ in range(2)]
    await operator.delete(f"/v1/schedules/{deleted}")

    assert [str(entry.schedule_id) for entry in await _read_entries(agent)] == [kept]

    await operator.delete(f"/v1/schedules/{kept}")
    assert read_set(await agent.poll(schedule_version=3)).schedules == ()


async def test_secret_that_does_not_open_blocks_no_other_schedule(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    cloud = await add_repository(operator, name="cloud")
    await add_schedule(operator, repository="nas")
    await add_schedule(operator, repository="cloud")
    await add_schedule(operator, repository="cloud")
    async with services.database.writing() as connection:
        await connection.execute(
            sa.update(repository_secrets)
            .where(repository_secrets.c.repository_id == cloud)
            .values(ciphertext=b"\x01" + bytes(60))
        )

    entries = await _read_entries(agent)

    assert [entry.template is not None for entry in entries] == [True, False, False]
    assert [entry.when_unreachable for entry in entries] == ["run"] * 3


async def test_new_password_reaches_the_host(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    await add_schedule(operator)
    version = read_set(await agent.poll()).schedule_version

    await operator.patch("/v1/repositories/nas", json={"password": "another one"})

    [entry] = read_set(await agent.poll(schedule_version=version)).schedules
    assert entry.template is not None
    assert agent.unseal(entry.template).password == "another one"


async def test_set_comes_beside_the_commands(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    await add_schedule(operator)
    job_id = await add_job(operator)

    reply = await agent.poll()

    assert len(read_set(reply).schedules) == 1
    commands = read_commands(PollReply(**{**_fields(reply), "envelopes": reply.envelopes[1:]}))
    assert [command.job_id for command in commands] == [job_id]


async def test_agent_that_does_not_apply_a_set_is_slowed_down(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    await add_schedule(operator)

    fresh = await agent.poll(hold=20)
    clock.advance(11)
    stale = await agent.poll(hold=20)
    await add_job(operator)
    with_a_job = await agent.poll(hold=20)

    assert (fresh.pause, stale.pause, with_a_job.pause) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/hosts/web1/schedules", {"kind": "prune", "cron": "@daily"}),
        ("PATCH", "/v1/schedules/{id}", {"enabled": False}),
        ("DELETE", "/v1/schedules/{id}", None),
        ("PATCH", "/v1/sources/etc", {"paths": ["/srv"]}),
        ("PATCH", "/v1/repositories/nas", {"password": "another one"}),
    ],
)
async def test_change_wakes_the_parked_poll_with_the_new_set(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    method: str,
    path: str,
    body: dict[str, Any] | None,
) -> None:
    created = await add_schedule(operator)
    parked = asyncio.create_task(agent.poll(hold=20, schedule_version=1))
    await _until_parked(services)

    if method == "POST":
        body = {**(body or {}), "repository": "nas"}
    await operator.request(method, path.format(id=created["id"]), json=body)

    async with asyncio.timeout(5):
        assert read_set(await parked).schedule_version == 2


async def test_look_that_finds_nothing_new_makes_two_statements(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    await add_schedule(operator)
    await agent.poll()  # writes down the visit

    with watch_statements(services.database) as quiet:
        await agent.poll(schedule_version=1)
    with watch_statements(services.database) as changed:
        await agent.poll(schedule_version=0)

    # The token, the host, its jobs; then the schedules, the sources and one repository's secrets.
    assert len(quiet) == 3
    assert len(changed) == 6


def _fields(reply: PollReply) -> dict[str, Any]:
    return {"server_time": reply.server_time, "hold": reply.hold, "pause": reply.pause}


# The ack and the drift ---------------------------------------------------------------------------


async def _ack(agent: FakeAgent, version: int, **errors: str) -> ReceiptStatus:
    told = tuple(
        EntryError(schedule_id=UUID(schedule_id), message=message)
        for schedule_id, message in errors.items()
    )
    [receipt] = await agent.send(ScheduleAck(schedule_version=version, errors=told))
    return receipt.status


async def test_host_that_has_not_applied_its_schedules_differs_since_the_change(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    new = await _show_host(operator)
    clock.advance(60)
    await add_schedule(operator)
    clock.advance(60)
    before = await _show_host(operator)
    await _ack(agent, 1)
    after = await _show_host(operator)

    assert new["drift"] is None
    assert before["drift"] == {
        "desired": 1,
        "applied": 0,
        "since": "2026-11-23T12:01:00Z",
        "errors": [],
    }
    assert after["drift"] is None
    assert after["applied_schedule_version"] == 1


async def test_schedule_that_the_agent_skips_is_shown_with_its_reason(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    bad, good = [(await add_schedule(operator))["id"] for _ in range(2)]

    await _ack(agent, 2, **{bad: "no such time zone"})

    drift = (await _show_host(operator))["drift"]
    assert drift == {
        "desired": 2,
        "applied": 2,
        "since": None,
        "errors": [{"schedule_id": bad, "message": "no such time zone"}],
    }
    listed = (await operator.get("/v1/schedules")).json()["items"]
    assert {item["id"]: item["error"] for item in listed} == {bad: "no such time zone", good: None}
    assert (await operator.get("/v1/hosts")).json()["items"][0]["drift"] == drift


async def test_applied_version_only_moves_forward(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    for _ in range(5):
        await add_schedule(operator)
    error = EntryError(schedule_id=uuid4(), message="no such time zone")

    receipts: list[Receipt] = await agent.send(
        ScheduleAck(schedule_version=4, errors=(error,)),
        ScheduleAck(schedule_version=3),
        ScheduleAck(schedule_version=4, errors=(error,)),
        ScheduleAck(schedule_version=6),
        ScheduleAck(schedule_version=-1),
    )

    assert [receipt.status for receipt in receipts] == [
        OK,
        DUPLICATE,
        DUPLICATE,
        REJECTED,
        REJECTED,
    ]
    host = await _show_host(operator)
    assert host["applied_schedule_version"] == 4
    assert [entry["message"] for entry in host["drift"]["errors"]] == ["no such time zone"]


async def test_same_version_with_other_errors_replaces_them(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = (await add_schedule(operator))["id"]

    statuses = [
        await _ack(agent, 1, **{schedule_id: "x" * 5000}),
        await _ack(agent, 1, **{schedule_id: "x" * 5000}),
        await _ack(agent, 1),
        await _ack(agent, 1),
    ]

    assert statuses == [OK, DUPLICATE, OK, DUPLICATE]
    assert (await _show_host(operator))["drift"] is None


async def test_agent_that_lost_its_state_is_sent_the_set_again(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await add_schedule(operator)
    await _ack(agent, 1)

    set_ = read_set(await agent.poll(schedule_version=0))

    assert set_.schedule_version == 1
    assert await _ack(agent, 1) is DUPLICATE


async def test_host_from_before_there_were_schedules_has_no_drift_to_date(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(sa.update(hosts).values(schedule_version=3))

    drift = (await _show_host(operator))["drift"]

    assert (drift["desired"], drift["applied"], drift["since"]) == (3, 0, None)


# A server that was restored from a backup --------------------------------------------------------


async def test_host_that_is_ahead_of_a_restored_server_gets_the_set_under_a_newer_version(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await add_schedule(operator)

    set_ = read_set(await agent.poll(schedule_version=7))

    assert set_.schedule_version == 8
    assert len(set_.schedules) == 1
    assert await _ack(agent, 8) is OK
    assert (await agent.poll(schedule_version=8)).envelopes == ()
    host = await _show_host(operator)
    assert (host["schedule_version"], host["drift"]) == (8, None)


async def test_version_that_no_backup_explains_moves_nothing(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await add_schedule(operator)

    set_ = read_set(await agent.poll(schedule_version=2**62))

    assert set_.schedule_version == 1
    assert (await _show_host(operator))["schedule_version"] == 1


# Keys --------------------------------------------------------------------------------------------


async def test_hosts_hear_again_of_what_they_may_run_when_the_keys_are_mended(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    await add_schedule(operator)
    await add_schedule(operator, kind="prune", host="web1")
    mended = KeyRing([bytes(32), *[bytes(range(32))]])
    async with services.database.writing() as connection:
        await connection.execute(
            server_identity.insert().values(id=1, verify_key=services.keys.verify_key)
        )
    versions = []

    for keys in (services.keys, services.keys, mended, mended):
        await follow_keys(services.database, keys, now=clock.now())
        versions.append((await _show_host(operator))["schedule_version"])

    assert versions == [3, 3, 4, 4]
