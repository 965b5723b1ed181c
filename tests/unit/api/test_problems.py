"""How bodies are refused: the field that is wrong, and what would be accepted."""

from __future__ import annotations

import logging
import sys
from io import StringIO
from typing import Any

import msgspec
import pytest
from litestar.exceptions import HTTPException

from backhaul.wire.accounts import BootstrapRequest, CreateApiToken, CreateEnrollmentToken
from backhaul.wire.agents import Batch, EnrollRequest
from backhaul.wire.fleet import AdoptRepository, CreateRepository, CreateSource, UpdateSource
from backhaul.wire.kinds import JobRequest
from backhaul.wire.schedules import CreateSchedule
from backhaul.wire.tokens import TokenKind, build_token
from backhaul_api.bodies import decode_body
from backhaul_api.errors import InvalidError
from backhaul_api.logs import JsonFormatter, PlainFormatter, facts
from backhaul_api.names import check_name, make_acceptable

SOURCE = {"name": "etc", "paths": ["/etc"]}
BACKUP = {"kind": "backup", "host": "web-1", "repository": "nas"}
SCHEDULE = {"kind": "prune", "cron": "@daily", "timezone": "UTC", "repository": "nas"}
REPOSITORY = {"name": "nas", "location": "/srv/restic", "password": "hunter2"}


@pytest.mark.parametrize(
    ("type_", "body", "field", "message"),
    [
        (CreateSource, {}, "name", "is required"),
        (CreateSource, [], "", "must be an object, not a list"),
        (CreateSource, SOURCE | {"zap": 1}, "zap", "is not a field of this"),
        (CreateSource, SOURCE | {"name": 5}, "name", "must be a string, not a whole number"),
        (CreateSource, SOURCE | {"name": "a b"}, "name", "must be letters, digits, dots"),
        (CreateSource, SOURCE | {"name": "etc\n"}, "name", "must be letters, digits, dots"),
        (CreateSource, SOURCE | {"name": "a" * 64}, "name", "must have at most 63 characters"),
        (CreateSource, SOURCE | {"paths": ["/a"] * 1001}, "paths", "must have at most 1000 items"),
        (CreateSource, SOURCE | {"limit_upload": 0}, "limit_upload", "must be at least 1"),
        (CreateSource, SOURCE | {"nice": 20}, "nice", "must be at most 19"),
        (
            CreateSource,
            SOURCE | {"paths": ["/etc", "home"]},
            "paths[1]",
            "must be an absolute path, like /etc",
        ),
        (
            CreateSource,
            SOURCE | {"retention": {"keep_last": 0}},
            "retention.keep_last",
            "must be at least 1",
        ),
        (
            CreateSource,
            SOURCE | {"retention": {"keep": 1}},
            "retention.keep",
            "is not a field of this",
        ),
        (
            CreateSource,
            SOURCE | {"one_file_system": "yes"},
            "one_file_system",
            "must be true or false, not a string",
        ),
        (CreateEnrollmentToken, {"uses": 0}, "uses", "must be at least 1"),
        (CreateEnrollmentToken, {"expires_in": 0.5}, "expires_in", "must be at least 1"),
        (CreateApiToken, {"name": "ci", "expires_in": 0.5}, "expires_in", "must be at least 1"),
        (CreateEnrollmentToken, {"labels": {"": "x"}}, "labels", "a key must have at least 1"),
        (CreateEnrollmentToken, {"labels": {"a": "\x00"}}, "", "NUL"),
        (
            CreateEnrollmentToken,
            {"labels": {"a\x1b[2J": "b"}},
            r"labels.a\x1b[2J",
            "a key must be without control characters",
        ),
        (
            CreateEnrollmentToken,
            {"labels": {"a": "b\n"}},
            "labels.a",
            "must be without control characters",
        ),
        (
            CreateEnrollmentToken,
            {"labels": {f"key{n}": "" for n in range(65)}},
            "labels",
            "must have at most 64 items",
        ),
        (
            CreateSource,
            SOURCE | {"retention": {"keep_last": 10_001}},
            "retention.keep_last",
            "must be at most 10000",
        ),
        (
            UpdateSource,
            {"retention": {"keep_within": "a week"}},
            "retention.keep_within",
            "must be a duration like 7d or 1y5m",
        ),
        (
            BootstrapRequest,
            {"setup_token": "", "username": "ada", "password": "short"},
            "password",
            "must have at least 12 characters",
        ),
        (CreateRepository, REPOSITORY | {"password": "a\nb"}, "password", "must be one line"),
        (CreateRepository, REPOSITORY | {"password": "a\n"}, "password", "must be one line"),
        (
            CreateRepository,
            REPOSITORY | {"environment": {"1": "x"}},
            "environment.1",
            "a key must be the name of an environment variable",
        ),
        (JobRequest, {"host": "a"}, "kind", "is required"),
        (JobRequest, {"kind": "zap"}, "kind", "it can be init, backup, snapshots, restore"),
        (JobRequest, {"kind": "backup", "host": "a"}, "repository", "is required"),
        (JobRequest, BACKUP | {"ionice": "rt"}, "ionice", "it can be best-effort, idle"),
        (JobRequest, BACKUP | {"exclude_larger_than": "2X"}, "exclude_larger_than", "like 500M"),
        (JobRequest, BACKUP | {"kind": "diff", "snapshot": "latest"}, "snapshot", "8 hex digits"),
        (CreateSource, SOURCE | {"compression": "x"}, "compression", "it can be auto, max, off"),
        (CreateSchedule, SCHEDULE | {"kind": "zap"}, "kind", "it can be backup, forget, prune"),
        (CreateSchedule, SCHEDULE | {"options": {"kind": "zap"}}, "options.kind", "it can be c"),
        (AdoptRepository, {"snapshots": ["0a1b2c3d"]}, "snapshots[0]", "64 hex digits"),
        (Batch, {"envelopes": 1}, "envelopes", "must be a list, not a whole number"),
    ],
)
def test_wrong_body_is_refused_by_field(type_: Any, body: Any, field: str, message: str) -> None:
    with pytest.raises(InvalidError) as refused:
        decode_body(msgspec.json.encode(body), type_)
    (error,) = refused.value.errors
    assert error.field == field
    assert message in error.message


