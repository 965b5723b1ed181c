"""Which snapshot `latest` is, over a real database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from litestar import Litestar

from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_agent,
    add_job,
    add_repository,
    add_schedule,
    add_source,
)
from tests.integration.test_fires import fire
from tests.integration.test_snapshots import finish, report, snapshot, start

OLD, NEW, SOON, AHEAD, FOREIGN = ("a" * 64, "b" * 64, "c" * 64, "e" * 64, "d" * 64)
HOUR = timedelta(hours=1)


@pytest.fixture
async def agent(
    services: Services, app: Litestar, operator: httpx.AsyncClient, clock: FakeClock
) -> FakeAgent:
    """A host `web1` that made two snapshots; in its name others were written, dated ahead."""
    await add_repository(operator)
    agent = await add_agent(services, app)
    await agent.say_hello()
    await _back_up(operator, agent, OLD, time=START, tags=("etc", "people"))
    now = clock.advance(3600)
    await _back_up(operator, agent, NEW, time=now, tags=("home",))
    await _back_up(operator, agent, SOON, time=now + HOUR / 2)
    await _back_up(operator, agent, AHEAD, time=now + 30 * 24 * HOUR)
    listing = await start(operator, agent, kind="snapshots")
    await report(operator, agent, listing, snapshot(FOREIGN, time=now))
    await finish(agent, listing)
    return agent


async def test_latest_is_the_newest_that_a_job_of_the_host_can_have_made(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await add_source(operator, name="etc")
    await add_source(operator, name="tc")

    newest = await _restore(operator)
    of_source = await _restore(operator, source="etc")
    of_another = await _restore(operator, source="tc")

    assert (newest["snapshot"], newest["of_host"], newest["tag"]) == (NEW, None, None)
    assert (of_source["snapshot"], of_source["tag"]) == (OLD, "etc")
    # None is known: the host looks for itself, and for this source's.
    assert (of_another["snapshot"], of_another["tag"]) == ("latest", "tc")


async def test_latest_of_another_host_is_restored_also_when_that_is_gone(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    other = await add_agent(services, app, name="web2")
    await other.say_hello()
    removed = await operator.delete("/v1/hosts/web1")
    assert removed.status_code == 204, removed.text

    own = await _restore(operator, host="web2")
    theirs = await _restore(operator, host="web2", of_host="web1")

    assert (own["snapshot"], own["of_host"]) == ("latest", None)
    assert (theirs["snapshot"], theirs["of_host"]) == (NEW, "web1")


async def test_latest_may_be_one_that_an_operator_vouched_for(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    vouched = await operator.post("/v1/repositories/nas/adopt", json={"snapshots": [FOREIGN]})
    assert vouched.status_code == 200, vouched.text

    newest = await _restore(operator)

    assert newest["snapshot"] == FOREIGN


async def test_schedule_drills_the_newest_snapshot_by_its_options(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    body = {
        "kind": "drill",
        "cron": "0 4 * * 0",
        "repository": "nas",
        "options": {"kind": "drill", "files": 7},
    }
    made = await operator.post("/v1/hosts/web1/schedules", json=body)
    assert made.status_code == 201, made.text

    receipt = await fire(agent, made.json()["id"])

    job = (await operator.get(f"/v1/jobs/{receipt.job_id}")).json()
    assert job["arguments"] == {
        "kind": "drill",
        "snapshot": NEW,
        "of_host": None,
        "files": 7,
        "max_bytes": 2**30,
    }


async def test_host_without_snapshots_of_its_own_drills_the_newest_honest_one(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    upkeep = await add_agent(services, app, name="web2")
    await upkeep.say_hello()
    schedule = await add_schedule(operator, kind="drill", host="web2", source=None)

    asked = await add_job(operator, kind="drill", host="web2")
    receipt = await fire(upkeep, schedule["id"])

    for job_id in (asked, receipt.job_id):
        job = (await operator.get(f"/v1/jobs/{job_id}")).json()
        assert job["arguments"]["snapshot"] == NEW


async def test_schedule_drills_what_another_host_made_by_whatever_name_it_has(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    upkeep = await add_agent(services, app, name="web2")
    await upkeep.say_hello()
    new = {"kind": "drill", "source": None}
    theirs = await add_schedule(operator, host="web2", options={"of_host": "web1"}, **new)
    own = await add_schedule(operator, host="web1", options={"of_host": "web2"}, **new)
    renamed = await operator.patch("/v1/hosts/web1", json={"name": "web9"})
    assert renamed.status_code == 200, renamed.text

    fired = [await fire(upkeep, theirs["id"]), await fire(agent, own["id"])]

    jobs = [(await operator.get(f"/v1/jobs/{one.job_id}")).json()["arguments"] for one in fired]
    # Of web2 none is known: its host looks for itself, and takes nobody else's.
    assert [(job["snapshot"], job["of_host"]) for job in jobs] == [
        (NEW, "web9"),
        ("latest", "web2"),
    ]
    [shown] = (await operator.get("/v1/hosts/web2/schedules")).json()["items"]
    assert shown["options"]["of_host"] == str(agent.host_id)
    assert (theirs["of_host"], shown["of_host"]) == ("web1", "web9")


async def _back_up(operator: httpx.AsyncClient, agent: FakeAgent, id_: str, **fields: Any) -> None:
    job_id = await start(operator, agent, kind="backup")
    await report(operator, agent, job_id, snapshot(id_, **fields))
    await finish(agent, job_id, snapshot_id=id_)


async def _restore(operator: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {"kind": "restore", "snapshot": "latest", "target": "/srv/r", **fields}
    job_id = await add_job(operator, **body)
    arguments: dict[str, Any] = (await operator.get(f"/v1/jobs/{job_id}")).json()["arguments"]
    return arguments
