"""Sources."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

ETC = {"name": "etc", "paths": ["/etc"]}


async def _create(operator: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await operator.post("/v1/sources", json=ETC | changes)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def test_source_is_found_by_name_and_by_id(operator: httpx.AsyncClient) -> None:
    created = await _create(operator, retention={"keep_daily": 7})

    assert (await operator.get("/v1/sources/etc")).json() == created
    assert (await operator.get(f"/v1/sources/{created['id']}")).json() == created
    assert created["retention"] == {"keep_daily": 7}


async def test_update_changes_what_it_names_and_can_clear(operator: httpx.AsyncClient) -> None:
    created = await _create(operator, retention={"keep_daily": 7}, excludes=["*.tmp"])

    changed = await operator.patch("/v1/sources/etc", json={"name": "config", "retention": None})

    assert changed.json() == created | {"name": "config", "retention": None}


OPTIONS = {
    "exclude_files": ["/etc/not-these"],
    "exclude_caches": True,
    "exclude_larger_than": "2G",
    "limit_upload": 2048,
    "limit_download": 4096,
    "compression": "max",
    "nice": 19,
    "ionice": "idle",
}


async def test_source_says_how_it_is_backed_up(operator: httpx.AsyncClient) -> None:
    created = await _create(operator, **OPTIONS)
    answer = await operator.patch("/v1/sources/etc", json={"nice": None, "limit_upload": 100})

    assert {name: created[name] for name in OPTIONS} == OPTIONS
    assert answer.json() == (
        created | {"nice": None, "limit_upload": 100, "updated_at": answer.json()["updated_at"]}
    )
    assert (await operator.get("/v1/sources/etc")).json() == answer.json()


async def test_source_is_either_paths_or_a_dump(operator: httpx.AsyncClient) -> None:
    await _create(operator)

    refused = [
        await operator.post("/v1/sources", json={"name": "none"}),
        await operator.post("/v1/sources", json={"name": "both", "paths": ["/a"], "dump": "db"}),
        await operator.post("/v1/sources", json={"name": "db", "dump": "db", "excludes": ["*"]}),
        await operator.patch("/v1/sources/etc", json={"dump": "db"}),
        await operator.patch("/v1/sources/etc", json={"paths": []}),
    ]
    changed = await operator.patch("/v1/sources/etc", json={"dump": "db", "paths": []})

    assert [answer.status_code for answer in refused] == [422] * 5
    fields = [answer.json()["errors"][0]["field"] for answer in refused]
    assert fields == ["paths", "paths", "excludes", "paths", "paths"]
    assert (changed.json()["dump"], changed.json()["paths"]) == ("db", [])


async def test_deleted_source_is_gone(operator: httpx.AsyncClient) -> None:
    await _create(operator)

    assert (await operator.delete("/v1/sources/etc")).status_code == 204
    assert (await operator.get("/v1/sources/etc")).status_code == 404
    assert (await operator.delete("/v1/sources/etc")).status_code == 404


async def test_taken_name_is_refused(operator: httpx.AsyncClient) -> None:
    await _create(operator)
    await _create(operator, name="home")

    created = await operator.post("/v1/sources", json=ETC)
    renamed = await operator.patch("/v1/sources/home", json={"name": "etc"})

    assert (created.status_code, renamed.status_code) == (409, 409)


async def test_one_of_five_at_once_gets_the_name(operator: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(operator.post("/v1/sources", json=ETC) for _ in range(5)))

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


@pytest.mark.parametrize(
    ("paths", "field"),
    [(["/etc", "/var/../etc"], "paths[1]"), (["/etc/"], "paths[0]"), (["etc"], "paths[0]")],
)
async def test_path_that_is_not_plain_is_refused(
    operator: httpx.AsyncClient, paths: list[str], field: str
) -> None:
    answer = await operator.post("/v1/sources", json=ETC | {"paths": paths})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_sources_are_listed_by_name_in_pages(operator: httpx.AsyncClient) -> None:
    for name in ("c", "a", "b"):
        await _create(operator, name=name)

    first = (await operator.get("/v1/sources", params={"limit": 2})).json()
    rest = (await operator.get("/v1/sources", params={"cursor": first["next_cursor"]})).json()

    assert [item["name"] for page in (first, rest) for item in page["items"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None
