"""No secret survives redaction."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backhaul.wire.tokens import TokenKind, build_token
from backhaul_agent.redact import Redactor, build_redactor
from tests.unit.agent.hosts import build_credentials

secrets = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=4, max_size=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(secret=secrets, before=texts, after=texts)
def test_secret_never_survives(secret: str, before: str, after: str) -> None:
    redacted = Redactor([secret]).redact(f"{before}{secret}{after}{secret}")

    assert secret not in redacted


@given(first=secrets, second=secrets, text=texts)
def test_overlapping_secrets_never_survive(first: str, second: str, text: str) -> None:
    redacted = Redactor([first, second]).redact(f"{first}{second}{text}{second}{first}")

    assert first not in redacted
    assert second not in redacted


@given(secret=secrets)
def test_encoded_secret_never_survives(secret: str) -> None:
    encoded = [quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]]

    redacted = Redactor([secret]).redact(" ".join(encoded))

    assert all(form not in redacted for form in encoded)


def test_everything_that_a_command_carries_is_masked() -> None:
    credentials = build_credentials(
        location="rest:https://web:url%2Fpass@backup.example.com/",
        environment={"AWS_SECRET_ACCESS_KEY": "key-of-aws", "GOOGLE_KEY": "line one\nline two!\n"},
    )
    redactor = build_redactor(credentials)

    text = redactor.redact(
        "correct-horse url%2Fpass url/pass key-of-aws | line one | line two! | backup.example.com"
    )

    assert text == "*** *** *** *** | *** | *** | backup.example.com"


@pytest.mark.parametrize(
    "location",
    [
        "rest:http://web:pa/ssw0rd@backup.example.com:8000/",
        "rest:http://web:pa#ssw0rd@backup.example.com/",
        "rest:http://web:pa?ssw0rd@backup.example.com/",
        "rest:http://web:p%ssw0rd@backup.example.com/",
        "rest:http://web:p@ssw0rd@backup.example.com/",
        "rest:http://web@example.com:pa/ssw0rd@backup.example.com/",
        "sftp:web:pa/ssw0rd@backup.example.com:/srv",
        "rest:web:pa/ssw0rd@backup.example.com/",
        "s3:web:pa/ssw0rd@backup.example.com/bucket",
        "https://web:pa/ssw0rd@backup.example.com/",
    ],
)
def test_password_that_nobody_escaped_never_survives(location: str) -> None:
    redactor = build_redactor(build_credentials(location=location))
    begin, at, _ = location.rpartition("@")
    url = location.partition(":")[2]

    assert "ssw0rd" not in redactor.redact(f"parsing {location} failed")
    assert "ssw0rd" not in redactor.redact(f'parse "{url}": invalid port ":pa" after host')
    assert "ssw0rd" not in redactor.redact(f"dial tcp: lookup {begin.rpartition('/')[2]}{at}: no")


@pytest.mark.parametrize("location", ["/srv/restic", "s3:https://h:9000/b", "sftp:u@h:/srv/x@y"])
def test_location_without_a_password_is_shown(location: str) -> None:
    text = f"unable to open {location}/config"

    assert build_redactor(build_credentials(location=location)).redact(text) == text


def test_secret_as_go_writes_it_into_json_is_masked() -> None:
    redactor = build_redactor(build_credentials(password='a&b<c>"d'))

    assert redactor.redact(r'{"message":"pw a\u0026b\u003cc\u003e\"d"}') == '{"message":"pw ***"}'


def test_password_in_an_unknown_url_is_masked() -> None:
    text = Redactor().redact("Head http://web:secret@127.0.0.1/config: dial tcp")

    assert text == "Head http://web:***@127.0.0.1/config: dial tcp"


def test_tokens_are_masked() -> None:
    token = build_token(TokenKind.AGENT)

    assert token not in Redactor().redact(f"token {token}")


def test_a_short_secret_does_not_blot_out_numbers() -> None:
    assert Redactor(["1"]).redact("1 of 10 files, 1") == "*** of 10 files, ***"
