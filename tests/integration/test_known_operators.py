"""Tokens of operators that a process knows: no database is asked, and none serves too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul_api.auth import find_operator
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import api_tokens, sessions
from backhaul_api.errors import NotAuthenticatedError
from backhaul_api.polling.memory import OPERATOR_KEPT_FOR
from backhaul_api.services import Services
from backhaul_api.users import tokens
from tests.conftest import build_client
from tests.fakes.clock import FakeClock
from tests.fakes.statements import watch_statements

PASSWORD = "battery horse correct"
NEW_PASSWORD = "staple battery horse"

End = Callable[[httpx.AsyncClient, httpx.AsyncClient, str], Awaitable[httpx.Response]]
"""Has an operator, or bob himself, end what bob may do by the API token of this id."""

ENDS: dict[str, End] = {
    "revoked": lambda _, bob, token_id: bob.delete(f"/v1/api-tokens/{token_id}"),
    "disabled": lambda ada, *_: ada.patch("/v1/users/bob", json={"disabled": True}),
    "password": lambda ada, *_: ada.patch("/v1/users/bob", json={"password": NEW_PASSWORD}),
    "removed": lambda ada, *_: ada.delete("/v1/users/bob"),
    "signed out": lambda _, bob, __: bob.post("/v1/logout"),
}


@pytest.fixture
async def bob(services: Services, app: Litestar, operator: httpx.AsyncClient) -> httpx.AsyncClient:
    """Give a client in which a second operator has signed in, on a server that may remember."""
    body = {"username": "bob", "password": PASSWORD}
    await operator.post("/v1/users", json=body)
    client = build_client(app)
    session = (await client.post("/v1/login", json=body)).json()["token"]
    client.headers["Authorization"] = f"Bearer {session}"
    services.wakeups.memory.is_trusted = True
    return client


async def make_token(bob: httpx.AsyncClient, **fields: object) -> tuple[str, str]:
    made = (await bob.post("/v1/api-tokens", json={"name": "ci", **fields})).json()
    return f"Bearer {made['token']}", made["api_token"]["id"]


async def is_known(services: Services, header: str) -> bool:
    try:
        await find_operator(services, header)
    except NotAuthenticatedError:
        return False
    return True


async def test_token_that_is_known_is_not_looked_up(
    services: Services, bob: httpx.AsyncClient
) -> None:
    api_token, _ = await make_token(bob)
    headers = [api_token, bob.headers["Authorization"]]

    first = [await find_operator(services, header) for header in headers]
    with watch_statements(services.database) as asked:
        again = [await find_operator(services, header) for header in headers]

    assert asked == []
    assert [actor.name for actor in again] == ["bob", "bob"]
    assert [actor.token_id for actor in again] == [actor.token_id for actor in first]


@pytest.mark.parametrize("end", ENDS)
async def test_token_that_is_known_is_refused_as_soon_as_it_has_ended(
    services: Services, operator: httpx.AsyncClient, bob: httpx.AsyncClient, end: str
) -> None:
    api_token, token_id = await make_token(bob)
    session = bob.headers["Authorization"]
    ended = {"revoked": [api_token], "signed out": [session]}.get(end, [api_token, session])
    for header in (api_token, session):
        assert await is_known(services, header)

    answer = await ENDS[end](operator, bob, token_id)

    assert answer.is_success, answer.text
    for header in (api_token, session):
        assert await is_known(services, header) is (header not in ended)


async def test_token_that_is_known_serves_no_longer_than_it_lasts(
    services: Services, bob: httpx.AsyncClient, clock: FakeClock
) -> None:
    api_token, _ = await make_token(bob, expires_in=60)

    clock.advance(59.5)
    before = await is_known(services, api_token)
    clock.advance(0.5)
    after = await is_known(services, api_token)

    assert (before, after) == (True, False)


async def test_token_that_is_revoked_while_it_is_looked_up_is_not_remembered(
    services: Services, bob: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_token, token_id = await make_token(bob)
    find = tokens.find

    async def find_slowly(*arguments: Any, **options: Any) -> Any:
        found = await find(*arguments, **options)
        monkeypatch.undo()
        await bob.delete(f"/v1/api-tokens/{token_id}")
        return found

    monkeypatch.setattr(tokens, "find", find_slowly)
    during = await is_known(services, api_token)

    assert during
    assert not await is_known(services, api_token)


@pytest.mark.parametrize("table", [sessions, api_tokens], ids=["session", "token"])
async def test_what_was_ended_by_hand_serves_no_longer_than_a_moment(
    services: Services, bob: httpx.AsyncClient, clock: FakeClock, table: sa.Table
) -> None:
    api_token, _ = await make_token(bob)
    header = api_token if table is api_tokens else bob.headers["Authorization"]
    assert await is_known(services, header)
    other = Database(services.database.url.render_as_string(hide_password=False))
    async with other.writing() as connection:
        await connection.execute(sa.delete(table))
    await other.close()

    clock.advance(OPERATOR_KEPT_FOR.total_seconds())

    assert not await is_known(services, header)


async def test_token_of_an_operator_is_none_of_an_agent(
    services: Services, bob: httpx.AsyncClient
) -> None:
    assert await is_known(services, bob.headers["Authorization"])

    answer = await bob.post("/v1/agent/envelopes", headers={"Backhaul-Protocol": "1"}, json={})

    assert answer.status_code == 401
