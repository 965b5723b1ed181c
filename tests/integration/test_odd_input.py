"""Input that nobody sends on purpose: refused by its field, with a remedy, changing nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from backhaul.wire.agents import ReceiptStatus
from backhaul.wire.jobs import Outcome
from backhaul.wire.kinds import StatsResult
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import ScheduleFire
from backhaul_api.db.tables import schedules
from backhaul_api.paging import encode_cursor
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import (
    FakeAgent,
    add_job,
    add_schedule,
    add_source,
)

LARGEST = 2**31 - 1


def errors_of(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {error["field"]: error["message"] for error in answer.json()["errors"]}


async def test_size_that_nobody_can_store_is_refused_and_its_neighbours_are_not(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    stats, backup = await add_job(operator, kind="stats"), await add_job(operator)
    for job_id in (stats, backup):
        await agent.accept(job_id)
        await agent.send(JobStarted(job_id=job_id, attempt=1, at=START))
    common: dict[str, Any] = {"attempt": 1, "at": START, "outcome": Outcome.SUCCEEDED}
    result = StatsResult(total_size=2**63, snapshots_count=1)

    measured, ended = await agent.send(
        JobFinished(job_id=stats, log_lines=0, result=result, **common),
        JobFinished(job_id=backup, log_lines=0, **common),
    )

    assert (measured.status, ended.status) == (ReceiptStatus.REJECTED, ReceiptStatus.OK)
    assert measured.problem is not None
    assert [error.field for error in measured.problem.errors] == ["result.total_size"]


@pytest.mark.parametrize("ran_offline", [False, True])
async def test_fire_that_says_it_stands_for_all_there_could_be_hinders_no_other(
    operator: httpx.AsyncClient, agent: FakeAgent, *, ran_offline: bool
) -> None:
    await add_source(operator)
    schedule_id = UUID((await add_schedule(operator, cron="* * * * *"))["id"])
    first, minute = START - timedelta(minutes=5), timedelta(minutes=1)

    [large] = await agent.send(
        ScheduleFire(schedule_id=schedule_id, scheduled_at=first, fired_at=START, missed=LARGEST)
    )
    [next_] = await agent.send(
        ScheduleFire(
            schedule_id=schedule_id,
            scheduled_at=first + 2 * minute,
            fired_at=START,
            missed=1,
            missed_since=first - minute,
            ran_offline=ran_offline,
        )
    )

    assert (large.status, next_.status) == (ReceiptStatus.OK, ReceiptStatus.OK)


@pytest.mark.parametrize(
    "moment", ["2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
@pytest.mark.parametrize(
    ("path", "more"),
    [("/v1/repositories/nas/sizes", ()), ("/v1/snapshots", ("a" * 64,))],
    ids=["sizes", "snapshots"],
)
async def test_cursor_with_a_moment_of_no_use_is_none_of_the_list(
    operator: httpx.AsyncClient, agent: FakeAgent, path: str, more: tuple[str, ...], moment: str
) -> None:
    cursor = encode_cursor(moment, *more, agent.host_id)

    answer = await operator.get(path, params={"cursor": cursor})

    assert "is not a cursor of this list" in errors_of(answer)["cursor"]


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "Factory", "right/UTC", "posix/UTC"])
async def test_zone_that_each_machine_reads_in_its_own_way_is_none(
    operator: httpx.AsyncClient, agent: FakeAgent, zone: str
) -> None:
    answer = await operator.post(
        "/v1/hosts/web1/schedules",
        json={"kind": "stats", "cron": "0 1 * * *", "repository": "nas", "timezone": zone},
    )

    assert "is not an IANA time zone" in errors_of(answer)["timezone"]


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("/v1/jobs?host=", "host", "must have a value; leave it out for none"),
        ("/v1/jobs?repository=", "repository", "must have a value"),
        ("/v1/snapshots?host=", "host", "must have a value"),
        ("/v1/schedules?host=", "host", "must have a value"),
        ("/v1/jobs?schedule=null", "schedule", "must have a value"),
        ("/v1/jobs?host=nope&host=web1", "host", "must be given once"),
        ("/v1/jobs?limit=1&limit=1000", "limit", "must be given once"),
        ("/v1/schedules/preview", "cron", "is required"),
    ],
)
async def test_filter_that_would_not_be_the_one_meant_is_refused(
    operator: httpx.AsyncClient, agent: FakeAgent, query: str, field: str, message: str
) -> None:
    assert message in errors_of(await operator.get(query))[field]


async def test_filter_may_be_given_more_than_once_where_that_means_or(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    found = (await operator.get("/v1/jobs?kind=backup&kind=prune&state=queued")).json()["items"]

    assert [job["id"] for job in found] == [str(job_id)]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (rb'{"name":"a\u0000"}', "", "contains the NUL character"),
        (rb'{"name":"\ud800","paths":["/a"]}', "name", "one half of a surrogate pair"),
        (rb'{"name":"a","paths":["/a","\udc00/"]}', "paths[1]", "one half of a surrogate pair"),
        (
            b'{"name":"a","paths":["/a"],"retention":{"keep_last":NaN}}',
            "retention.keep_last",
            "not NaN or Infinity",
        ),
        (b'{"name":null}', "name", "must be a string, not null"),
        (b'{"name":"a","paths":["/a"],"nice":1' + b"0" * 5000 + b"}", "nice", "too large a number"),
    ],
    ids=["NUL", "surrogate", "in a list", "NaN", "null", "long number"],
)
async def test_body_that_is_nearly_right_is_refused_by_the_field(
    operator: httpx.AsyncClient, body: bytes, field: str, message: str
) -> None:
    answer = await operator.post("/v1/sources", content=body)

    assert message in errors_of(answer)[field]
    assert (await operator.get("/v1/sources")).json()["items"] == []


async def test_escaped_backslash_before_u0000_is_no_nul(operator: httpx.AsyncClient) -> None:
    body = rb'{"name":"z","paths":["/data"],"excludes":["C:\\u0000x"]}'

    answer = await operator.post("/v1/sources", content=body)

    assert answer.status_code == 201, answer.text
    assert answer.json()["excludes"] == ["C:\\u0000x"]


async def test_body_that_is_not_utf8_is_told_so(operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/v1/sources", content=b'{"name":"\xe9"}')

    assert (answer.status_code, answer.json()["detail"]) == (400, "The body is not JSON in UTF-8")


@pytest.mark.parametrize(
    ("labels", "field"),
    [({"good": "x", "bad": "a\nb"}, "labels.bad"), ({"ok": "x", "a\nb": "x"}, r"labels.a\nb")],
    ids=["value", "key"],
)
async def test_label_that_is_refused_is_named(
    operator: httpx.AsyncClient, agent: FakeAgent, labels: dict[str, str], field: str
) -> None:
    answer = await operator.patch("/v1/hosts/web1", json={"labels": labels})

    assert "must be without control characters" in errors_of(answer)[field]


@pytest.mark.parametrize(
    ("kind", "message"),
    [(None, "kind: must be a string"), ("\n", "kind: '\\n' is not known here; it can be ")],
)
async def test_kind_of_a_job_is_refused_in_plain_words(
    operator: httpx.AsyncClient, agent: FakeAgent, kind: object, message: str
) -> None:
    answer = await operator.post(
        "/v1/jobs", json={"kind": kind, "host": "web1", "repository": "nas"}
    )

    assert answer.json()["detail"].startswith(message)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"labels":{"a":1} garbage', "labels[...]"),
        (b'{"labels":{"a":1},"x":"\xe9"}', "labels[...]"),
        (b'{"labels":{"a":1},"x":' + b"1" * 5000 + b"}", "labels[...]"),
        (b'{"labels":{"a":1},"x":' + b"[" * 100_000, "labels[...]"),
        (b'{"labels":{"good":"x","bad":1},"typo":1}', "labels.bad"),
        (rb'{"\ud800":{"x":NaN}}', ""),
        (b'{"labels":{"a":1},"labels":5}', "labels[...]"),
        (rb'{"labels":{"' + b"a" * 50_000 + rb'":NaN}}', "labels." + "a" * 200 + "…"),
    ],
    ids=["garbage", "utf8", "number", "depth", "typo", "key", "twice", "long-key"],
)
async def test_body_that_goes_on_badly_is_refused_all_the_same(
    operator: httpx.AsyncClient, agent: FakeAgent, body: bytes, field: str
) -> None:
    answer = await operator.patch("/v1/hosts/web1", content=body)

    assert field in errors_of(answer)


async def test_refusal_of_a_large_mapping_comes_at_once(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    labels: dict[str, object] = {f"label-{number}": "x" for number in range(20_000)}
    body = {"labels": labels | {"bad": 1}, "long": "x" * 1_000_000}

    async with asyncio.timeout(10):  # minutes, if each key were tried with all of the body
        answer = await operator.patch("/v1/hosts/web1", json=body)

    assert list(errors_of(answer)) == ["labels[...]"]


async def test_secret_that_was_written_into_a_key_is_not_said_again(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    environment = {"AWS_SECRET_ACCESS_KEY=hunter2": ""}

    answer = await operator.patch("/v1/repositories/nas", json={"environment": environment})

    assert "environment.AWS_SECRET_ACCESS_KEY" in errors_of(answer)
    assert "hunter2" not in answer.text


async def test_schedule_in_a_zone_of_its_machine_can_still_be_switched_off(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    await add_source(operator)
    schedule_id = (await add_schedule(operator))["id"]
    async with services.database.writing() as connection:
        await connection.execute(sa.update(schedules).values(timezone="localtime"))

    off = await operator.patch(f"/v1/schedules/{schedule_id}", json={"enabled": False})
    moved = await operator.patch(f"/v1/schedules/{schedule_id}", json={"timezone": "Factory"})

    assert (off.status_code, moved.status_code) == (200, 422), off.text


async def test_key_of_a_request_is_refused_in_plain_words(operator: httpx.AsyncClient) -> None:
    answer = await operator.post(
        "/v1/enrollment-tokens", json={}, headers={"Idempotency-Key": "a b"}
    )

    assert list(errors_of(answer).values()) == ["must be printable ASCII without spaces"]


async def test_long_name_is_not_said_again_whole(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    body = {"kind": "backup", "host": "a" * 1_900_000, "repository": "nas", "paths": ["/etc"]}

    answer = await operator.post("/v1/jobs", json=body)

    assert "host" in errors_of(answer)
    assert len(answer.content) < 2000


async def test_half_a_pair_in_one_envelope_costs_no_other_its_place(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)
    claim = f'{{"type":"command.ack","job_id":"{job_id}","is_accepted":true,"attempt":1}}'
    torn = rb'{"type":"no.such","text":"\\ud800 \ud83d\ude00 \ud83d"}'

    answer = await agent.client.post(
        "/v1/agent/envelopes", content=b'{"envelopes":[' + torn + b"," + claim.encode() + b"]}"
    )

    statuses = [receipt["status"] for receipt in answer.json()["receipts"]]
    assert statuses == ["rejected", "ok"]
