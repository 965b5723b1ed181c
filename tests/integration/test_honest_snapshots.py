"""What the server knows of snapshots: doubts in the list, the guard of a forget, adoption."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from litestar import Litestar

from backhaul.wire.commands import CommandAck, CommandRun
from backhaul.wire.honesty import ID_DIGITS, Doubt
from backhaul.wire.kinds import ForgetArguments, Retention
from backhaul.wire.reports import JobStarted
from backhaul.wire.snapshots import ReportedSnapshot, SnapshotsReport
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository, add_source
from tests.integration.test_snapshots import A, B, C, finish, listed, report, snapshot, start

D = "d" * 64
LATER = START + timedelta(days=400)


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1` whose agent has said hello, a repository `nas` and a source `etc`."""
    await add_repository(operator)
    await add_source(operator, retention={"keep_last": 7})
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent


async def fill(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    """A is of a backup; B is of nobody, C of nobody and in the future."""
    backup = await start(operator, agent, kind="backup")
    await report(operator, agent, backup, snapshot(A, tags=("etc",)))
    await finish(agent, backup, snapshot_id=A[:8])
    listing = await start(operator, agent, kind="snapshots")
    seen = [snapshot(A, tags=("etc",)), snapshot(B, tags=("etc",), hostname="old")]
    seen.append(snapshot(C, time=LATER, tags=("etc",)))
    await report(operator, agent, listing, *seen, is_complete=True)
    await finish(agent, listing)


async def doubts(operator: httpx.AsyncClient) -> dict[str, str | None]:
    return {item["id"]: item["doubt"] for item in await listed(operator)}


async def guard_of_forget(operator: httpx.AsyncClient, agent: FakeAgent) -> dict[str, Any]:
    await add_job(operator, kind="forget", source="etc")
    commands = [one for one in (await agent.poll()).envelopes if b'"command.run"' in bytes(one)]
    command = msgspec.json.decode(commands[0], type=CommandRun)
    arguments = msgspec.json.decode(command.arguments, type=ForgetArguments)
    assert (arguments.keep, arguments.rules) == (Retention(), Retention(keep_last=7))
    assert arguments.guard is not None
    stored = (await operator.get(f"/v1/jobs/{command.job_id}")).json()["arguments"]
    assert stored == {"kind": "forget", "tag": "etc", "keep": {"keep_last": 7}}
    return {origin.id: origin for origin in arguments.guard.origins}


async def test_list_says_what_is_doubted_and_the_guard_of_a_forget_knows_the_rest(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await fill(operator, agent)

    assert await doubts(operator) == {A: None, B: Doubt.UNKNOWN, C: Doubt.FUTURE}
    assert list(await guard_of_forget(operator, agent)) == [A[:ID_DIGITS]]


async def test_adopted_snapshots_are_honest_and_stay_so(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    await fill(operator, agent)
    await finish(agent, await start(operator, agent, kind="check"))

    answer = await operator.post("/v1/repositories/nas/adopt", json={})
    clock.advance(60)
    again = await operator.post("/v1/repositories/nas/adopt", json={})
    listing = await start(operator, agent, kind="snapshots")
    await report(operator, agent, listing, snapshot(B, tags=("etc",), hostname="old"))
    await finish(agent, listing)

    assert answer.status_code == 200, answer.text
    assert (answer.json()["adopted"], answer.json()["doubted"]) == (1, 1)
    assert again.json()["repository"] == (await operator.get("/v1/repositories/nas")).json()
    assert (again.json()["adopted"], again.json()["doubted"]) == (0, 1)
    assert await doubts(operator) == {A: None, B: None, C: Doubt.FUTURE}
    origin = (await guard_of_forget(operator, agent))[B[:ID_DIGITS]]
    assert origin.since == origin.until == START.timestamp()
    assert origin.hostname == "old"
    audit = (await operator.get("/v1/audit")).json()["items"]
    assert [one["target"] for one in audit if one["action"] == "repository.adopt"] == ["nas"] * 2


async def test_adopted_repository_is_never_created_again(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    listing = await start(operator, agent, kind="snapshots")
    early = await operator.post("/v1/repositories/nas/adopt", json={})
    await finish(agent, listing)

    adopted = await operator.post("/v1/repositories/nas/adopt", json={})
    init = {"kind": "init", "host": "web1", "repository": "nas"}

    assert early.status_code == 409
    assert "Run a snapshots job" in early.json()["detail"]
    assert adopted.json()["repository"]["initialized_at"] is not None
    assert (await operator.post("/v1/jobs", json=init)).status_code == 409


async def test_only_what_is_there_and_not_in_the_future_is_adopted_by_its_id(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await fill(operator, agent)
    path = "/v1/repositories/nas/adopt"

    refused = await operator.post(path, json={"snapshots": [B, C, D]})
    no_id = await operator.post(path, json={"snapshots": ["latest"]})
    nowhere = await operator.post("/v1/repositories/nowhere/adopt", json={})
    named = await operator.post(path, json={"snapshots": [B]})

    assert refused.status_code == no_id.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == [
        "snapshots[1]",
        "snapshots[2]",
    ]
    assert nowhere.status_code == 404
    assert named.json()["adopted"] == 1


async def test_host_cannot_take_the_name_or_the_snapshot_of_another(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    hostile = await add_agent(services, app, name="web2")
    await hostile.say_hello()
    honest = await start(operator, agent, kind="backup")
    theft = await start(operator, hostile, kind="backup")

    # It claims what web1 made, and writes one of its own under the name of web1.
    await report(operator, hostile, theft, snapshot(A), snapshot(B))
    await finish(hostile, theft, snapshot_id=B)
    stolen = await doubts(operator)
    await report(operator, agent, honest, snapshot(A))
    await finish(agent, honest, snapshot_id=A[:8])

    assert stolen == {A: Doubt.UNKNOWN, B: Doubt.HOST}
    assert await doubts(operator) == {A: None, B: Doubt.HOST}
    makers = {item["id"]: UUID(item["host_id"]) for item in await listed(operator)}
    assert makers[A] == agent.host_id


async def copy_to_cloud(
    operator: httpx.AsyncClient, agent: FakeAgent, *seen: ReportedSnapshot
) -> None:
    """Copy from nas to cloud, and see this there."""
    job_id = await add_job(operator, kind="copy", destination="cloud")
    await agent.send(
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(job_id=job_id, attempt=1, at=START),
    )
    destination = (await operator.get(f"/v1/jobs/{job_id}")).json()["destination_id"]
    [receipt] = await agent.send(
        SnapshotsReport(
            repository_id=UUID(destination), job_id=job_id, snapshots=seen, is_complete=True
        )
    )
    assert receipt.status == "ok"
    await finish(agent, job_id)


async def doubts_in_cloud(operator: httpx.AsyncClient) -> dict[str, str | None]:
    found = await listed(operator, repository="cloud")
    return {item["id"]: item["doubt"] for item in found}


async def test_copy_is_as_honest_as_what_it_is_of_also_when_that_is_gone(
    operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock
) -> None:
    await add_repository(operator, name="cloud")
    await fill(operator, agent)
    tree, other = "1" * 64, "2" * 64
    backup = await start(operator, agent, kind="backup")
    await report(operator, agent, backup, snapshot(D, tree=tree))
    await finish(agent, backup, snapshot_id=D)
    copy, again, forged, unknown = (letter * 64 for letter in "3456")

    await copy_to_cloud(
        operator,
        agent,
        snapshot(copy, tree=tree, original=D),
        # Whoever can write there could let an honest one count as often as it likes.
        snapshot(again, tree=tree, original=D),
        snapshot(forged, tree=other, original=D),
        snapshot(unknown, tree=tree, original=B, hostname="old"),
    )
    at_once = await doubts_in_cloud(operator)
    clock.advance(60)
    listing = await start(operator, agent, kind="snapshots")
    await report(operator, agent, listing, is_complete=True)
    await finish(agent, listing)
    clock.advance(60)
    await copy_to_cloud(
        operator, agent, *(snapshot(id_, tree=tree, original=D) for id_ in (copy, again))
    )

    assert at_once == {
        copy: None,
        again: Doubt.UNKNOWN,
        forged: Doubt.UNKNOWN,
        unknown: Doubt.UNKNOWN,
    }
    assert await listed(operator, repository="nas") == []
    assert await doubts_in_cloud(operator) == {copy: None, again: Doubt.UNKNOWN}


async def test_what_no_job_copied_is_no_copy(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    await add_repository(operator, name="cloud")
    backup = await start(operator, agent, kind="backup")
    await report(operator, agent, backup, snapshot(A, tree="1" * 64))
    await finish(agent, backup, snapshot_id=A)
    listing = await start(operator, agent, kind="snapshots", repository="cloud")

    await report(operator, agent, listing, snapshot(D, tree="1" * 64, original=A))

    assert await doubts_in_cloud(operator) == {D: Doubt.UNKNOWN}
