"""Operators who manage operators."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.conftest import ADA_PASSWORD

NEW = "a new password of hers"


async def _create(operator: httpx.AsyncClient, username: str = "bob") -> dict[str, Any]:
    answer = await operator.post("/v1/users", json={"username": username, "password": NEW})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _sign_in(api: httpx.AsyncClient, username: str, password: str) -> httpx.Response:
    return await api.post("/v1/login", json={"username": username, "password": password})


def _bearer(answer: httpx.Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer.json()['token']}"}


async def test_new_operator_can_sign_in(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    made = await _create(operator, "Bob")

    answer = await _sign_in(api, "bob", NEW)

    assert answer.status_code == 201
    assert made["username"] == "bob"
    assert NEW not in str(made)


async def test_operators_are_listed_page_by_page_and_found_by_name_or_id(
    operator: httpx.AsyncClient,
) -> None:
    bob = await _create(operator)

    first = (await operator.get("/v1/users", params={"limit": 1})).json()
    second = (await operator.get("/v1/users", params={"cursor": first["next_cursor"]})).json()

    names = [one["username"] for one in (*first["items"], *second["items"])]
    assert names == ["ada", "bob"]
    assert (await operator.get("/v1/users/BOB")).json() == bob
    assert (await operator.get(f"/v1/users/{bob['id']}")).json() == bob
    assert (await operator.get("/v1/users/nobody")).status_code == 404


async def test_username_is_taken_also_by_somebody_who_is_disabled(
    operator: httpx.AsyncClient,
) -> None:
    await _create(operator)
    await operator.patch("/v1/users/bob", json={"disabled": True})

    answer = await operator.post("/v1/users", json={"username": "BOB", "password": NEW})

    assert answer.status_code == 409
    assert "Choose another name" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"username": "bob", "password": "short"}, "password"),
        ({"username": "b b", "password": NEW}, "username"),
        ({"username": "01930000-0000-7000-8000-000000000001", "password": NEW}, "username"),
        ({"username": "bob"}, "password"),
    ],
)
async def test_operator_that_cannot_be_is_refused(
    operator: httpx.AsyncClient, body: dict[str, str], field: str
) -> None:
    answer = await operator.post("/v1/users", json=body)

    assert answer.status_code == 422
    assert field in str(answer.json()["errors"])
    assert len((await operator.get("/v1/users")).json()["items"]) == 1


async def test_new_password_ends_sessions_and_tokens(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    await _create(operator)
    session = _bearer(await _sign_in(api, "bob", NEW))
    token = _bearer(await api.post("/v1/api-tokens", json={"name": "ci"}, headers=session))

    answer = await operator.patch("/v1/users/bob", json={"password": ADA_PASSWORD})

    assert answer.status_code == 200
    assert (await api.get("/v1/me", headers=session)).status_code == 401
    assert (await api.get("/v1/me", headers=token)).status_code == 401
    assert (await _sign_in(api, "bob", NEW)).status_code == 401
    assert (await _sign_in(api, "bob", ADA_PASSWORD)).status_code == 201


async def test_own_new_password_keeps_the_session_that_asks_and_tokens_if_told(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    other = _bearer(await _sign_in(api, "ada", ADA_PASSWORD))
    token = _bearer(await operator.post("/v1/api-tokens", json={"name": "ci"}))

    await operator.patch("/v1/users/ada", json={"password": NEW, "keep_tokens": True})

    assert (await operator.get("/v1/me")).status_code == 200
    assert (await api.get("/v1/me", headers=other)).status_code == 401
    assert (await api.get("/v1/me", headers=token)).status_code == 200


async def test_disabled_operator_is_shut_out_until_enabled(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    await _create(operator)
    session = _bearer(await _sign_in(api, "bob", NEW))
    token = _bearer(await api.post("/v1/api-tokens", json={"name": "ci"}, headers=session))

    disabled = await operator.patch("/v1/users/bob", json={"disabled": True})

    assert disabled.json()["disabled_at"] is not None
    assert (await api.get("/v1/me", headers=session)).status_code == 401
    assert (await api.get("/v1/me", headers=token)).status_code == 401
    assert (await _sign_in(api, "bob", NEW)).status_code == 401
    enabled = await operator.patch("/v1/users/bob", json={"disabled": False})
    assert enabled.json()["disabled_at"] is None
    assert (await api.get("/v1/me", headers=session)).status_code == 401
    assert (await api.get("/v1/me", headers=token)).status_code == 200


async def test_removed_operator_is_gone_with_tokens(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    await _create(operator)
    session = _bearer(await _sign_in(api, "bob", NEW))
    await api.post("/v1/enrollment-tokens", json={}, headers=session)

    answer = await operator.delete("/v1/users/bob")

    assert answer.status_code == 204
    assert (await api.get("/v1/me", headers=session)).status_code == 401
    assert (await operator.get("/v1/users/bob")).status_code == 404
    assert (await operator.get("/v1/enrollment-tokens")).json()["items"] == []


async def test_last_operator_who_can_sign_in_stays(operator: httpx.AsyncClient) -> None:
    await _create(operator)
    await operator.patch("/v1/users/bob", json={"disabled": True})

    removed = await operator.delete("/v1/users/ada")
    disabled = await operator.patch("/v1/users/ada", json={"disabled": True})

    assert (removed.status_code, disabled.status_code) == (409, 409)
    assert "Create another one first" in removed.json()["detail"]
    assert (await operator.delete("/v1/users/bob")).status_code == 204


async def test_of_two_who_remove_each_other_one_stays(
    operator: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    await _create(operator)
    bob = _bearer(await _sign_in(api, "bob", NEW))

    answers = await asyncio.gather(
        operator.delete("/v1/users/bob"), api.delete("/v1/users/ada", headers=bob)
    )

    assert [answer.status_code for answer in answers].count(204) == 1


async def test_changes_of_operators_are_in_the_audit_log(operator: httpx.AsyncClient) -> None:
    await _create(operator)
    await operator.patch("/v1/users/bob", json={"disabled": True, "password": ADA_PASSWORD})
    await operator.patch("/v1/users/bob", json={"disabled": True})
    await operator.patch("/v1/users/bob", json={"disabled": False})
    await operator.delete("/v1/users/bob")

    entries = (await operator.get("/v1/audit")).json()["items"]

    assert [(one["action"], one["actor"], one["target"]) for one in reversed(entries)][1:] == [
        ("user.create", "ada", "bob"),
        ("user.reset_password", "ada", "bob"),
        ("user.disable", "ada", "bob"),
        ("user.enable", "ada", "bob"),
        ("user.delete", "ada", "bob"),
    ]