@pytest.mark.parametrize(
    "body", [b"{", b"name=etc", b"\xff", b'{"name": "\xff"}', b"nul", b"[" * 100_000]
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises((HTTPException, InvalidError)) as refused:
        decode_body(body, CreateSource)
    if isinstance(refused.value, HTTPException):
        assert refused.value.status_code == 400


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("body", [b'{"zap": ' + DEEP + b"}", b'{"zap": ' + DEEP + b", NaN}"])
def test_body_that_is_nested_too_deeply_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidError, match="nested too deeply"):
        decode_body(body, EnrollRequest)


def test_envelopes_of_a_batch_stay_raw() -> None:
    batch = decode_body(b'{"envelopes": [{"type": "from the future"}]}', Batch)

    assert bytes(batch.envelopes[0]) == b'{"type": "from the future"}'


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("web-1.example.com", "web-1.example.com"),
        ("web 1_ü", "web-1"),
        ("-x-", "x"),
        ("", "host"),
        ("日本", "host"),
        ("a" * 80, "a" * 63),
        ("0" * 32, "host"),
    ],
)
def test_hostname_becomes_an_acceptable_name(hostname: str, name: str) -> None:
    assert make_acceptable(hostname).startswith(name)


def test_name_that_looks_like_an_id_is_refused() -> None:
    with pytest.raises(InvalidError, match="looks like an id"):
        check_name("0193" * 8)


def _record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("test").makeRecord(
        "test", logging.INFO, "file", 1, message, arguments, None, extra=extra or None
    )


@pytest.mark.parametrize("formatter", [JsonFormatter(), PlainFormatter()], ids=["json", "plain"])
def test_log_line_carries_its_facts_and_no_token(formatter: logging.Formatter) -> None:
    token = build_token(TokenKind.SESSION)

    line = formatter.format(_record("job.%s", token, **facts(job="7", header=f"Bearer {token}")))

    assert token not in line
    assert "bhs_***" in line
    assert "7" in line


@pytest.mark.parametrize(
    "odd", ["\x1b[2J", "\n12:00:00 info a line of its own", "\x9b1m", "\u202e"]
)
def test_value_cannot_steer_the_terminal_that_shows_the_log(odd: str) -> None:
    record = _record("request.%s", odd, **facts(path=odd))
    try:
        raise RuntimeError(odd)
    except RuntimeError:
        record.exc_info = sys.exc_info()

    line = PlainFormatter().format(record)

    assert line.replace("\n", "").isprintable()
    assert line.index("Traceback") == line.index("\n") + 1


@pytest.mark.parametrize("formatter", [JsonFormatter(), PlainFormatter()], ids=["json", "plain"])
def test_traceback_in_the_log_has_no_token(formatter: logging.Formatter) -> None:
    token = build_token(TokenKind.AGENT)
    record = _record("request.failed")
    try:
        raise RuntimeError(token)
    except RuntimeError:
        record.exc_info = sys.exc_info()

    line = formatter.format(record)

    assert "RuntimeError" in line
    assert token not in line


def test_json_log_line_is_one_json_object() -> None:
    line = JsonFormatter().format(_record("two\nlines", **facts(odd=StringIO)))

    assert "\n" not in line
    assert msgspec.json.decode(line)["event"] == "two\nlines"
