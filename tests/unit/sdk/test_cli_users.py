"""`backhaul users`: what is sent, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import respx

from backhaul.wire.accounts import User
from backhaul.wire.problems import ProblemType
from tests.unit.sdk.builders import NOW, URL, USER_ID, page, refuse, reply
from tests.unit.sdk.command_line import Cli, assert_one_line

BOB = User(id=USER_ID, username="bob", created_at=NOW)
SHUT_OUT = User(id=USER_ID, username="bob", created_at=NOW, disabled_at=NOW)
PASSWORD = "correct horse battery"


@pytest.fixture
def server() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=URL) as router:
        yield router


def test_list_tells_who_is_shut_out(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/users").mock(return_value=page(BOB, SHUT_OUT))

    result = cli("users", "list")

    states = [line.split()[1] for line in result.stdout.splitlines()]
    assert states == ["STATE", "enabled", "disabled"]
    assert "never" in result.stdout


def test_password_of_a_new_operator_comes_from_standard_input(
    cli: Cli, server: respx.MockRouter
) -> None:
    route = server.post("/v1/users").mock(return_value=reply(BOB, 201))

    result = cli("users", "create", "bob", input=f"{PASSWORD}\n")

    assert json.loads(route.calls[0].request.content) == {"username": "bob", "password": PASSWORD}
    assert f"backhaul login --url {URL}" in result.stdout
    assert PASSWORD not in result.output


def test_new_password_comes_from_a_file(cli: Cli, server: respx.MockRouter, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    route = server.patch("/v1/users/bob").mock(return_value=reply(BOB))

    file = str(tmp_path / "password")
    result = cli("users", "password", "bob", "--password-file", file, "--keep-tokens", "--json")

    sent = json.loads(route.calls[0].request.content)
    assert sent == {"password": PASSWORD, "keep_tokens": True}
    assert json.loads(result.stdout)["username"] == "bob"


@pytest.mark.parametrize(("verb", "disabled"), [("disable", True), ("enable", False)])
def test_operator_is_shut_out_and_let_in(
    cli: Cli, server: respx.MockRouter, verb: str, disabled: bool
) -> None:
    route = server.patch("/v1/users/bob").mock(return_value=reply(SHUT_OUT))

    assert cli("users", verb, "bob", "-q").stdout == "bob\n"
    assert json.loads(route.calls[0].request.content)["disabled"] is disabled


def test_removal_wants_to_be_sure(cli: Cli, server: respx.MockRouter) -> None:
    line = assert_one_line(cli("users", "remove", "bob"), exit_code=2)

    assert "--yes" in line
    assert not server.calls


def test_last_operator_stays(cli: Cli, server: respx.MockRouter) -> None:
    refused = refuse(409, ProblemType.CONFLICT, detail="'ada' is the last operator.")
    server.delete("/v1/users/ada").mock(return_value=refused)

    line = assert_one_line(cli("users", "remove", "ada", "--yes"), exit_code=1)

    assert "last operator" in line


def test_show_has_the_id(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/users/bob").mock(return_value=reply(SHUT_OUT))

    result = cli("users", "show", "bob")

    assert str(USER_ID) in result.stdout
    assert "disabled" in result.stdout
