"""/v1/schedules: what operators make, change and are refused."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul_api.db.tables import hosts, repositories
from backhaul_api.schedules.store import share_turn
from backhaul_api.services import Services
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_repository, add_schedule, add_source

NIGHTLY = {"kind": "backup", "cron": "30 1 * * *", "repository": "nas", "source": "etc"}


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1`, a repository `nas`, and a source `etc` with a keep rule."""
    await add_repository(operator)
    await add_source(operator, retention={"keep_daily": 7})
    return await add_agent(services, app)


async def _version(operator: httpx.AsyncClient) -> int:
    version: int = (await operator.get("/v1/hosts/web1")).json()["schedule_version"]
    return version


# Making and reading ------------------------------------------------------------------------------


async def test_schedule_shows_what_was_asked_and_what_was_filled_in(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    answer = await operator.post("/v1/hosts/web1/schedules", json=NIGHTLY)

    assert answer.status_code == 201
    created = answer.json()
    assert created | NIGHTLY == created
    assert (created["host"], created["host_id"]) == ("web1", str(agent.host_id))
    assert (created["timezone"], created["enabled"], created["catch_up"]) == ("UTC", True, "once")
    assert created["when_unreachable"] == "run"
    assert created["next_fire_at"] == "2026-11-24T01:30:00Z"
    assert (created["revision"], created["error"]) == (1, None)
    read = await operator.get(f"/v1/schedules/{created['id']}")
    assert read.json() == created
    assert read.headers["ETag"] == answer.headers["ETag"] == '"1"'


@pytest.mark.parametrize("kind", ["forget", "prune", "check"])
async def test_upkeep_waits_for_the_server(
    operator: httpx.AsyncClient, agent: FakeAgent, kind: str
) -> None:
    created = await add_schedule(operator, kind=kind)

    assert created["when_unreachable"] == "wait"
    assert created["source"] == ("etc" if kind == "forget" else None)


async def test_host_repository_and_source_may_be_named_by_their_ids(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    repository = (await operator.get("/v1/repositories/nas")).json()["id"]
    source = (await operator.get("/v1/sources/etc")).json()["id"]

    created = await add_schedule(
        operator, host=str(agent.host_id), repository=repository, source=source
    )

    assert (created["repository"], created["source"]) == ("nas", "etc")


async def test_schedules_are_listed_oldest_first_in_pages(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    await add_agent(services, app, name="web2")
    made = [(await add_schedule(operator, host=host))["id"] for host in ("web1", "web2", "web1")]

    first = (await operator.get("/v1/schedules", params={"limit": 2})).json()
    rest = (await operator.get("/v1/schedules", params={"cursor": first["next_cursor"]})).json()
    of_web1 = (await operator.get("/v1/hosts/web1/schedules")).json()["items"]
    filtered = (await operator.get("/v1/schedules", params={"host": "web1"})).json()["items"]

    assert [item["id"] for page in (first, rest) for item in page["items"]] == made
    assert [item["id"] for item in of_web1] == [made[0], made[2]]
    assert filtered == of_web1


async def test_next_fire_has_the_schedules_own_jitter(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    moments = {(await add_schedule(operator, jitter=86_400))["next_fire_at"] for _ in range(5)}

    assert len(moments) == 5
    assert (await add_schedule(operator, enabled=False))["next_fire_at"] is None


async def test_options_of_the_kind_are_kept_changed_and_lifted(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    options = {"kind": "check", "read_data_parts": 7}
    created = await add_schedule(operator, kind="check", options=options)
    path = f"/v1/schedules/{created['id']}"

    kept = (await operator.patch(path, json={"jitter": 5})).json()
    changed = (await operator.patch(path, json={"options": {"kind": "check"}})).json()
    lifted = (await operator.patch(path, json={"options": None})).json()

    assert created["options"] == kept["options"] == options
    assert changed["options"] == {"kind": "check", "read_data_parts": None}
    assert lifted["options"] is None


async def test_options_need_not_repeat_the_kind_of_their_schedule(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    options = {"read_data_parts": 7}
    created = await add_schedule(operator, kind="check", options=options)
    path = f"/v1/schedules/{created['id']}"

    changed = (await operator.patch(path, json={"options": {"read_data_parts": 4}})).json()
    reset = (await operator.patch(path, json={"options": {}})).json()
    refused = await operator.patch(path, json={"options": {"files": 4}})

    assert created["options"] == {"kind": "check", "read_data_parts": 7}
    assert changed["options"] == {"kind": "check", "read_data_parts": 4}
    assert reset["options"] == {"kind": "check", "read_data_parts": None}
    assert refused.json()["errors"][0]["field"] == "options.files"


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        ("prune", {}, "options.kind"),
        ("drill", {"of_host": "nobody"}, "options.of_host"),
        ("prune", {"kind": "check"}, "options.kind"),
        ("check", {"kind": "prune"}, "options.kind"),
        ("check", {"kind": "check", "read_data_parts": 257}, "options.read_data_parts"),
        ("check", {"kind": "check", "read_data_parst": 7}, "options.read_data_parst"),
    ],
    ids=["of none", "no host", "of another kind", "of no kind with any", "too many", "mistyped"],
)
async def test_options_that_are_not_of_the_kind_are_refused(
    operator: httpx.AsyncClient, agent: FakeAgent, kind: str, options: dict[str, Any], field: str
) -> None:
    request = {"kind": kind, "cron": "@daily", "repository": "nas", "options": options}

    answer = await operator.post("/v1/hosts/web1/schedules", json=request)

    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


# Changing ----------------------------------------------------------------------------------------


async def test_update_changes_what_it_names(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    await add_repository(operator, name="cloud")
    await add_source(operator, name="home", paths=["/home"])
    created = await add_schedule(operator, start_deadline=60, max_duration=60)
    changes = {"cron": "@daily", "repository": "cloud", "source": "home", "max_duration": None}

    answer = await operator.patch(f"/v1/schedules/{created['id']}", json=changes)

    changed = answer.json()
    assert changed | changes == changed
    assert (changed["start_deadline"], changed["kind"]) == (60, "backup")
    assert changed["revision"] == 2
    assert answer.headers["ETag"] == '"2"'
    assert (await operator.get(f"/v1/schedules/{created['id']}")).json() == changed


async def test_change_with_an_old_etag_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"
    old = {"If-Match": (await operator.get(path)).headers["ETag"]}
    new = {
        "If-Match": (await operator.patch(path, json={"jitter": 5}, headers=old)).headers["ETag"]
    }

    patched = await operator.patch(path, json={"cron": "@daily"}, headers=old)
    deleted = await operator.delete(path, headers=old)

    assert (patched.status_code, deleted.status_code) == (412, 412)
    assert patched.json()["type"] == "urn:backhaul:problem:precondition-failed"
    assert (await operator.get(path)).json()["cron"] == "30 1 * * *"
    assert (await operator.delete(path, headers=new)).status_code == 204


@pytest.mark.parametrize("if_match", ["*", '"1"', '"7", "1"'])
async def test_change_with_a_matching_etag_is_made(
    operator: httpx.AsyncClient, agent: FakeAgent, if_match: str
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"

    answer = await operator.patch(path, json={"jitter": 5}, headers={"If-Match": if_match})

    assert answer.status_code == 200


async def test_if_match_that_is_no_etag_is_refused_as_such(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"

    answer = await operator.patch(path, json={"jitter": 5}, headers={"If-Match": "1"})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "If-Match"


async def test_one_of_five_changes_of_the_same_state_is_made(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"
    tag = {"If-Match": (await operator.get(path)).headers["ETag"]}
    before = await _version(operator)

    answers = await asyncio.gather(
        *(operator.patch(path, json={"jitter": n}, headers=tag) for n in range(5))
    )

    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]
    [made] = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await operator.get(path)).json() == made
    assert await _version(operator) == before + 1


async def test_changes_without_an_etag_are_all_made(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"
    before = await _version(operator)

    answers = await asyncio.gather(*(operator.patch(path, json={"jitter": n}) for n in range(5)))

    assert {answer.status_code for answer in answers} == {200}
    assert (await operator.get(path)).json()["revision"] == 6
    assert await _version(operator) == before + 5


async def test_deleted_schedule_is_gone(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"

    assert (await operator.delete(path)).status_code == 204

    assert (await operator.get(path)).status_code == 404
    assert (await operator.patch(path, json={"jitter": 1})).status_code == 404
    assert (await operator.delete(path)).status_code == 404
    assert (await operator.get("/v1/schedules")).json()["items"] == []


async def test_changes_are_in_the_audit_log(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    created = await add_schedule(operator)
    await operator.patch(f"/v1/schedules/{created['id']}", json={"enabled": False})
    await operator.delete(f"/v1/schedules/{created['id']}")

    entries = (await operator.get("/v1/audit", params={"limit": 3})).json()["items"]

    assert [entry["action"] for entry in entries] == [
        "schedule.delete",
        "schedule.update",
        "schedule.create",
    ]
    assert {entry["target_id"] for entry in entries} == {created["id"]}
    assert {entry["target"] for entry in entries} == {"backup on web1: 30 1 * * *"}


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ({"cron": "0 2 30 2 *"}, "cron", "never fires"),
        ({"cron": "0 0 2 * * *"}, "cron", "has 6 fields, not 5"),
        ({"cron": "0 0 2 * * * 2027"}, "cron", "has 7 fields, not 5"),
        ({"cron": "@reboot"}, "cron", "there are @yearly"),
        ({"cron": "61 * * * *"}, "cron", "is out of range: write 0 to 59"),
        ({"cron": "soon"}, "cron", "has 1 fields, not 5"),
        ({"cron": ""}, "cron", "at least 1 character"),
        ({"timezone": "Europe/Londn"}, "timezone", "write one like Europe/London"),
        ({"timezone": "../../etc/passwd"}, "timezone", "write one like Europe/London"),
        ({"repository": "nobody"}, "repository", "name one that exists"),
        ({"source": "nobody"}, "source", "name one that exists"),
        ({"source": None}, "source", "name the source to backup"),
        ({"kind": "prune"}, "source", "leave it out"),
        ({"kind": "check"}, "source", "leave it out"),
        ({"kind": "forget", "source": "bare"}, "source", "give it a retention"),
        ({"kind": "forget", "source": "nothing"}, "source", "give it a retention"),
        ({"kind": "forget", "source": None}, "source", "name the source to forget"),
        ({"kind": "forget", "when_unreachable": "run"}, "when_unreachable", "write wait"),
        ({"kind": "restore"}, "kind", "not known"),
        ({"jitter": -1}, "jitter", "at least 0"),
        ({"jitter": 86_401}, "jitter", "at most 86400"),
        ({"catch_up_window": -1}, "catch_up_window", "at least 0"),
        ({"catch_up": "twice"}, "catch_up", "not known"),
        ({"start_deadline": 0}, "start_deadline", "more than 0"),
        ({"start_deadline": 1e300}, "start_deadline", "at most 31622400"),
        ({"max_duration": -5}, "max_duration", "more than 0"),
        ({"max_duration": "1h"}, "max_duration", "must be a number"),
        ({"crn": "@daily"}, "crn", "is not a field"),
    ],
    ids=str,
)
async def test_refusal_names_the_field_and_the_remedy(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    change: dict[str, Any],
    field: str,
    remedy: str,
) -> None:
    await add_source(operator, name="bare")
    await add_source(operator, name="nothing", retention={"keep_within": "0d"})

    answer = await operator.post("/v1/hosts/web1/schedules", json=NIGHTLY | change)

    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert remedy in error["message"]
    assert await _version(operator) == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_duration_that_is_no_number_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent, number: str
) -> None:
    body = '{"kind": "prune", "cron": "@daily", "repository": "nas", "jitter": ' + number + "}"

    answer = await operator.post("/v1/hosts/web1/schedules", content=body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "jitter"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "0 2 30 2 *"}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"repository": "nobody"}, "repository"),
        ({"source": "nobody"}, "source"),
        ({"source": None}, "source"),
        ({"kind": "prune"}, "kind"),
        ({"enabled": None}, "enabled"),
    ],
    ids=str,
)
async def test_update_is_refused_like_a_new_schedule(
    operator: httpx.AsyncClient, agent: FakeAgent, change: dict[str, Any], field: str
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator))['id']}"

    answer = await operator.patch(path, json=change)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert (await operator.get(path)).json()["revision"] == 1


