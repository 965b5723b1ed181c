"""Whether an instance lives, and whether it should be sent requests."""

from __future__ import annotations

import httpx
import pytest
import sqlalchemy as sa

from backhaul_api.app import create_app
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import needed_revisions
from backhaul_api.services import Services
from tests.conftest import build_client


async def test_instance_over_an_upgraded_database_is_ready(api: httpx.AsyncClient) -> None:
    live, ready = await api.get("/health/live"), await api.get("/health/ready")

    assert (live.status_code, ready.status_code) == (200, 200)
    assert ready.json()["status"] == "ok"
    assert ready.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_head_answers_like_get(api: httpx.AsyncClient, services: Services, path: str) -> None:
    asked, looked = await api.get(path), await api.head(path)
    services.wakeups.drain()
    asked_later, looked_later = await api.get(path), await api.head(path)

    assert (looked.status_code, looked.content) == (asked.status_code, b"")
    assert looked.headers["Content-Length"] == asked.headers["Content-Length"]
    assert (looked_later.status_code, looked_later.content) == (asked_later.status_code, b"")


async def test_instance_that_drains_lives_but_is_not_ready(
    api: httpx.AsyncClient, services: Services
) -> None:
    services.wakeups.drain()

    ready = await api.get("/health/ready")

    assert ready.status_code == 503
    assert ready.json()["type"] == "urn:backhaul:problem:not-ready"
    assert (await api.get("/health/live")).status_code == 200


@pytest.mark.parametrize("revision", ["0001", "9999"])
async def test_database_at_a_revision_that_this_version_cannot_serve_is_not_ready(
    api: httpx.AsyncClient, services: Services, revision: str
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(sa.insert(needed_revisions).values(revision="9998"))
        await connection.execute(
            sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision}
        )

    ready = await api.get("/health/ready")

    assert ready.status_code == 503
    assert revision in ready.json()["detail"]


async def test_database_that_does_not_answer_is_not_ready(services: Services) -> None:
    nowhere = Database("postgresql+asyncpg://ada:hunter2@127.0.0.1:1/nothing")
    services = Services(
        settings=services.settings,
        clock=services.clock,
        database=nowhere,
        keys=services.keys,
        passwords=services.passwords,
        wakeups=services.wakeups,
    )
    async with build_client(create_app(services)) as api:
        ready = await api.get("/health/ready")

    assert ready.status_code == 503
    assert "hunter2" not in ready.text
    await nowhere.close()
