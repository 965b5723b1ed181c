"""Previews: exactly when something will fire, across changes of the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from litestar import Litestar

from backhaul.cron import build_hash_key, spread
from backhaul_api.services import Services
from tests.fakes.fleet import add_agent, add_repository, add_schedule, add_source
from tests.fakes.minute_walker import Wall, walk

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def _preview(operator: httpx.AsyncClient, cron: str, **query: Any) -> list[str]:
    answer = await operator.get("/v1/schedules/preview", params={"cron": cron, **query})
    assert answer.status_code == 200, answer.text
    assert answer.json()["cron"] == cron
    return [fire["at"] for fire in answer.json()["fires"]]


async def test_fixed_time_fires_once_in_the_night_that_has_it_twice(
    operator: httpx.AsyncClient,
) -> None:
    query = {"timezone": "Europe/London", "from": "2026-10-24T00:00:00+01:00", "count": 3}

    assert await _preview(operator, "30 1 * * *", **query) == [
        "2026-10-24T01:30:00+01:00",
        "2026-10-25T01:30:00+01:00",
        "2026-10-26T01:30:00+00:00",
    ]


async def test_fixed_time_fires_at_the_end_of_the_gap(operator: httpx.AsyncClient) -> None:
    query = {"timezone": "Europe/Berlin", "from": "2027-03-28T00:00:00+01:00", "count": 2}

    assert await _preview(operator, "30 2 * * *", **query) == [
        "2027-03-28T03:00:00+02:00",
        "2027-03-29T02:30:00+02:00",
    ]


async def test_starred_schedule_follows_elapsed_time(operator: httpx.AsyncClient) -> None:
    query = {"timezone": "Europe/London", "from": "2026-10-25T01:00:00+01:00", "count": 4}

    assert await _preview(operator, "*/30 1 * * *", **query) == [
        "2026-10-25T01:00:00+01:00",
        "2026-10-25T01:30:00+01:00",
        "2026-10-25T01:00:00+00:00",
        "2026-10-25T01:30:00+00:00",
    ]


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [
        ("30 1 * * *", "Europe/London"),
        ("15 */3 * * *", "Australia/Lord_Howe"),
        ("45 2,3 * * 0", "America/New_York"),
        ("0 0 */2 * *", "America/Havana"),
    ],
)
async def test_preview_agrees_with_a_walk_over_every_minute(
    operator: httpx.AsyncClient, cron: str, timezone: str
) -> None:
    zone = ZoneInfo(timezone)
    begin = datetime.fromisoformat("2026-10-01T00:00:00+00:00")
    expected = walk(cron, Wall.of(zone, begin, begin + timedelta(days=60)))

    got = await _preview(
        operator, cron, timezone=timezone, count=len(expected), **{"from": begin.isoformat()}
    )

    assert [datetime.fromisoformat(at) for at in got] == expected
    assert got == [at.astimezone(zone).isoformat() for at in expected]


async def test_slot_at_the_very_beginning_counts(operator: httpx.AsyncClient) -> None:
    at = "2026-11-24T01:30:00+00:00"
    later = "2026-11-24T01:30:00.000001+00:00"

    assert await _preview(operator, "30 1 * * *", count=1, **{"from": at}) == [at]
    assert await _preview(operator, "30 1 * * *", count=1, **{"from": later}) != [at]


async def test_preview_begins_now_in_utc_and_lists_ten(operator: httpx.AsyncClient) -> None:
    fires = await _preview(operator, "@daily")

    assert fires[0] == "2026-11-24T00:00:00+00:00"
    assert len(fires) == 10


async def test_plus_that_nobody_encoded_is_understood(operator: httpx.AsyncClient) -> None:
    answer = await operator.get(
        "/v1/schedules/preview?cron=@daily&from=2026-10-24T00:00:00+01:00&count=1"
    )

    assert answer.json()["fires"] == [{"at": "2026-10-24T00:00:00+00:00"}]


@pytest.mark.parametrize(
    ("query", "field", "remedy"),
    [
        ({"from": "2026-10-24T00:00:00"}, "from", "needs an offset"),
        ({"from": "2026-10-24"}, "from", "needs an offset"),
        ({"from": "tomorrow"}, "from", "write RFC 3339"),
        ({"from": "9999-12-31T00:00:00Z"}, "from", "must be in the years 1970 to 2199"),
        ({"cron": "0 2 30 2 *"}, "cron", "never fires"),
        ({"cron": "H 2 * * *"}, "cron", "H needs a host and a schedule"),
        ({"timezone": "Europe/Londn"}, "timezone", "write one like"),
        ({"count": 0}, "count", "at least 1"),
        ({"count": 1001}, "count", "at most 1000"),
        ({"count": "many"}, "count", "whole number"),
    ],
    ids=str,
)
async def test_refusal_names_the_field_and_the_remedy(
    operator: httpx.AsyncClient, query: dict[str, Any], field: str, remedy: str
) -> None:
    answer = await operator.get("/v1/schedules/preview", params={"cron": "@daily"} | query)

    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert remedy in error["message"]


async def test_expression_is_required(operator: httpx.AsyncClient) -> None:
    answer = await operator.get("/v1/schedules/preview")

    assert answer.status_code == 422
    assert "cron" in answer.text


async def test_rare_slots_are_listed_as_far_as_time_goes(operator: httpx.AsyncClient) -> None:
    fires = await _preview(operator, "0 0 29 2 */7", count=1000, **{"from": "2199-01-01T00:00:00Z"})

    assert datetime.fromisoformat(fires[0]).isoweekday() == 7
    assert fires[-1].startswith("99")
    assert 200 < len(fires) < 1000


async def test_schedule_is_previewed_with_its_own_hash(
    operator: httpx.AsyncClient, services: Services, app: Litestar
) -> None:
    agent = await add_agent(services, app)
    await add_repository(operator)
    await add_source(operator)
    created = await add_schedule(operator, cron="H 2 * * *", timezone="Europe/London")

    answer = await operator.get(
        f"/v1/schedules/{created['id']}/preview",
        params={"from": "2026-10-24T00:00:00+01:00", "count": 2},
    )

    key = build_hash_key(agent.host_id, created["id"])
    minute = spread(key, "cron minute", 60)
    assert answer.json() == {
        "cron": "H 2 * * *",
        "timezone": "Europe/London",
        "fires": [
            {"at": f"2026-10-24T02:{minute:02}:00+01:00"},
            {"at": f"2026-10-25T02:{minute:02}:00+00:00"},
        ],
    }
    assert created["next_fire_at"] == f"2026-11-24T02:{minute:02}:00Z"