async def test_prune_takes_no_source_later_either(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    path = f"/v1/schedules/{(await add_schedule(operator, kind='prune'))['id']}"

    answers = [
        await operator.patch(path, json=change)
        for change in ({"source": "etc"}, {"when_unreachable": "run"})
    ]

    assert [answer.status_code for answer in answers] == [422, 422]


async def test_unknown_host_is_not_found(operator: httpx.AsyncClient, agent: FakeAgent) -> None:
    posted = await operator.post("/v1/hosts/nobody/schedules", json=NIGHTLY)
    listed = await operator.get("/v1/hosts/nobody/schedules")
    filtered = await operator.get("/v1/schedules", params={"host": "nobody"})

    assert {posted.status_code, listed.status_code, filtered.status_code} == {404}
    assert (await operator.get(f"/v1/schedules/{uuid4()}")).status_code == 404


@pytest.mark.parametrize(("table", "status"), [(hosts, 404), (repositories, 422)], ids=str)
async def test_removed_host_or_repository_gets_no_schedule(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    clock: FakeClock,
    table: sa.Table,
    status: int,
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(sa.update(table).values(removed_at=clock.now()))

    answer = await operator.post("/v1/hosts/web1/schedules", json=NIGHTLY)

    assert answer.status_code == status


# What schedules use ------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", ["sources/etc", "repositories/nas", "hosts/web1"])
async def test_what_a_schedule_uses_is_not_deleted(
    operator: httpx.AsyncClient, agent: FakeAgent, thing: str
) -> None:
    schedule_id = (await add_schedule(operator, enabled=False))["id"]

    refused = await operator.delete(f"/v1/{thing}")
    await operator.delete(f"/v1/schedules/{schedule_id}")
    deleted = await operator.delete(f"/v1/{thing}")

    assert refused.status_code == 409
    assert " 1 schedule." in refused.json()["detail"]
    assert deleted.status_code == 204


async def test_source_that_schedules_forget_by_keeps_a_keep_rule(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    schedule_id = (await add_schedule(operator, kind="forget"))["id"]
    before = await _version(operator)

    refused = [
        await operator.patch("/v1/sources/etc", json={"retention": retention})
        for retention in (None, {}, {"keep_within": "0h"})
    ]
    other = await operator.patch("/v1/sources/etc", json={"retention": {"keep_last": 1}})
    await operator.delete(f"/v1/schedules/{schedule_id}")
    free = await operator.patch("/v1/sources/etc", json={"retention": None})

    assert [answer.status_code for answer in refused] == [409, 409, 409]
    assert "Leave at least one keep rule" in refused[0].json()["detail"]
    assert (other.status_code, free.status_code) == (200, 200)
    # The changes that were made: of the retention, and the deletion.
    assert await _version(operator) == before + 2


async def test_who_makes_a_schedule_does_not_wait_for_another_who_does(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    if services.database.is_sqlite:
        pytest.skip("it has one writer")

    async with services.database.writing() as connection:
        await share_turn(connection)
        made = await asyncio.wait_for(
            operator.post("/v1/hosts/web1/schedules", json=NIGHTLY), timeout=10
        )

    assert made.status_code == 201


async def test_forget_and_loss_of_the_keep_rule_at_once_cannot_both_be(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    forget = NIGHTLY | {"kind": "forget"}

    made, lost = await asyncio.gather(
        operator.post("/v1/hosts/web1/schedules", json=forget),
        operator.patch("/v1/sources/etc", json={"retention": None}),
    )

    assert (made.status_code, lost.status_code) in {(201, 409), (422, 200)}
