"""Operators: the first one, signing in, sessions and API tokens."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import argon2
import httpx
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.app import create_app
from backhaul_api.db.tables import api_tokens, sessions, users
from backhaul_api.passwords import MAX_WAITING, PasswordHasher
from backhaul_api.services import Services
from backhaul_api.users import store
from backhaul_api.users.failed_logins import MAX_PER_WINDOW
from tests.conftest import ADA_PASSWORD, FAST_ARGON2, build_client
from tests.fakes.clock import FakeClock

ADA = {"username": "ada", "password": ADA_PASSWORD}


async def _offer_setup_token(services: Services) -> str:
    token = build_token(TokenKind.SETUP)
    now = services.clock.now()
    async with services.database.writing() as connection:
        await store.insert_setup_token(
            connection, hash_token(token), now=now, expires_at=now + timedelta(hours=24)
        )
    return token


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def _sign_in(api: httpx.AsyncClient) -> str:
    answer = await api.post("/v1/login", json=ADA)
    assert answer.status_code == 201, answer.text
    token = answer.json()["token"]
    assert isinstance(token, str)
    return token


async def test_setup_token_makes_the_first_operator_and_signs_in(
    api: httpx.AsyncClient, services: Services
) -> None:
    token = await _offer_setup_token(services)

    answer = await api.post(
        "/v1/bootstrap", json={"setup_token": token, "username": "Ada", "password": ADA_PASSWORD}
    )

    assert answer.status_code == 201
    assert answer.json()["user"]["username"] == "ada"
    me = await api.get("/v1/me", headers=_bearer(answer.json()["token"]))
    assert me.json()["authenticated_by"] == "session"


async def test_setup_token_used_by_five_at_once_makes_one_operator(
    api: httpx.AsyncClient, services: Services
) -> None:
    token = await _offer_setup_token(services)

    answers = await asyncio.gather(
        *(
            api.post(
                "/v1/bootstrap",
                json={"setup_token": token, "username": f"ada{n}", "password": ADA_PASSWORD},
            )
            for n in range(5)
        )
    )

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


async def test_setup_tokens_of_three_instances_make_one_operator(
    api: httpx.AsyncClient, services: Services
) -> None:
    tokens = [await _offer_setup_token(services) for _ in range(3)]

    answers = await asyncio.gather(
        *(
            api.post(
                "/v1/bootstrap",
                json={"setup_token": token, "username": f"ada{n}", "password": ADA_PASSWORD},
            )
            for n, token in enumerate(tokens)
        )
    )

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]


async def test_setup_token_of_an_instance_serves_though_another_one_has_started_since(
    api: httpx.AsyncClient, services: Services
) -> None:
    earlier, _ = [await _offer_setup_token(services) for _ in range(2)]

    answer = await api.post("/v1/bootstrap", json={"setup_token": earlier, **ADA})

    assert answer.status_code == 201


async def test_bootstrap_is_refused_once_there_is_an_operator(
    operator: httpx.AsyncClient, services: Services
) -> None:
    token = await _offer_setup_token(services)
    body = {"setup_token": token, **ADA}

    answers = [
        await operator.post("/v1/bootstrap", json={**body, **changes})
        for changes in ({"username": "eve"}, {"password": "not her password"})
    ]

    assert [answer.status_code for answer in answers] == [409, 409]


async def test_bootstrap_whose_answer_got_lost_signs_in_when_it_is_sent_again(
    api: httpx.AsyncClient, services: Services
) -> None:
    body = {"setup_token": await _offer_setup_token(services), **ADA}
    lost = await api.post("/v1/bootstrap", json=body)

    again = await api.post("/v1/bootstrap", json=body)
    other_token = await api.post("/v1/bootstrap", json=body | {"setup_token": "bhu_x"})

    assert (lost.status_code, again.status_code, other_token.status_code) == (201, 201, 409)
    assert again.json()["user"]["id"] == lost.json()["user"]["id"]
    for answer in (lost, again):
        headers = _bearer(answer.json()["token"])
        assert (await api.get("/v1/me", headers=headers)).status_code == 200


async def test_wrong_or_expired_setup_token_is_refused(
    api: httpx.AsyncClient, services: Services, clock: FakeClock
) -> None:
    token = await _offer_setup_token(services)
    wrong = await api.post("/v1/bootstrap", json={"setup_token": "bhu_x", **ADA})
    clock.advance(hours=24)
    expired = await api.post("/v1/bootstrap", json={"setup_token": token, **ADA})

    assert (wrong.status_code, expired.status_code) == (401, 401)
    assert "backhaul serve" in expired.json()["detail"]


async def test_login_accepts_the_username_in_any_case(
    operator: httpx.AsyncClient, api: httpx.AsyncClient, clock: FakeClock
) -> None:
    clock.advance(60)

    answer = await api.post("/v1/login", json=ADA | {"username": "ADA"})

    assert answer.status_code == 201
    me = await api.get("/v1/me", headers=_bearer(answer.json()["token"]))
    assert me.json()["user"]["last_login_at"] == "2026-11-23T12:01:00Z"


async def test_unknown_user_and_wrong_password_are_told_apart_by_nothing(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    wrong = (await api.post("/v1/login", json=ADA | {"password": "wrong"})).json()
    unknown = (await api.post("/v1/login", json=ADA | {"username": "eve"})).json()

    assert wrong["status"] == 401
    assert wrong | {"instance": ""} == unknown | {"instance": ""}


async def test_flood_of_logins_is_told_to_come_back_later(
    operator: httpx.AsyncClient,
    api: httpx.AsyncClient,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services.passwords, "_waiting", MAX_WAITING)

    answer = await api.post("/v1/login", json=ADA)

    assert answer.status_code == 429
    assert answer.json()["type"] == "urn:backhaul:problem:rate-limited"
    assert int(answer.headers["Retry-After"]) > 0


async def _list_failed_logins(operator: httpx.AsyncClient) -> list[dict[str, Any]]:
    entries = (await operator.get("/v1/audit", params={"limit": 1000})).json()["items"]
    return [entry for entry in entries if entry["action"] == "account.login_failed"]


async def test_failed_login_is_in_the_audit_log_with_the_name_that_was_tried(
    operator: httpx.AsyncClient, api: httpx.AsyncClient, clock: FakeClock
) -> None:
    long = "eve" * 1000
    for username in ("Ada", "ada", long, "ada"):
        await api.post("/v1/login", json={"username": username, "password": "wrong"})
    clock.advance(60)
    await api.post("/v1/login", json=ADA | {"password": "wrong"})
    await _sign_in(api)

    newest, middle, oldest = await _list_failed_logins(operator)

    assert (newest["target"], newest["actor"]) == ("ada", "system")
    assert middle["target"] == f"{long[:63]}…"
    assert oldest["target"] == "ada"
    assert "wrong" not in str((newest, middle, oldest))


async def test_flood_of_failed_logins_does_not_flood_the_audit_log(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    for number in range(MAX_PER_WINDOW + 5):
        await api.post("/v1/login", json={"username": f"eve{number}", "password": "wrong"})

    assert len(await _list_failed_logins(operator)) == MAX_PER_WINDOW


async def test_login_of_an_unknown_user_checks_a_real_hash(
    operator: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    check = PasswordHasher._verify

    def count(self: PasswordHasher, password_hash: str, password: str) -> bool:
        checked.append(password_hash)
        return check(self, password_hash, password)

    monkeypatch.setattr(PasswordHasher, "_verify", count)
    await operator.post("/v1/login", json=ADA | {"username": "eve"})

    assert [argon2.extract_parameters(text) for text in checked] == [FAST_ARGON2]


async def test_login_renews_a_hash_that_was_made_with_other_parameters(
    operator: httpx.AsyncClient, services: Services
) -> None:
    other = PasswordHasher(argon2.Parameters(argon2.Type.ID, 19, 16, 32, 2, 16, 1))
    old = await other.hash(ADA_PASSWORD)
    async with services.database.writing() as connection:
        await connection.execute(sa.update(users).values(password_hash=old))

    await _sign_in(operator)

    async with services.database.reading() as connection:
        new = await connection.scalar(sa.select(users.c.password_hash))
    assert new != old
    assert not services.passwords.needs_rehash(str(new))
    await _sign_in(operator)


async def test_logout_ends_the_session(operator: httpx.AsyncClient) -> None:
    assert (await operator.post("/v1/logout")).status_code == 204
    assert (await operator.get("/v1/me")).status_code == 401


async def test_session_ends_after_its_lifetime_and_is_removed_at_the_next_login(
    operator: httpx.AsyncClient, services: Services, clock: FakeClock
) -> None:
    clock.advance(services.settings.session_lifetime)
    assert (await operator.get("/v1/me")).status_code == 401

    await _sign_in(operator)

    async with services.database.reading() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(sessions)) == 1


async def test_api_token_serves_until_it_is_revoked(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    made = (await operator.post("/v1/api-tokens", json={"name": "nightly"})).json()
    headers = _bearer(made["token"])

    me = (await api.get("/v1/me", headers=headers)).json()
    revoked = await operator.delete(f"/v1/api-tokens/{made['api_token']['id']}")

    assert (me["authenticated_by"], me["expires_at"]) == ("api_token", None)
    assert revoked.status_code == 204
    assert (await api.get("/v1/me", headers=headers)).status_code == 401


async def test_api_token_ends_when_it_expires(
    operator: httpx.AsyncClient, api: httpx.AsyncClient, clock: FakeClock
) -> None:
    made = await operator.post("/v1/api-tokens", json={"name": "short", "expires_in": 60})
    headers = _bearer(made.json()["token"])

    before = await api.get("/v1/me", headers=headers)
    clock.advance(60)
    after = await api.get("/v1/me", headers=headers)

    assert (before.status_code, after.status_code) == (200, 401)


async def test_use_of_an_api_token_is_noted_at_most_once_a_minute(
    operator: httpx.AsyncClient, api: httpx.AsyncClient, services: Services, clock: FakeClock
) -> None:
    headers = _bearer((await operator.post("/v1/api-tokens", json={"name": "n"})).json()["token"])
    noted: list[Any] = []
    for seconds in (0, 59, 1):
        clock.advance(seconds)
        await api.get("/v1/me", headers=headers)
        async with services.database.reading() as connection:
            noted.append(await connection.scalar(sa.select(api_tokens.c.last_used_at)))

    assert noted[0] == noted[1]
    assert noted[2] - noted[0] == timedelta(minutes=1)


async def test_api_token_with_a_taken_name_is_refused(operator: httpx.AsyncClient) -> None:
    await operator.post("/v1/api-tokens", json={"name": "nightly"})

    answer = await operator.post("/v1/api-tokens", json={"name": "nightly"})

    assert answer.status_code == 409


async def test_list_of_api_tokens_is_paged_and_shows_no_secret(
    operator: httpx.AsyncClient,
) -> None:
    secrets = [
        (await operator.post("/v1/api-tokens", json={"name": f"t{n}"})).json()["token"]
        for n in range(3)
    ]

    first = await operator.get("/v1/api-tokens", params={"limit": 2})
    rest = await operator.get("/v1/api-tokens", params={"cursor": first.json()["next_cursor"]})

    names = [item["name"] for page in (first, rest) for item in page.json()["items"]]
    assert names == ["t0", "t1", "t2"]
    assert rest.json()["next_cursor"] is None
    assert not any(secret in first.text + rest.text for secret in secrets)


async def test_revoking_an_unknown_api_token_is_not_found(operator: httpx.AsyncClient) -> None:
    answer = await operator.delete("/v1/api-tokens/01932f5e-7c00-7000-8000-000000000001")

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "This needs a token"),
        ("Basic YWRhOng=", "This needs a token"),
        ("Bearer", "This needs a token"),
        ("Bearer bhs_short", "checksum"),
        (f"Bearer {build_token(TokenKind.AGENT)}", "bha_"),
        (f"Bearer {build_token(TokenKind.SESSION)}", "not known"),
        (f"Bearer {build_token(TokenKind.API)}", "not known"),
    ],
    ids=["none", "basic", "empty", "cut", "agent", "unknown-session", "unknown-api"],
)
async def test_token_that_does_not_serve_is_refused_with_the_reason(
    api: httpx.AsyncClient, header: str | None, reason: str
) -> None:
    answer = await api.get("/v1/me", headers={} if header is None else {"Authorization": header})

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert reason in answer.json()["detail"]


async def test_tokens_and_passwords_are_stored_as_hashes_only(
    operator: httpx.AsyncClient, services: Services
) -> None:
    token = (await operator.post("/v1/api-tokens", json={"name": "n"})).json()["token"]
    session = operator.headers["Authorization"].removeprefix("Bearer ")

    async with services.database.reading() as connection:
        rows = [
            str(row)
            for table in (users, sessions, api_tokens)
            for row in (await connection.execute(sa.select(table))).all()
        ]

    stored = "\n".join(rows)
    assert not any(secret in stored for secret in (token, session, ADA_PASSWORD))


async def test_two_instances_share_sessions(
    operator: httpx.AsyncClient, services: Services, app: Litestar
) -> None:
    async with build_client(create_app(services)) as other:
        other.headers["Authorization"] = operator.headers["Authorization"]

        assert (await other.get("/v1/me")).status_code == 200
